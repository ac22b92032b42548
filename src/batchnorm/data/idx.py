"""IDX files, the format of MNIST: read with every claim of the header checked, and written.

Layout, all numbers big-endian::

    2 bytes     zero
    1 byte      type of the elements (see `_TYPES`)
    1 byte      number of dimensions d
    d × 4 bytes size of each dimension
    elements    the last dimension runs fastest

Source: the description of the format on the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import io
import math
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import InputError
from batchnorm.files import open_regular, write_atomically

_TYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}
_GZIP_MAGIC = b"\x1f\x8b"
_GZIP_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
_GZIP_WBITS = 31  # zlib's: with the header and the checksum of gzip
_PACKED_BYTES = 1 << 13  # read at a time; a member may end anywhere in it, and what follows is copied
_PIECE_BYTES = 1 << 16
_MOST_SURPLUS = 1 << 16  # bytes of a gzip file that may hold no content: headers, checksums, empty members, zeros
_DEFLATE_MAX_RATIO = 1032  # no deflate stream expands further: bounds what a header may claim
_MOST_DIMENSIONS = 64  # numpy's


def read_idx(path: str | Path) -> NDArray[Any]:
    """Read an IDX file, compressed with gzip or not (its first bytes tell, not its name).

    Nothing that the header claims is trusted before it is checked against the file's length. Memory grows with what
    the file turns out to hold, and up to nine eighths of the array.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray
        Of the shape and type that the header gives, in the machine's byte order.

    Raises
    ------
    InputError
        If the file is not an IDX file, is truncated, damaged, longer than its header says, or too large for memory.
    OSError
        If it cannot be opened.
    """
    path = Path(path)
    with open_regular(path) as raw:
        compressed = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        size = os.fstat(raw.fileno()).st_size
        if not compressed:
            return _read(raw, path, most_bytes=size)
        try:
            return _read(io.BufferedReader(_Members(raw)), path, most_bytes=size * _DEFLATE_MAX_RATIO)
        except _GZIP_ERRORS as error:
            raise InputError(f"{path}: the gzip stream is truncated or damaged ({error})") from error


def write_idx(path: str | Path, array: NDArray[Any]) -> None:
    """Write an array as an IDX file, compressed with gzip if the name ends in ".gz".

    The same array gives the same bytes. The file appears whole or not at all.

    Parameters
    ----------
    path : str or Path
    array : ndarray
        Of 8-bit, signed 16- or 32-bit integers, or of 32- or 64-bit floats; at most 64 dimensions.

    Raises
    ------
    InputError
        If IDX has no type for the array's, or no room for its sizes.
    """
    path = Path(path)
    if np.ma.is_masked(array):
        raise InputError("the array has masked values, which IDX has not: fill them by .filled(…)")
    array = np.asarray(array)
    dtype = array.dtype.newbyteorder(">")
    code = next((code for code, known in _TYPES.items() if known == dtype), None)
    if code is None:
        names = ", ".join(known.newbyteorder("=").name for known in _TYPES.values())
        raise InputError(f"IDX cannot hold {array.dtype.name}, only {names}: convert the array with astype")
    if any(size >= 2**32 for size in array.shape):
        raise InputError(f"IDX cannot hold shape {array.shape}, only sizes below 2³²")
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    content = header + array.astype(dtype).tobytes()
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


class _Members(io.RawIOBase):
    """The content of a gzip file: of its members, one behind the other; zeros may stand between and behind them.

    `gzip.GzipFile` reads their headers byte by byte, however long and however many they are. Here zlib does, and a file
    that is longer than twice its content and a surplus is refused.
    """

    def __init__(self, file: io.BufferedReader):
        self._file, self._packed = file, b""
        self._member = zlib.decompressobj(_GZIP_WBITS)
        self._n_packed = self._n_content = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = b""
        while not content:
            if not self._packed and not self._read_on():
                return 0
            if self._member.eof:
                self._packed = self._packed.lstrip(b"\0")
                if not self._packed:
                    continue
                self._member = zlib.decompressobj(_GZIP_WBITS)
            content = self._member.decompress(self._packed, len(buffer))
            self._packed = self._member.unused_data or self._member.unconsumed_tail
        buffer[: len(content)] = content
        self._n_content += len(content)
        return len(content)

    def _read_on(self) -> bool:
        """Read more of the file; return False where it ends behind a member."""
        if self._n_packed > 2 * self._n_content + _MOST_SURPLUS:
            raise gzip.BadGzipFile(
                f"its first {self._n_packed:,} bytes hold no more than {self._n_content:,} of content"
            )
        self._packed = self._file.read(_PACKED_BYTES)
        self._n_packed += len(self._packed)
        if not self._packed and not self._member.eof:
            raise EOFError("it ends within a member")
        return bool(self._packed)


def _read(file: io.BufferedReader, path: Path, most_bytes: int) -> NDArray[Any]:
    magic = file.read(4)
    if len(magic) < 4:
        raise InputError(f"{path}: truncated: expected a 4-byte IDX header, found {len(magic)} bytes")
    if magic[:2] != b"\0\0" or magic[2] not in _TYPES:
        raise InputError(
            f"{path}: not an IDX file: expected two zero bytes and a type from 0x08 to 0x0e, found 0x{magic.hex()}"
        )
    dtype, n_dimensions = _TYPES[magic[2]], magic[3]
    if n_dimensions > _MOST_DIMENSIONS:
        raise InputError(f"{path}: {n_dimensions} dimensions, expected at most {_MOST_DIMENSIONS}")
    sizes = file.read(4 * n_dimensions)
    if len(sizes) < 4 * n_dimensions:
        raise InputError(
            f"{path}: truncated: the header announces {n_dimensions} dimensions, found the sizes of {len(sizes) // 4}"
        )
    shape = struct.unpack(f">{n_dimensions}I", sizes)
    expected = math.prod(shape) * dtype.itemsize
    if expected > most_bytes:
        raise InputError(
            f"{path}: truncated or damaged: shape {shape} needs {expected:,} bytes, "
            f"more than the file can hold ({most_bytes:,})"
        )
    if math.prod(size or 1 for size in shape) * dtype.itemsize > sys.maxsize:  # numpy's limit, of empty arrays too
        raise InputError(f"{path}: damaged: no array can have the shape {shape}")
    content = bytearray()
    try:
        while piece := file.read1(min(_PIECE_BYTES, expected + 1 - len(content))):
            content += piece
    except _GZIP_ERRORS as error:  # tell how far it can be read
        raise InputError(
            f"{path}: truncated or damaged: shape {shape} needs {expected:,} bytes, "
            f"found {len(content):,} before this: {error}"
        ) from error
    except MemoryError as error:
        raise InputError(f"{path}: shape {shape} needs {expected:,} bytes, more than there is memory") from error
    if len(content) < expected:
        raise InputError(f"{path}: truncated: shape {shape} needs {expected:,} bytes, found {len(content):,}")
    if len(content) > expected:
        raise InputError(f"{path}: damaged: it goes on after the {expected:,} bytes that shape {shape} needs")
    array: NDArray[Any] = np.frombuffer(content, dtype).reshape(shape)
    native = dtype.newbyteorder("=")
    # In place: a second copy may be one too many.
    return array if dtype == native else array.byteswap(inplace=True).view(native)
