"""One image: what its header says, and its pixels as an array."""

import hashlib
import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import InputError, importing, in_words
from batchnorm.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**26  # 8192 × 8192: larger ones are refused before they are decoded
_MOST_BYTES = 4 * MOST_PIXELS  # of the file: what these would take without compression
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF; those by which width and height change places
_SHRUNK_BEFORE = 2  # a JPEG is decoded at a fraction of its size, but not below so many times what is wanted


class UnreadableImage(Exception):  # noqa: N818  # no error: the others are read
    """A file is no image, or a damaged one."""


@dataclass(frozen=True)
class Header:
    """What an image says of itself: upright (width, height), whether it is grey, and the file as it was then."""

    size: tuple[int, int]
    is_grey: bool
    stamp: tuple[int, int, int]


@dataclass(frozen=True)
class Picture:
    """An image's pixels, (height, width) or (3, height, width), and what was done to them."""

    pixels: NDArray[np.uint8]
    was_resized: bool
    was_transparent: bool
    sha256: bytes


def read_header(path: Path) -> Header:
    """Read an image's header.

    Raises
    ------
    UnreadableImage
        If it is none.
    InputError
        If it claims to be larger than any that is read.
    """
    with _file(path) as file, _opened(file, path) as image:
        turned = _is_turned(image)
        size = (image.height, image.width) if turned else image.size
        return Header(size, image.mode in _GREY, _stamp(file))


def read_picture(path: Path, header: Header, size: tuple[int, int], *, grey: bool) -> Picture:
    """Decode an image: upright, its first frame, of the size (width, height), grey or in colour.

    Raises
    ------
    UnreadableImage
        If it is damaged.
    InputError
        If the file is not the one that had this header.
    """
    with _file(path) as file:
        content = file.read()
        if _stamp(file) != header.stamp:
            raise InputError(f"{path} has changed while it was read: try again when nobody writes to it")
    with _opened(io.BytesIO(content), path) as image:
        if header.size != size:
            image.draft(None, (_SHRUNK_BEFORE * max(size), _SHRUNK_BEFORE * max(size)))
        upright, was_transparent = _upright_and_opaque(image)
        plain = upright.convert("L" if grey else "RGB")
        if plain.size != size:
            from PIL.Image import Resampling

            plain = plain.resize(size, Resampling.BILINEAR)
        pixels = np.asarray(plain)
    pixels = pixels if grey else pixels.transpose(2, 0, 1)
    return Picture(pixels, header.size != size, was_transparent, hashlib.sha256(content).digest())


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(path)
    except InputError as error:  # a pipe, or one that may not be read
        raise UnreadableImage(str(error).removeprefix(f"{path} ")) from error
    with file:
        if (n_bytes := os.fstat(file.fileno()).st_size) > _MOST_BYTES:
            raise InputError(f"{path} has {n_bytes:,} bytes, expected an image of at most {_MOST_BYTES:,}")
        yield file


def _stamp(file: IO[bytes]) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def _opened(file: IO[bytes], path: Path) -> Iterator["Image"]:
    """Open an image with Pillow, whose many errors become one, and whose warnings are of no use here."""
    with importing("images", "images need Pillow"):
        from PIL import Image, UnidentifiedImageError
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=_FORMATS) as image:
                if (n := image.width * image.height) > MOST_PIXELS:
                    raise _bomb(path, f"{n:,} pixels ({image.width} × {image.height})")
                yield image
        except (InputError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _bomb(path, "far more pixels") from error
        except UnidentifiedImageError as error:
            raise UnreadableImage("it is no PNG, JPEG, WebP, BMP or GIF") from error
        except Exception as error:  # of a damaged file, from any depth of Pillow's readers
            raise UnreadableImage(in_words(error)) from error


def _bomb(path: Path, claim: str) -> InputError:
    return InputError(f"{path} claims {claim}, expected at most {MOST_PIXELS:,}: scale it down, or remove it")


def _is_turned(image: "Image") -> bool:
    """Tell whether EXIF says so; of a PNG only where that stands before the pixels, which are not decoded for it."""
    if image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(_ORIENTATION) in _TURNED


def _upright_and_opaque(image: "Image") -> "tuple[Image, bool]":
    """Return an image as a person sees it on white, in 8 bits, and whether the white shows."""
    from PIL import Image as Images
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):  # PNG of 16 bits
        return Images.fromarray(_in_8_bits(np.asarray(upright))), False
    if not upright.has_transparency_data:
        return upright, False
    layers = upright.convert("RGBA")
    if layers.getchannel("A").getextrema() == (255, 255):
        return layers.convert("RGB"), False
    white = Images.new("RGBA", layers.size, "white")
    return Images.alpha_composite(white, layers).convert("RGB"), True


def _in_8_bits(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    return (pixels.astype(np.int64) // 257).clip(0, 255).astype(np.uint8)
