"""Bars on standard error for long work. Without a terminal, or without the package rich, there are none."""

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BEFORE_IT_APPEARS = 0.5
_WIDE = 80  # columns
_LONG_FILE = 2**25  # bytes


def shows_bars() -> bool:
    """Tell whether a bar can be shown: what rich itself calls a terminal can be forced by the environment."""
    return is_terminal(sys.stderr) and importlib.util.find_spec("rich") is not None


def is_narrow() -> bool:
    """Tell whether the terminal leaves no room for more than a bar and what matters most beside it."""
    from rich.console import Console

    return Console(stderr=True).width < _WIDE


def new_progress(*columns: Any) -> "Progress":
    """Return rich's progress display on standard error, which disappears at the end.

    Parameters
    ----------
    *columns : rich.progress.ProgressColumn or str
        A str is a template such as "{task.description}".
    """
    from rich.console import Console
    from rich.progress import Progress, TextColumn

    return Progress(
        *(TextColumn(column, markup=False) if isinstance(column, str) else column for column in columns),
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=is_terminal(sys.stdout),  # then lines that are printed meanwhile appear above the bar
        redirect_stderr=False,
    )


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether a stream is a terminal; one that is closed is None, or says so by an error."""
    return stream is not None and not stream.closed and stream.isatty()


def is_standard_output_shown() -> bool:
    """Tell whether lines on standard output would run into a bar: both are on the terminal."""
    return is_terminal(sys.stdout)


class Bar:
    """A bar for work of many steps, which appears when the work turns out to be long.

    Parameters
    ----------
    description : str
    show : bool
        Whether to show it where that is possible.
    unit : str, default "forward passes"
        What the steps are.
    """

    def __init__(self, description: str, show: bool, unit: str = "forward passes"):
        self.description, self._unit = description, unit
        self._show = show and shows_bars()
        self._total = self._done = 0
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            with suppress(OSError):  # a terminal that is gone
                self._progress.stop()

    def expect(self, steps: int) -> None:
        """Say that so many steps are to come, beside those announced before."""
        self._total += steps

    def advance(self, steps: int = 1) -> None:
        """Say that a step is done, or several."""
        self._done += steps
        if not self._show or time.monotonic() - self._begun < _SECONDS_BEFORE_IT_APPEARS:
            return
        if self._progress is None:
            self._progress = self._new_progress()
            self._task = self._progress.add_task("")
            self._progress.start()
        total = self._total if self._total >= self._done else None  # not known yet
        self._progress.update(self._task, description=self.description, completed=self._done, total=total)

    def _new_progress(self) -> "Progress":
        from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

        narrow = is_narrow()
        bar = BarColumn(bar_width=None if narrow else 40)
        what = () if narrow else (self._unit,)
        return new_progress("{task.description}", bar, MofNCompleteColumn(), *what, TimeRemainingColumn(compact=True))


class DownloadBar:
    """A bar for the bytes of one file, as they are downloaded or read: what `load_dataset` takes as ``progress``."""

    def __init__(self, name: str):
        from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

        narrow = is_narrow()
        bar, speed = BarColumn(bar_width=None if narrow else 40), () if narrow else (TransferSpeedColumn(),)
        self._progress = new_progress("{task.description}", bar, DownloadColumn(), *speed)
        self._progress.disable = not shows_bars()
        self._task = self._progress.add_task(Path(name).name if narrow else name, total=None)

    @property
    def total(self) -> int:
        """Size of the file in bytes."""
        return int(self._progress.tasks[0].total or 0)

    @total.setter
    def total(self, total: int) -> None:
        self._progress.update(self._task, total=total)
        self._progress.start()  # not before: a mirror may not answer

    def update(self, n: int) -> None:
        """Say that `n` more bytes are there."""
        self._progress.advance(self._task, n)

    def close(self) -> None:
        """Take the bar away."""
        self._progress.stop()


@contextmanager
def reading_bar(file: BinaryIO, name: str, *, show: bool) -> Iterator[Any]:
    """Give a file that tells on a bar how much of it was read, if it is long."""
    size = os.fstat(file.fileno()).st_size
    if not show or size < _LONG_FILE or not shows_bars():
        yield file
        return
    bar = DownloadBar(name)
    bar.total = size
    try:
        yield _Counted(file, bar)
    finally:
        bar.close()


class _Counted:
    """A file of which a bar counts the bytes that are read."""

    def __init__(self, file: BinaryIO, bar: DownloadBar):
        self._file, self._bar = file, bar

    def read(self, n: int = -1) -> bytes:
        piece = self._file.read(n)
        self._bar.update(len(piece))
        return piece

    def readinto(self, buffer: Any) -> int:
        n: int = self._file.readinto(buffer)  # type: ignore[attr-defined]  # of a buffered file
        self._bar.update(n)
        return n

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
