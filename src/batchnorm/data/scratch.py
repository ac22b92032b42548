"""Scratch files: what is too large for memory lies in one while it is trained on, and is mapped."""

import math
import mmap
import os
import tempfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import BatchnormError
from batchnorm.memory import fits_into_memory

KEPT_BYTES = 2**29  # of a mapped file that stay in memory
_MAPPED_AT_ONCE = 2**21  # bytes at most around one that is read, by Linux
_ROWS_AT_ONCE = 64
_ZEROS = bytes(2**20)


def scratch_file(folder: Path, write: Callable[[BinaryIO], None]) -> BinaryIO:
    """Return a new file that was written to: without a name where the system allows that, and gone when closed.

    Raises
    ------
    BatchnormError
        If it cannot be made or written.
    """
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=folder))
            write(file)
            file.flush()
        except OSError as error:
            raise BatchnormError(
                f"the scratch file in {folder} cannot be written ({error.strerror or error}): what is larger than "
                "memory needs as much room there"
            ) from error
        stack.pop_all()  # it stays open
    return file


def new_array(shape: tuple[int, ...], dtype: np.dtype[Any], copies: int = 1) -> NDArray[Any]:
    """Return a new array: in memory or, if so many copies of it are more than there is, in a mapped scratch file.

    The file is in the folder for temporary ones, and gone with the array.
    """
    n_bytes = math.prod(shape) * dtype.itemsize
    if fits_into_memory(copies * n_bytes):
        return np.empty(shape, dtype)
    with scratch_file(Path(tempfile.gettempdir()), lambda file: _reserve(file, n_bytes)) as file:
        return np.memmap(file, dtype, "r+", shape=shape)


def _reserve(file: BinaryIO, n_bytes: int) -> None:
    """Have the disk give its room now: a page that it has none for would end the process when it is written to."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, n_bytes)
        return
    for start in range(0, n_bytes, len(_ZEROS)):
        file.write(_ZEROS[: n_bytes - start])


class MappedRows:
    """A table of numbers in a scratch file, of which about `KEPT_BYTES` stay in memory however much is read.

    It is read as an array is, by rows.

    Parameters
    ----------
    blocks : iterable of array, shape (rows, columns)
        All rows, one under the other.
    shape : tuple of int
        Rows and columns.
    dtype : numpy.dtype
    folder : Path
        Where the file is made.
    """

    def __init__(self, blocks: Iterable[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], folder: Path):
        def write(file: BinaryIO) -> None:
            for block in blocks:
                file.write(np.ascontiguousarray(block, dtype=dtype).data)

        with scratch_file(folder, write) as file:
            self._map = mmap.mmap(file.fileno(), math.prod(shape) * dtype.itemsize, access=mmap.ACCESS_READ)
        self._cells = np.frombuffer(self._map, dtype).reshape(shape)
        self._mapped_bytes = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self._cells.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self._cells.dtype

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, rows: NDArray[np.int64] | slice) -> NDArray[Any]:
        if isinstance(rows, slice):
            found = self._cells[rows]
            self._expect(found.nbytes)
            return found
        found = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            piece = slice(start, start + _ROWS_AT_ONCE)
            self._expect(len(rows[piece]) * _MAPPED_AT_ONCE)
            found[piece] = self._cells[rows[piece]]
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self._cells, dtype=dtype)

    def _expect(self, n_bytes: int) -> None:
        """Let go of what was read if so much more would be too much: the system's cache has it, as long as it can."""
        self._mapped_bytes += n_bytes
        if self._mapped_bytes > KEPT_BYTES:
            self._mapped_bytes = n_bytes
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)
