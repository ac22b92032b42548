"""A folder of images with a sub-folder per class becomes a data set."""

import hashlib
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.data.dataset import Dataset
from batchnorm.data.own.listing import Files, list_images
from batchnorm.data.own.notices import Notices, files_in_words
from batchnorm.data.own.parts import Part, assemble, usual_name
from batchnorm.data.own.pictures import Header, UnreadableImage, is_grey, read_header, read_picture
from batchnorm.data.scratch import new_array
from batchnorm.errors import BatchnormWarning, InputError
from batchnorm.memory import bytes_in_words, fits_into_memory
from batchnorm.progress import Bar

_COPIES = 2  # in memory at a time: the images, and the parts that are drawn from them


def load_images(
    folder: Path,
    *,
    image_size: tuple[int, int] | None = None,
    split_seed: int = 0,
    name: str | None = None,
    show_progress: bool = False,
) -> Dataset:
    """Load a folder of images; see `load_own`."""
    files, notices = list_images(folder), Notices()
    name = name or usual_name(folder.resolve(), "images")
    with Bar("reading images", show_progress, "images") as bar:
        bar.expect(2 * files.n_images)  # headers, then pixels
        headers = _headers(files, notices, bar)
        size = image_size or _usual_size(headers)
        reader = _Reader(files, headers, size, notices, bar)
        parts = {part: reader.read(part) for part in files.parts}
    if not reader.in_colour:
        parts = {part: (_grey(pixels), labels) for part, (pixels, labels) in parts.items()}
    _warn(files, notices, size)
    origin = {
        "kind": "images",
        "paths": [str(folder.absolute())],
        "image_size": list(size),
        "contents": reader.contents,
    }
    return assemble(
        parts, files.class_names, name=name, source=str(folder.absolute()), split_seed=split_seed, origin=origin
    )


def _warn(files: Files, notices: Notices, size: tuple[int, int]) -> None:
    said = []
    if notices.unreadable:
        said.append(
            f"{files_in_words(len(notices.unreadable))} cannot be read as images, and left out; {notices.unreadable[0]}"
        )
    said += notices.changes(size)
    if files.passed_over:
        first, n = files.passed_over[0], len(files.passed_over)
        said.append(f"{files_in_words(n)} beside the folders of the classes passed over, such as {first}")
    for text in said:
        warnings.warn(f"{files.folder}: {text}", BatchnormWarning, stacklevel=5)


def _headers(files: Files, notices: Notices, bar: Bar) -> dict[Path, Header]:
    headers = {}
    for path in files.all_images():
        try:
            headers[path] = read_header(path)
        except UnreadableImage as error:
            notices.unreadable.append(f"{path}: {error}")
        bar.advance()
    if not headers:
        raise InputError(f"{files.folder} holds no image that can be read; {notices.unreadable[0]}")
    return headers


def _usual_size(headers: Mapping[Path, Header]) -> tuple[int, int]:
    """Return the size that most images have; of several the largest."""
    counts = Counter(header.size for header in headers.values())
    return max(counts, key=lambda size: (counts[size], size[0] * size[1], size))


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if pixels.ndim == 3:
        return pixels
    grey = new_array((len(pixels), *pixels.shape[2:]), pixels.dtype)
    np.copyto(grey, pixels[:, 1])
    return grey


class _Reader:
    """Reads the images of each part, all in colour unless every header says grey."""

    def __init__(self, files: Files, headers: Mapping[Path, Header], size: tuple[int, int], notices: Notices, bar: Bar):
        self.files, self.headers, self.size, self.notices, self.bar = files, headers, size, notices, bar
        self.grey = all(header.is_grey for header in headers.values())
        self.in_colour = False  # whether any pixel is: WebP says that all are
        self.contents: dict[str, Any] = {}
        width, height = size
        self.shape = (height, width) if self.grey else (3, height, width)
        n_bytes = len(headers) * math.prod(self.shape)
        if not fits_into_memory(_COPIES * n_bytes):
            what = f"{len(headers):,} images of {width} × {height} pixels take {bytes_in_words(n_bytes)}"
            warnings.warn(
                f"{files.folder}: {what}, and twice that is more than there is of memory: they go to scratch files in "
                f"{tempfile.gettempdir()} (TMPDIR names another folder), which are removed in the end",
                BatchnormWarning,
                stacklevel=4,
            )

    def read(self, part: str) -> Part:
        """Read all images of a part, with the numbers of their classes."""
        classes = self.files.parts[part]
        images = [path for paths in classes.values() for path in paths if path in self.headers]
        pixels, labels = new_array((len(images), *self.shape), np.dtype(np.uint8), _COPIES), list[int]()
        for label, class_name in enumerate(self.files.class_names):
            if class_name not in classes:
                continue
            n_read = self._read_class(classes[class_name], self.files.key(part, class_name), pixels[len(labels) :])
            labels += [label] * n_read
        return pixels[: len(labels)], np.array(labels, np.int64)

    def _read_class(self, paths: list[Path], key: str, pixels: NDArray[np.uint8]) -> int:
        n, digest = 0, hashlib.sha256()
        for path in paths:
            if path not in self.headers:
                continue
            try:
                picture = read_picture(path, self.headers[path], self.size, grey=self.grey)
            except UnreadableImage as error:
                self.notices.unreadable.append(f"{path}: {error}")
                continue
            finally:
                self.bar.advance()
            pixels[n] = picture.pixels
            self.in_colour = self.in_colour or not (self.grey or is_grey(pixels[n]))
            self.notices.count(picture)
            digest.update(path.name.encode(errors="surrogateescape") + b"\0" + picture.sha256)
            n += 1
        if n == 0:
            first = next((text for text in self.notices.unreadable if text.startswith(f"{paths[0]}: ")), "")
            raise InputError(f"{self.files.folder / key} holds no image that can be read; {first}")
        self.contents[key] = {"size": n, "sha256": digest.hexdigest()}
        return n
