"""Processes that train cells, each with one thread, and what they tell."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from batchnorm.comparing.cells.carrying import save_dataset
from batchnorm.comparing.cells.cell import Cell
from batchnorm.data import Dataset
from batchnorm.errors import BatchnormError, InputError

_SECONDS_TO_SAVE = 60  # what a process gets to finish a step, or an evaluation, and to save
_DATA = ".data-"
_SECONDS_BETWEEN_LOOKS = 0.5  # Windows interrupts nobody who waits without end
Told = Callable[[Cell, dict[str, Any]], None]


class _Process:
    """One process, and the cell that it trains."""

    def __init__(self, number: int, data: Path, folder: Path, answers: "queue.SimpleQueue[tuple[int, Any]]"):
        self.cell: Cell | None = None
        # It finds what this process finds, in the same order: no module that lies in the working folder instead.
        paths = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "batchnorm.comparing.cells.worker", str(data), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, **paths, "PYTHONUTF8": "1", "OMP_NUM_THREADS": "1"},
            **_apart(),
        )
        self._reader = threading.Thread(target=self._read, args=(number, answers), daemon=True)
        self._reader.start()

    def _read(self, number: int, answers: "queue.SimpleQueue[tuple[int, Any]]") -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines, suppress(ValueError):  # a line that a kill has cut off
            for line in lines:
                answers.put((number, json.loads(line)))
        answers.put((number, None))

    def train(self, cell: Cell) -> None:
        """Have it begin a cell."""
        assert self._process.stdin is not None
        self.cell = cell
        with suppress(BrokenPipeError):  # it has ended, which its answers say
            self._process.stdin.write(json.dumps(cell.to_dict()) + "\n")
            self._process.stdin.flush()

    def ask_to_end(self) -> None:
        """Have it stop after the step that it is in, and save."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def end(self) -> int:
        """Wait for its end, and return its exit code."""
        try:
            self._process.wait(_SECONDS_TO_SAVE)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._reader.join()
        return self._process.wait()


def train_in_processes(dataset: Dataset, cells: Sequence[Cell], folder: Path, jobs: int, told: Told) -> None:
    """Train cells, so many at a time, each in a process; the results are the same however many there are.

    Parameters
    ----------
    dataset : Dataset
    cells : sequence of Cell
    folder : Path
        Where their run folders are.
    jobs : int
    told : callable
        Is called with a cell and what its process tells: "epochs", "warning" or, at last, "outcome".

    Raises
    ------
    InputError, BatchnormError
        What a training raises, or that a process has ended before its time. The others stop, and save.
    """
    waiting = list(reversed(cells))
    with _processes(dataset, folder, min(jobs, len(cells))) as (processes, answers):
        for process in processes:
            process.train(waiting.pop())
        left = len(cells)
        while left:
            number, answer = _next(answers)
            process = processes[number]
            assert process.cell is not None
            _check(process, answer)
            told(process.cell, answer)
            if "outcome" in answer:
                left -= 1
                if waiting:
                    process.train(waiting.pop())


def remove_left_data(folder: Path) -> None:
    """Remove the data that processes were given by one that was killed; nobody else works in the folder."""
    for left in folder.glob(f"{_DATA}*"):
        shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _processes(
    dataset: Dataset, folder: Path, jobs: int
) -> Iterator[tuple[list[_Process], "queue.SimpleQueue[tuple[int, Any]]"]]:
    """Start processes, which end with the block, however it ends."""
    answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    processes: list[_Process] = []
    with tempfile.TemporaryDirectory(prefix=_DATA, dir=folder, ignore_cleanup_errors=True) as data:
        save_dataset(dataset, Path(data))
        try:
            processes.extend(_Process(number, Path(data), folder, answers) for number in range(jobs))
            yield processes, answers
        finally:
            for process in processes:
                process.ask_to_end()
            for process in processes:
                process.end()


def _next(answers: "queue.SimpleQueue[tuple[int, Any]]") -> tuple[int, Any]:
    while True:
        with suppress(queue.Empty):
            return answers.get(timeout=_SECONDS_BETWEEN_LOOKS)


def _check(process: _Process, answer: dict[str, Any] | None) -> None:
    """Raise what a process tells of, if that is the end of all."""
    cell = process.cell
    assert cell is not None
    if answer is None:
        raise BatchnormError(
            f"the process that trained {cell.name} ended with exit code {process.end()}, as it does where memory runs "
            "out: do the same again to go on, with fewer jobs"
        )
    for kind, error in (("refused", InputError), ("failed", BatchnormError)):
        if kind in answer:
            raise error(f"{cell.name}: {answer[kind]}")


def _apart() -> dict[str, Any]:
    """Return what keeps a terminal's Ctrl-C from processes that are told to stop by us."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}
