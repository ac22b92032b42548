"""What the folders of all runs have in common: one process at a time works on one, and it may go on another day."""

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from batchnorm.errors import BatchnormError, DivergedError, InputError, TrainingInterrupted
from batchnorm.files import remove_leftovers, write_atomically
from batchnorm.training.runs import schema
from batchnorm.training.runs.sealing import Line, Seal

LAYERS = "layers.jsonl"


class HeldFolder:
    """A folder that holds one run."""

    _needs = ", dataset"  # what going on from Python needs besides the path

    def __init__(self, path: Path, settings: dict[str, Any], seal: Seal):
        self.path = path  # as it was given, for messages
        self._place = path.absolute()  # wherever the process goes meanwhile
        self.settings = settings
        self._seal = seal
        self._looks: list[Line] = []  # that were saved

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the same run, where the system has such locks (not on Windows)."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        descriptor = os.open(self._place, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is working on {self.path}: wait for it, or stop it") from error
            yield
        finally:
            os.close(descriptor)

    @property
    def is_in_use(self) -> bool:
        """Whether a process is working on the run."""
        try:
            with self.locked():
                return False
        except InputError:
            return True

    @property
    def is_finished(self) -> bool:
        """Whether the run went to its end."""
        return os.path.lexists(self.path / "results.json")

    def check_finished(self) -> None:
        """Raise InputError, with how to go on, if it is not finished."""
        if not self.is_finished:
            message, on_command_line = self._with_how_to_go_on(f"{self.path} is not finished: go on with")
            raise InputError(message, on_command_line=on_command_line)

    def remove_leftovers(self) -> None:
        """Remove what a kill has left of a file that nobody will write again, if this may be done."""
        with suppress(InputError, OSError), self.locked():
            remove_leftovers(self.path)

    def save_sessions(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Replace the description of the environment, one entry per session."""
        self._write("environment.json", self._seal.to_json("environment.json", {"sessions": sessions}))

    def save_looks(self, looks: Sequence[Mapping[str, Any]]) -> None:
        """Replace the looks into the layers by these, which begin with those that were saved last."""
        if len(looks) > len(self._looks):
            self._looks += map(Line.of, looks[len(self._looks) :])
            self._write(LAYERS, self._seal.to_lines(LAYERS, self._looks))

    def load_looks(self) -> list[dict[str, Any]] | None:
        """Return the looks into the layers, in order; None if the run keeps none.

        Raises
        ------
        InputError
            If the file is damaged; without it, the run is read and goes on without looks.
        """
        path = self.path / LAYERS
        if not os.path.lexists(path):
            return None
        looks: list[dict[str, Any]] = schema.LOOKS(self._seal.read_lines(path), f"{path}, record ")
        return looks

    def _write(self, name: str, content: bytes, *, again: bool = False) -> None:
        """Write a file; where that fails, say how to go on with the run, or to do what was asked for again."""
        if not self._place.is_dir():
            raise BatchnormError(
                f"the run folder {self.path} was moved or removed while it was in use; where it was moved, go on with "
                "it there"
            )
        try:
            write_atomically(self._place / name, content)
        except OSError as error:
            what = f"{self.path / name} cannot be written: {error.strerror or error}; "
            if again:
                raise BatchnormError(f"{what}fix that, then do the same again") from error
            message, on_command_line = self._with_how_to_go_on(
                f"{what}what was saved before is intact: fix that, then go on with"
            )
            raise BatchnormError(message, on_command_line=on_command_line) from error

    def _with_how_to_go_on(self, what: str) -> tuple[str, str]:
        """Return what is said, in Python's words and on the command line."""
        return f"{what} batchnorm.resume({str(self.path)!r}{self._needs})", f"{what} {resume_command(self.path)}"


def resume_command(path: Path) -> str:
    """Return what to type to go on with a run, or with several."""
    return f"batchnorm train --resume {shlex.quote(str(path))}"


def report_command(path: Path) -> str:
    """Return what to type to see a run."""
    return f"batchnorm report {shlex.quote(str(path))}"


def how_ended(error: BaseException | None) -> str | None:
    """Return what is recorded of how a session ended, if it was stopped or diverged."""
    return str(error) if isinstance(error, DivergedError | TrainingInterrupted) else None


def can_go_on_after(error: BaseException | None) -> bool:
    """Tell whether a run that ended so is told to go on: it was stopped, diverged, or its disk was full."""
    return isinstance(error, BatchnormError) and not isinstance(error, InputError)
