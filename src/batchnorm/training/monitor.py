"""What a training tells while it runs, and who shows it to a person. The training itself prints nothing."""

import copy
import sys
import time
import warnings
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

from batchnorm.config import TrainingConfig
from batchnorm.errors import BatchnormWarning, InputError, check_kind
from batchnorm.printing import printable
from batchnorm.progress import is_narrow, is_terminal, new_progress, shows_bars
from batchnorm.scores import headline

if TYPE_CHECKING:
    from rich.progress import Progress

_SECONDS_BETWEEN_UPDATES = 0.1


class Monitor:
    """Is told how a training goes; passes warnings on. Subclass it, and override what you want to know."""

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Take note that training begins, or goes on, with so many epochs, and steps of the next one, complete."""

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Take note of a step: its number in the epoch, from 1, and its batch's loss."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """Take note of an evaluation, a record of `Run.history`. A run that goes on tells its earlier ones again."""

    def looked(self, look: dict[str, Any]) -> None:
        """Take note of a look into the layers, one of `Run.layers`. A run that goes on tells its earlier ones again."""

    def finished(self, results: dict[str, Any]) -> None:
        """Take note of the finished run's `Run.results`."""

    def interrupted(self) -> None:
        """Take note that a signal asks to stop, before the step is finished: called wherever the signal finds us."""

    def warn(self, message: str) -> None:
        """Issue Python's own warning."""
        warnings.warn(message, BatchnormWarning, stacklevel=2)

    def end(self) -> None:
        """Take note that training has ended, well or not: called in every case."""


class Monitors(Monitor):
    """Several monitors of one training, each told of everything; the first one warns.

    Parameters
    ----------
    *monitors : Monitor
        At least one.
    """

    def __init__(self, *monitors: Monitor):
        if not monitors:
            raise InputError("there are no monitors: name one or more")
        for monitor in monitors:
            check_kind("monitor", monitor, Monitor, "give instances of classes that are derived from batchnorm.Monitor")
        self._monitors = monitors

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.begin(config, steps_per_epoch, epoch, step)

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.step(epoch, step, loss)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.evaluated(copy.deepcopy(record))

    def looked(self, look: dict[str, Any]) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.looked(copy.deepcopy(look))

    def finished(self, results: dict[str, Any]) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.finished(copy.deepcopy(results))

    def interrupted(self) -> None:
        """Tell all of them."""
        for monitor in self._monitors:
            monitor.interrupted()

    def warn(self, message: str) -> None:
        """Have the first one warn."""
        self._monitors[0].warn(message)

    def end(self) -> None:
        """Tell all of them, also where one raises."""
        with ExitStack() as stack:
            for monitor in reversed(self._monitors):
                stack.callback(monitor.end)


class ProgressMonitor(Monitor):
    """Show a training: a bar with epoch, loss, examples per second and time left, and a line per evaluation.

    Without a terminal there is no bar.

    Parameters
    ----------
    lines : bool, default True
        Whether to print the evaluations, and at the end the test accuracy, to standard output.
    bar : bool, default True
    seeds : bool, default False
        Whether to print the seed before each of several runs.
    """

    def __init__(self, *, lines: bool = True, bar: bool = True, seeds: bool = False):
        self._lines, self._seeds = lines, seeds
        self._bar = bar and shows_bars()
        self._progress: Progress | None = None

    def begin(self, config: TrainingConfig, steps_per_epoch: int, epoch: int, step: int) -> None:
        """Show the bar."""
        if self._lines and self._seeds:
            print(f"seed {config.seed}", flush=True)
        if not self._bar:
            return
        from rich.progress import BarColumn, TimeRemainingColumn

        narrow = is_narrow()
        self._steps_per_epoch, self._batch_size = steps_per_epoch, config.batch_size
        self._begun_at = epoch * steps_per_epoch + step
        self._begun = self._shown = time.monotonic()
        self._progress = new_progress(
            "epoch {task.fields[epoch]} of {task.fields[epochs]}",
            BarColumn(bar_width=None if narrow else 40),
            "loss {task.fields[loss]:.4g}" if narrow else "loss {task.fields[loss]:.4f}",
            *(() if narrow else ("{task.fields[rate]:,.0f} examples/s",)),
            TimeRemainingColumn(compact=True),
        )
        self._task = self._progress.add_task(
            "",
            total=config.epochs * steps_per_epoch,
            completed=self._begun_at,
            epoch=epoch,
            epochs=config.epochs - 1,
            loss=0.0,
            rate=0.0,
        )
        self._progress.start()

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Move the bar, a few times per second."""
        if self._progress is None or (now := time.monotonic()) - self._shown < _SECONDS_BETWEEN_UPDATES:
            return
        self._shown = now
        done = epoch * self._steps_per_epoch + step
        rate = (done - self._begun_at) * self._batch_size / (now - self._begun)
        self._progress.update(self._task, completed=done, epoch=epoch, loss=loss, rate=rate)

    def evaluated(self, record: dict[str, Any]) -> None:
        """Print a line as the tutorial does."""
        if self._lines:
            train, validation = headline(record, "train_"), headline(record, "validation_")
            print(f"{record['epoch']} train {train} val {validation}", flush=True)

    def finished(self, results: dict[str, Any]) -> None:
        """Print the test accuracy, or R², with both kinds of statistics, last the tutorial's."""
        if not self._lines:
            return
        self.end()
        test = results["test"]
        if "population" in test:
            name, _, figure = headline(test["population"]).partition(":")
            print(f"Test {name} with population statistics:{figure}")
        print(f"Test {headline(test['running'])}", flush=True)

    def interrupted(self) -> None:
        """Say so on standard error at once: an evaluation, or a step, may take its time."""
        end = "\n" if is_terminal(sys.stderr) else "; "  # who reads a pipe gets one line, which the reason ends
        with suppress(OSError, RuntimeError):  # a terminal that is gone; a write that the signal came into
            print("batchnorm: finishing this step, then saving", end=end, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print a warning to standard error."""
        with suppress(OSError):  # a terminal that is gone, a disk that is full
            print(f"batchnorm: warning: {printable(message)}", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            with suppress(OSError):  # a terminal that is gone
                self._progress.stop()
            self._progress = None


class EpochLines(Monitor):
    """Print a line per epoch to standard output, as scikit-learn's networks do: where there is no terminal."""

    def evaluated(self, record: dict[str, Any]) -> None:
        """Print the epoch's loss and, if there is one, its validation score."""
        print(f"Iteration {record['epoch'] + 1}, loss = {record['loss']:.8f}")
        if "validation_score" in record:
            print(f"Validation score: {record['validation_score']:.6f}", flush=True)


def monitor_for(verbose: bool) -> Monitor:
    """Return what shows a training of an estimator: a bar at a terminal, else lines."""
    if not verbose:
        return Monitor()
    return ProgressMonitor(lines=False) if shows_bars() else EpochLines()
