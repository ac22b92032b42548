"""How a training on a table is kept while it runs: what is to lose are some seconds, whatever ends it."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from batchnorm.errors import BatchnormError, BatchnormWarning, InputError
from batchnorm.tables.folder import TableFolder, as_saved
from batchnorm.training.runs import can_go_on_after, differences, how_ended

SECONDS = 5.0  # at least, between two checkpoints
_COST = 20  # times as long as one takes to write, at least


class Recorder:
    """Saves one training in a run folder, which it makes before the first step: `batchnorm.estimator`'s `Checkpoints`.

    Parameters
    ----------
    path : Path
        The folder.
    settings : mapping
        What is trained on.
    session : dict
        Where, from now on.
    begun : TableFolder or None
        The folder of a run to go on with, which the caller has locked.
    interrupted : callable
        Is told at once that a signal asks to stop.

    Raises
    ------
    InputError
        If it was begun with other settings.
    """

    def __init__(
        self,
        path: Path,
        settings: Mapping[str, Any],
        session: dict[str, Any],
        begun: TableFolder | None,
        interrupted: Callable[[], None],
    ):
        self._path, self._settings, self.interrupted = path, settings, interrupted
        self._folder, self._is_new = begun, begun is None
        self._sessions = [session]
        self._n_saved, self._next = 0, 0.0
        self._held = ExitStack()
        if begun is not None:
            _check_same(begun, settings)
            self._sessions = [*begun.load_sessions(), session]
            for difference in differences(self._sessions[0], session):
                warnings.warn(difference, BatchnormWarning, stacklevel=2)
            begun.save_sessions(self._sessions)

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return time.monotonic() >= self._next

    def load(self, network: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], Any] | None:
        """Return the checkpoint to go on from, if there is one."""
        return None if self._folder is None else self._folder.load_checkpoint(network)

    def save(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint, the first time together with the folder."""
        begun = time.monotonic()
        if self._folder is None:
            self._folder = TableFolder.create(self._path, self._settings, self._sessions[0], tensors, state)
            self._held.enter_context(self._folder.locked())
        else:
            self._folder.save_checkpoint(tensors, state)
            self._n_saved += 1
        ended = time.monotonic()
        self._next = ended + max(SECONDS, _COST * (ended - begun))

    def load_looks(self) -> list[dict[str, Any]] | None:
        """Return the looks into the layers so far; None in a folder of an earlier version, which keeps none."""
        return [] if self._folder is None else self._folder.load_looks()

    def save_looks(self, looks: Sequence[Mapping[str, Any]]) -> None:
        """Keep the looks into the layers."""
        if self._folder is not None:  # which appears before the first look
            self._folder.save_looks(looks)

    def finish(self, estimator: bytes, results: Mapping[str, Any]) -> None:
        """Save what came of the training."""
        assert self._folder is not None
        self._folder.save_results(estimator, results)

    def end(self, error: BaseException | None, seconds: float) -> None:
        """Leave the folder: how long the session was is noted, and a new one without anything to go on from removed."""
        if self._folder is None:
            return
        with self._held:
            if self._is_new and not self._n_saved and isinstance(error, Exception) and not can_go_on_after(error):
                self._folder.discard()
                return
            self._sessions[-1]["seconds"] = round(seconds, 3)
            if ended := how_ended(error):
                self._sessions[-1]["ended"] = ended
            with suppress(BatchnormError):  # what ended the session matters more than how long it was
                self._folder.save_sessions(self._sessions)


@contextmanager
def recorded(
    path: Path | None,
    settings: Mapping[str, Any],
    session: dict[str, Any],
    begun: TableFolder | None,
    interrupted: Callable[[], None],
) -> Iterator[Recorder | None]:
    """Yield what saves a training, or None if it has no folder; arguments as of `Recorder`."""
    if path is None:
        yield None
        return
    recorder, started = Recorder(path, settings, session, begun, interrupted), time.perf_counter()
    ended_by: BaseException | None = None
    try:
        yield recorder
    except BaseException as error:
        ended_by = error
        raise
    finally:
        recorder.end(ended_by, time.perf_counter() - started)


def _check_same(begun: TableFolder, settings: Mapping[str, Any]) -> None:
    now = as_saved(settings)
    if odd := [name for name in now if now[name] != begun.settings[name]]:
        was, is_ = (str(values[odd[0]])[:200] for values in (begun.settings, now))
        raise InputError(f"{begun.path} was begun with {odd[0]} {was}, which are {is_} now: begin a new run")
