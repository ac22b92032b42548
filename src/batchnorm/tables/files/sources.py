"""The bytes of a file or of standard input: opened, unpacked and decoded as a stream that is watched."""

import atexit
import codecs
import gc
import io
import os
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchnorm.errors import BatchnormError, InputError
from batchnorm.files import check_regular, open_regular
from batchnorm.progress import reading_bar
from batchnorm.tables.files.recognition import compression_of

SAMPLE_BYTES = 1 << 22  # by which encoding, delimiter and the like are recognised
_MAGIC_BYTES = 16
_LONGEST_CAUSE = 300
_PATIENCE = 5.0  # seconds


class Unexpected(Exception):  # noqa: N818  # no error yet: it may be read in another way
    """A file is not as it was recognised to be."""


class UndecodableError(Unexpected):
    """Bytes that are not of the encoding that was recognised; `piece` is what holds them."""

    def __init__(self, piece: bytes):
        super().__init__("undecodable")
        self.piece = piece


@contextmanager
def told_of(name: str, what: str = "cannot be read") -> Iterator[None]:
    """Turn what pyarrow raises into an `InputError` of one line that names the file."""
    try:
        yield
    except (BatchnormError, Unexpected):
        raise
    except Exception as error:  # pyarrow's own, and those of Python that it lets through: of keys, of types, of codecs
        raise InputError(f"{name} {what}: {cause_in_words(error)}") from error


def cause_in_words(error: BaseException) -> str:
    """Return what pyarrow says, in one line, without what is meant for programmers."""
    said = " ".join(str(error).split()) or type(error).__name__
    said = said.split(". Detail:")[0]
    if isinstance(error, MemoryError):
        return f"it is damaged, or needs more memory than there is ({said[:_LONGEST_CAUSE]})"
    return said if len(said) <= _LONGEST_CAUSE else f"{said[:_LONGEST_CAUSE]}…"


class Source:
    """A file, or standard input, which can be read once.

    Parameters
    ----------
    path : Path
        "-" for standard input.
    show_progress : bool, default False
        Whether to show a bar as the file is read.

    Raises
    ------
    InputError
        If it is no regular file, or empty.
    """

    def __init__(self, path: Path, show_progress: bool = False):
        self.path, self._show_progress = path, show_progress
        self.is_stream = str(path) == "-"
        self.name = "standard input" if self.is_stream else str(path)
        self._rest: Any = None
        if not self.is_stream:
            check_regular(path)
            with open_regular(path) as file:
                self._stamp = _stamp(file.fileno())
        with told_of(self.name):
            head, self.compression = self._begin()
        if not head:
            raise InputError(f"{self.name} is empty, expected a table")
        self.sample = head

    @property
    def is_whole(self) -> bool:
        """Whether the sample is everything."""
        return len(self.sample) < SAMPLE_BYTES

    def _begin(self) -> tuple[bytes, str | None]:
        if self.is_stream:
            file = sys.stdin.buffer
            magic = file.read(_MAGIC_BYTES)
            self._rest = _unpacked(io.BufferedReader(_Behind(magic, file)), compression_of(magic))
            return self._rest.read(SAMPLE_BYTES), compression_of(magic)
        with self._opened() as file:
            compression = compression_of(file.read(_MAGIC_BYTES))
            file.seek(0)
            return _unpacked(file, compression).read(SAMPLE_BYTES), compression

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the file, and check before and afterwards that it is still the same."""
        with open_regular(self.path) as file:
            descriptor = os.dup(file.fileno())  # pyarrow closes files as it pleases
            try:
                self._check(descriptor)
                with reading_bar(file, f"reading {self.path.name}", show=self._show_progress) as told:
                    yield told
                self._check(descriptor)
            finally:
                os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        if _stamp(descriptor) != self._stamp:
            raise InputError(f"{self.name} has changed while it was read: try again when nobody writes to it")

    @contextmanager
    def raw(self) -> Iterator[Any]:
        """Open the file as it is."""
        with self._opened() as file:
            yield file

    @contextmanager
    def text(self, encoding: str) -> Iterator[io.BufferedReader]:
        """Open what was unpacked, as UTF-8."""
        if self.is_stream:
            if self._rest is None:
                raise InputError("standard input can be read once: write it to a file first")
            rest, self._rest = self._rest, None
            yield as_utf8(_Behind(self.sample, rest), encoding, self.name)
        else:
            with self._opened() as file:
                yield as_utf8(_unpacked(file, self.compression), encoding, self.name)


class _LentText:
    """A text that is lent to pyarrow, whose threads may hold it for a while after an error."""

    closed = False

    def __init__(self, text: Any):
        self._text = text

    def read(self, n: int) -> bytes:
        found: bytes = self._text.read(n)
        return found

    def close(self) -> None:
        """Do nothing: whoever lends it closes it."""


_given_up: weakref.WeakSet[_LentText] = weakref.WeakSet()


@contextmanager
def lent(text: Any) -> Iterator[pa.PythonFile]:
    """Give pyarrow a text to read in its threads.

    A thread that lets go of an object of Python's after Python's end ends the process by a signal, so that its end
    waits until those of texts that were lent have.
    """
    held = _LentText(text)
    try:
        yield pa.PythonFile(held, mode="r")
    finally:
        _given_up.add(held)


@atexit.register
def _wait_for_threads() -> None:
    gc.collect()  # tracebacks hold readers
    end = time.monotonic() + _PATIENCE
    while _given_up and time.monotonic() < end:
        time.sleep(0.001)


def _stamp(descriptor: int) -> tuple[int, int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns, found.st_ino


def _unpacked(file: Any, compression: str | None) -> Any:
    return file if compression is None else pa.CompressedInputStream(pa.PythonFile(file, mode="r"), compression)


class _Behind(io.RawIOBase):
    """What was read already, and behind it the rest of a file."""

    def __init__(self, begun: bytes, rest: Any):
        self._begun, self._rest = begun, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._begun:
            piece, self._begun = self._begun[: len(buffer)], self._begun[len(buffer) :]
        else:
            piece = self._rest.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def as_utf8(file: Any, encoding: str, name: str) -> io.BufferedReader:
    """Return a text as a stream of UTF-8 without the mark of its byte order."""
    return io.BufferedReader(_Utf8(file, encoding, name), 1 << 18)


class _Utf8(io.RawIOBase):
    """A text of any encoding as UTF-8; what is not of that encoding raises `UndecodableError`."""

    def __init__(self, file: Any, encoding: str, name: str):
        self._file, self._name = file, name
        self._is_utf8 = encoding.startswith("utf-8")
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready, self._is_over, self._within_sign = b"", False, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._is_over:
            piece = self._file.read(len(buffer))
            self._is_over = not piece
            self._ready = self._decoded(piece)
        piece, self._ready = self._ready[: len(buffer)], self._ready[len(buffer) :]
        if b"\0" in piece:
            raise InputError(f"{self._name} holds NUL bytes: it is damaged, or no text")
        buffer[: len(piece)] = piece
        return len(piece)

    def _decoded(self, piece: bytes) -> bytes:
        if self._is_utf8 and piece.isascii() and piece and not self._within_sign:
            return piece
        try:
            text = self._decoder.decode(piece, final=self._is_over)
        except UnicodeDecodeError as error:
            raise UndecodableError(piece or error.object) from error
        self._within_sign = bool(self._decoder.getstate()[0])
        return text.encode()
