"""One image: what its header says, and its pixels as an array."""

import hashlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.data.signature import Signature
from batchnorm.errors import InputError, importing, in_words
from batchnorm.files import open_regular

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**26  # 8192 × 8192: larger ones are refused before they are decoded
_MOST_BYTES = 4 * MOST_PIXELS  # of the file: what these would take without compression
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L")
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # of EXIF; those by which width and height change places
_ROUNDED = 1  # so far apart are the colours of a grey pixel in WebP, which has no grey of its own
_FILTERS = threading.Lock()  # those of warnings are the whole process'
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
    was_coloured: bool = False  # and is grey, as those of the training


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
        return Header(_upright_size(image), image.mode in _GREY, _stamp(file))


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
        return _decoded(_content(file, path, header.stamp), path, size, grey=grey)


def read_image(
    source: Path | bytes, signature: Signature, name: str = "the image", *, most_pixels: int = MOST_PIXELS
) -> Picture:
    """Read one image as the images were read that a run was trained on; may be called in several threads.

    It is made upright and resized to their size, what is transparent gets white, and colours go where there were none.

    Parameters
    ----------
    source : Path or bytes
        A file, or its content: PNG, JPEG, WebP, BMP or GIF.
    signature : Signature
        The run's.
    name : str, default "the image"
        What errors call it if it is no file.
    most_pixels : int, default 2**26
        Of an image. To decode one takes up to 33 bytes for each.

    Returns
    -------
    Picture
        Whose `pixels`, `uint8`, have the shape ``signature.feature_shape``: ``run.predict(pixels[None])``.

    Raises
    ------
    InputError
        If the run was not trained on images, or this is none, a damaged one, one that is too large, or changes while
        it is read.
    """
    if (size := signature.image_size) is None:
        raise InputError(
            f"the run was trained on inputs of shape {signature.feature_shape} and type {signature.dtype}, multiplied "
            f"with {signature.scale:g}, not on images of 8 bits: give arrays of such"
        )
    what = str(source) if isinstance(source, Path) else name
    try:
        content = source if isinstance(source, bytes) else _content_of(source)
        _check_length(len(content), what)
        return _in_colours_of(content, what, size, grey=signature.is_grey, most_pixels=most_pixels)
    except UnreadableImage as error:
        raise InputError(f"{what}: {error}") from error


def is_grey(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether an image (3, height, width) has no colour, but for what WebP makes of grey."""
    return int((pixels.max(0) - pixels.min(0)).max()) <= _ROUNDED


def _in_colours_of(content: bytes, name: str, size: tuple[int, int], *, grey: bool, most_pixels: int) -> Picture:
    picture = _decoded(content, name, size, grey=False, most_pixels=most_pixels)
    if not grey:
        return picture
    if is_grey(picture.pixels):
        return replace(picture, pixels=picture.pixels[1])
    return replace(_decoded(content, name, size, grey=True), was_coloured=True)


def _decoded(
    content: bytes, name: str | Path, size: tuple[int, int], *, grey: bool, most_pixels: int = MOST_PIXELS
) -> Picture:
    with _opened(io.BytesIO(content), name, most_pixels) as image:
        was_resized = _upright_size(image) != size
        if was_resized:
            image.draft(None, (_SHRUNK_BEFORE * max(size), _SHRUNK_BEFORE * max(size)))
        upright, was_transparent = _upright_and_opaque(image)
        plain = upright.convert("L" if grey else "RGB")
        if plain.size != size:
            from PIL.Image import Resampling

            plain = plain.resize(size, Resampling.BILINEAR)
        pixels = np.asarray(plain)
    pixels = pixels if grey else pixels.transpose(2, 0, 1)
    return Picture(pixels, was_resized, was_transparent, hashlib.sha256(content).digest())


def _upright_size(image: "Image") -> tuple[int, int]:
    return (image.height, image.width) if _is_turned(image) else image.size


def _content_of(path: Path) -> bytes:
    with _file(path) as file:
        return _content(file, path, _stamp(file))


def _content(file: IO[bytes], path: Path, stamp: tuple[int, int, int]) -> bytes:
    """Return all of a file, if it still is the one that had this stamp."""
    content = file.read()
    if _stamp(file) != stamp:
        raise InputError(f"{path} has changed while it was read: try again when nobody writes to it")
    return content


@contextmanager
def _file(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(path)
    except InputError as error:  # a pipe, or one that may not be read
        raise UnreadableImage(str(error).removeprefix(f"{path} ")) from error
    with file:
        _check_length(os.fstat(file.fileno()).st_size, path)
        yield file


def _check_length(n_bytes: int, name: str | Path) -> None:
    if n_bytes > _MOST_BYTES:
        raise InputError(f"{name} has {n_bytes:,} bytes, expected an image of at most {_MOST_BYTES:,}")


def _stamp(file: IO[bytes]) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino


@contextmanager
def _opened(file: IO[bytes], name: str | Path, most_pixels: int = MOST_PIXELS) -> Iterator["Image"]:
    """Open an image with Pillow, whose many errors become one, and whose warnings are of no use here."""
    with importing("images", "images need Pillow"):
        from PIL import Image, UnidentifiedImageError
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=_FORMATS) as image:
                if (n := image.width * image.height) > most_pixels:
                    raise _bomb(name, f"{n:,} pixels ({image.width} × {image.height})", most_pixels)
                yield image
        except (InputError, MemoryError):
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _bomb(name, "far more pixels", most_pixels) from error
        except UnidentifiedImageError as error:
            raise UnreadableImage("it is no PNG, JPEG, WebP, BMP or GIF") from error
        except Exception as error:  # of a damaged file, from any depth of Pillow's readers
            raise UnreadableImage(in_words(error)) from error


def _bomb(name: str | Path, claim: str, most: int) -> InputError:
    return InputError(f"{name} claims {claim}, expected at most {most:,}: scale it down, or remove it")


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
