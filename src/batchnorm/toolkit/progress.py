"""A bar for work of many passes, at a terminal."""

import sys
import time
from types import TracebackType
from typing import Any, Self

_SECONDS_BEFORE_IT_APPEARS = 0.5


class Bar:
    """A progress bar on standard error, which appears when the work turns out to be long.

    Parameters
    ----------
    description : str
    show : bool
        Without a terminal there is no bar in any case.
    """

    def __init__(self, description: str, show: bool):
        self.description = description
        self._show = show and sys.stderr.isatty()
        self._total = self._done = 0
        self._progress: Any = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def expect(self, steps: int) -> None:
        """Say that so many steps are to come, beside those announced before."""
        self._total += steps

    def advance(self) -> None:
        """Say that a step is done."""
        self._done += 1
        if not self._show or time.monotonic() - self._begun < _SECONDS_BEFORE_IT_APPEARS:
            return
        if self._progress is None:
            self._progress = _new_progress()
            self._task = self._progress.add_task("")
            self._progress.start()
        total = self._total if self._total >= self._done else None  # not known yet
        self._progress.update(self._task, description=self.description, completed=self._done, total=total)


def _new_progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("forward passes"),
        TimeRemainingColumn(compact=True), console=Console(stderr=True), transient=True,
        redirect_stdout=sys.stdout.isatty(), redirect_stderr=False,
    )  # fmt: skip
