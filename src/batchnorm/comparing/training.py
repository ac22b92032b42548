"""From a plan to its trained cells: what is left of them, how many at a time, and how long that takes."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from batchnorm.comparing.cells import Cell, Outcome, Teller, Told, remove_left_data, train_in_processes
from batchnorm.comparing.plan import ComparisonFolder, ComparisonPlan
from batchnorm.config import N_JOBS
from batchnorm.data import Dataset
from batchnorm.errors import BatchnormWarning
from batchnorm.memory import available_memory, check_training_memory, training_bytes
from batchnorm.progress import Bar

_PROCESS_BYTES = 2**29  # what a process takes that has imported torch and trains a small network
ShowLine = Callable[[str], None]  # to a person


def jobs_for(plan: ComparisonPlan, asked: int | None) -> int:
    """Return how many trainings run at the same time: as many as there are cores, if memory allows it.

    Raises
    ------
    InputError
        If `asked` is none, or the memory does not suffice for one of the networks.
    """
    n_features, n_classes = plan.dataset.n_features, plan.dataset.n_classes
    jobs = _cores() if asked is None else int(N_JOBS.check("jobs", asked))
    for arm in plan.arms:
        check_training_memory(arm.config, n_features, n_classes)
    largest = max(training_bytes(arm.config, n_features, n_classes) for arm in plan.arms)
    memory = available_memory()
    fitting = jobs if memory is None else memory // (_PROCESS_BYTES + largest)
    return max(1, min(jobs, fitting, len(plan.cells)))


def train_cells(plan: ComparisonPlan, folder: ComparisonFolder, jobs: int, tell: ShowLine, *, show_bar: bool) -> None:
    """Train what is left of a comparison, and take note of what diverges."""
    remove_left_data(folder.cells)
    diverged = folder.load_diverged()
    left = [cell for cell in plan.cells if cell.name not in diverged and not folder.has_finished(cell)]
    if not left:
        return
    folder.cells.mkdir(exist_ok=True)
    done = len(plan.cells) - len(left)
    before = f" ({done} of {len(plan.cells)} are done)" if done else ""
    trainings = f"{len(left)} trainings" if len(left) > 1 else "1 training"
    tell(f"{trainings}{before}, {min(jobs, len(left))} at a time")
    with Bar("training", show_bar, unit="epochs") as bar:
        progress = _Progress(left, jobs, bar, tell)

        def told(cell: Cell, what: dict[str, Any]) -> None:
            progress.told(cell, what)
            if what.get("outcome") is not None:
                diverged[cell.name] = what["outcome"]
                folder.save_diverged(diverged)

        if jobs == 1:
            _train_here(plan.dataset, left, folder, told)
        else:
            train_in_processes(plan.dataset, left, folder.cells, jobs, told)


class _Progress:
    """Shows how far the trainings are: a bar, and after the first ones a line with what the others will take."""

    def __init__(self, cells: Sequence[Cell], jobs: int, bar: Bar, tell: ShowLine):
        self._bar, self._tell = bar, tell
        self._waited_for, self._left = min(jobs, len(cells)), len(cells)
        self._complete = dict.fromkeys((cell.name for cell in cells), 0)
        self._epochs_left, self._epochs_trained = sum(cell.config.epochs for cell in cells), 0
        self._begun: float | None = None  # not before a process has imported what it needs
        bar.expect(self._epochs_left)

    def told(self, cell: Cell, what: dict[str, Any]) -> None:
        if "warning" in what:
            warnings.warn(f"{cell.name}: {what['warning']}", BatchnormWarning, stacklevel=2)
        if "epochs" in what:
            if self._begun is None:
                self._begun = time.monotonic()
            elif what["epochs"]:
                self._epochs_trained += 1
            self._set_complete(cell, what["epochs"])
        if "outcome" in what:
            self._set_complete(cell, cell.config.epochs)  # it may have stopped early, or diverged
            self._left, self._waited_for = self._left - 1, self._waited_for - 1
            if self._waited_for == 0 and self._left:
                self._estimate()

    def _set_complete(self, cell: Cell, epochs: int) -> None:
        new = epochs - self._complete[cell.name]
        self._complete[cell.name] = epochs
        self._epochs_left -= new
        self._bar.advance(new)

    def _estimate(self) -> None:
        """Tell how long the rest takes, if as many of its trainings are cut short as of none."""
        if self._begun is None or not self._epochs_trained:
            return
        seconds = (time.monotonic() - self._begun) / self._epochs_trained * self._epochs_left
        duration = f"{seconds:.0f} seconds" if seconds < 100 else f"{seconds / 60:.0f} minutes"
        trainings = "the other training takes" if self._left == 1 else f"the other {self._left} trainings take"
        self._tell(f"by the first of them, {trainings} about {duration}")


def _train_here(dataset: Dataset, cells: Sequence[Cell], folder: ComparisonFolder, told: Told) -> None:
    """Train in this process, with one thread as the others do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for cell in cells:
            outcome: Outcome = cell.train(dataset, folder.cells, Teller(lambda cell=cell, **what: told(cell, what)))
            told(cell, {"outcome": outcome})
    finally:
        torch.set_num_threads(threads)


def _cores() -> int:
    """Return how many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on Windows and macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
