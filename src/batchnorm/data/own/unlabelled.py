"""Files to predict: images, and arrays of inputs without labels, a block at a time."""

import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from batchnorm.data.idx import read_idx
from batchnorm.data.own.arrays import read_npy_header, watched
from batchnorm.data.own.listing import list_files
from batchnorm.data.own.notices import Notices
from batchnorm.data.own.pictures import read_image
from batchnorm.data.signature import Signature
from batchnorm.errors import InputError
from batchnorm.files import open_regular
from batchnorm.memory import check_data_memory

_BLOCK_BYTES, _MOST_ROWS = 2**24, 10_000
_MOST_IMAGES = 100  # at a time: photographs take long, and a bar is waited for
_MAGIC = 4  # bytes that tell files of arrays
_IDX = re.compile(rb"\x1f\x8b|\0\0[\x08-\x0e]", re.DOTALL)

Block = tuple[list[str] | None, NDArray[Any]]


@dataclass
class ImageFiles:
    """Images. Iterating gives blocks: names of files, and pixels (block, *feature_shape).

    Parameters
    ----------
    paths : sequence of Path
    signature : Signature
        Of the run that predicts: each becomes as those that it was trained on.
    """

    paths: Sequence[Path]
    signature: Signature
    notices: Notices = field(default_factory=Notices, init=False)

    def __iter__(self) -> Iterator[Block]:
        size = min(_MOST_IMAGES, _rows_at_a_time(np.dtype(np.uint8), self.signature))
        for start in range(0, len(self.paths), size):
            names, pixels = list[str](), list[NDArray[np.uint8]]()
            for path in self.paths[start : start + size]:
                try:
                    picture = read_image(path, self.signature)
                except InputError as error:  # which begins with its name; the others are read
                    self.notices.unreadable.append(str(error))
                    continue
                self.notices.count(picture)
                names.append(_as_text(path))
                pixels.append(picture.pixels)
            if names:
                yield names, np.stack(pixels)
        if not self.notices.read:
            raise InputError(
                f"none of {len(self.paths):,} files is an image that can be read; {self.notices.unreadable[0]}"
            )


@dataclass(frozen=True)
class ArrayFile:
    """An NPZ, NPY or IDX file of inputs. Iterating gives blocks: no names, and inputs (block, *feature_shape).

    Memory does not grow with an NPY or NPZ file; an IDX file, and an array in Fortran's order, is read wholly.

    Parameters
    ----------
    path : Path
    signature : Signature
        Of the run that predicts.
    """

    path: Path
    signature: Signature

    def __iter__(self) -> Iterator[Block]:
        with watched(self.path) as file:
            magic = file.read(_MAGIC)
            file.seek(0)
            if magic.startswith(b"PK"):
                with zipfile.ZipFile(file) as archive:
                    info = _inputs_in(archive, self.path)
                    with archive.open(info) as member:
                        yield from self._of_npy(member, info.file_size, f"{info.filename} in {self.path}")
            elif _IDX.match(magic):
                yield from self._of_array(read_idx(self.path), str(self.path))
            else:
                yield from self._of_npy(file, os.fstat(file.fileno()).st_size, str(self.path))

    def _of_npy(self, file: IO[bytes], size: int, what: str) -> Iterator[Block]:
        shape, is_fortran, dtype = read_npy_header(file, size, what)
        self._check(shape, dtype, what)
        if is_fortran:
            check_data_memory(what, 2 * size, "save it by numpy.ascontiguousarray")
            file.seek(0)
            yield from self._of_array(npy.read_array(file, allow_pickle=False), what)
            return
        n_bytes = dtype.itemsize * int(np.prod(shape[1:]))
        rows = _rows_at_a_time(dtype, self.signature)
        for start in range(0, shape[0], rows):
            wanted = n_bytes * min(rows, shape[0] - start)
            content = file.read(wanted)
            if len(content) < wanted:
                raise InputError(f"{what} has changed while it was read: try again when nobody writes to it")
            yield None, np.frombuffer(content, dtype).reshape(-1, *shape[1:])
        file.read(1)  # with which an archive's member is compared with its checksum

    def _of_array(self, array: NDArray[Any], what: str) -> Iterator[Block]:
        self._check(array.shape, array.dtype, what)
        rows = _rows_at_a_time(array.dtype, self.signature)
        for start in range(0, len(array), rows):
            yield None, array[start : start + rows]

    def _check(self, shape: tuple[int, ...], dtype: np.dtype[Any], what: str) -> None:
        try:
            self.signature.check(shape, dtype)
        except InputError as error:
            raise InputError(f"{what}: {error}") from error


def open_unlabelled(paths: Sequence[Path], signature: Signature) -> ImageFiles | list[ArrayFile]:
    """Return what is to be predicted; files are told by their content.

    Parameters
    ----------
    paths : sequence of Path
        Images and folders of such, with or without folders in them; or NPZ, NPY and IDX files.
    signature : Signature
        Of the run that predicts.

    Raises
    ------
    InputError
        If a path is missing, there are images and arrays, or a folder holds nothing or a link that leads out of it.
    """
    arrays = [path for path in paths if not path.is_dir() and _holds_arrays(path)]
    if not arrays:
        if signature.image_size is None:
            raise InputError(
                f"{paths[0]} is no NPZ, NPY or IDX file, expected arrays of shape (examples, "
                f"{', '.join(map(str, signature.feature_shape))}), as the run was not trained on images"
            )
        return ImageFiles([file for path in paths for file in _files(path)], signature)
    if other := [path for path in paths if path not in arrays]:
        raise InputError(f"{arrays[0]} holds arrays and {other[0]} does not: name the one kind or the other")
    return [ArrayFile(path, signature) for path in arrays]


def _files(path: Path) -> list[Path]:
    return list_files(path) if path.is_dir() else [path]


def _holds_arrays(path: Path) -> bool:
    with open_regular(path) as file:
        magic = file.read(_MAGIC)
    return magic.startswith((npy.MAGIC_PREFIX[:_MAGIC], b"PK")) or _IDX.match(magic) is not None


def _inputs_in(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    """Return the array of an NPZ file that is called as inputs are, or the only one."""
    members = archive.infolist()
    named = [info for info in members if info.filename.removesuffix(".npy").lower() in ("x", "inputs")]
    if len(found := named or members) != 1:
        names = ", ".join(info.filename.removesuffix(".npy") for info in members)
        raise InputError(f"{path} holds {names or 'nothing'}, expected one array named X or inputs")
    return found[0]


def _rows_at_a_time(dtype: np.dtype[Any], signature: Signature) -> int:
    return max(1, min(_MOST_ROWS, _BLOCK_BYTES // (dtype.itemsize * int(np.prod(signature.feature_shape)))))


def _as_text(path: Path) -> str:
    """Return a path as text, whatever bytes it has; other paths are other texts."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
