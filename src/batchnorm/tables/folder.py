"""The folder of a run on a table: what was trained on, how far it is, and what came of it.

::

    table.json              what is trained on: files with their sizes and sums, target, split, estimator's parameters
    environment.json        per session versions, processor, threads, and where the files were
    checkpoint.safetensors  everything to go on from, to the bit; replaced every few seconds, gone when all is done
    layers.jsonl            what was seen of the network's layers on the way, a line per look
    estimator.safetensors   the estimator, with what its columns become
    results.json            figures of the rows that were kept for the test, notices, and the profile of the table

The folder appears with the first four when the files were read and checked; results.json is written last. Each file
has a checksum inside; nothing is pickled.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from batchnorm.errors import InputError
from batchnorm.files import check_format, make_folder, to_json
from batchnorm.training.runs import LAYERS, TABLE_FILE, HeldFolder, Line, Seal, check_sessions

_FORMATS = (1, 2)  # that are read: the first, which has no checkpoint, if it is finished; the last one is written
_FIRST, CHECKPOINT, ESTIMATOR, _LAST = TABLE_FILE, "checkpoint.safetensors", "estimator.safetensors", "results.json"
_SEALED = 2  # the format of sealing
_NONE = type(None)
_Kinds = Mapping[str, tuple[type, ...]]
_SETTINGS: _Kinds = {
    **dict.fromkeys(("files", "test_files", "target", "columns", "dropped"), (list,)),
    "task": (str,),
    "sample_weight": (str, _NONE),
    "split": (dict, _NONE),
    "task_is_recognized": (bool,),
    "parameters": (dict,),
    "day_first": (bool, _NONE),
}
_FILE: _Kinds = {"name": (str,), "bytes": (int,), "sha256": (str,)}
_SPLIT: _Kinds = {"share": (int, float), "seed": (int,), "group": (str, _NONE), "time": (str, _NONE)}
_RESULTS: _Kinds = {"test": (dict,), "notices": (list,), "profile": (dict,)}
_OLDER: dict[str, Any] = {"task_is_recognized": False, "parameters": {}, "day_first": None}  # format 1 has none
_TASKS = ("classification", "regression")


class TableFolder(HeldFolder):
    """A folder that holds one run on a table; make it with `create` or `open`."""

    _needs = ""

    @classmethod
    def create(
        cls,
        path: Path,
        settings: Mapping[str, Any],
        session: Mapping[str, Any],
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
    ) -> "TableFolder":
        """Make a new folder, which appears together with all that going on from it needs.

        Parameters
        ----------
        path : Path
        settings : mapping
            What is trained on.
        session : mapping
            The environment of the first session, and where the "files" and "test_files" are.
        tensors, state : mapping
            The first checkpoint.

        Raises
        ------
        InputError
            If there is something at `path` already.
        """
        written = {"format": _FORMATS[-1], **settings}
        seal = _seal_of(written)
        files = {
            _FIRST: Seal(_SEALED).to_json(_FIRST, written),
            "environment.json": seal.to_json("environment.json", {"sessions": [session]}),
            CHECKPOINT: seal.to_tensors(CHECKPOINT, tensors, state),
            LAYERS: seal.to_lines(LAYERS, []),
        }
        make_folder(path, files)
        return cls(path, as_saved(settings), seal)

    @classmethod
    def open(cls, path: Path, *, trusting: bool = False) -> "TableFolder":
        """Open an existing folder.

        Parameters
        ----------
        path : Path
        trusting : bool, default False
            Whether checksums may be missing or wrong, as someone has edited files: see `reseal`.

        Raises
        ------
        InputError
            If it is none, is damaged, or was written by a later version.
        """
        if not holds_table(path):
            raise InputError(f"{path} is not the folder of a run on a table: it has no {_FIRST}")
        written = Seal(_SEALED, trusting=trusting).read_json(path / _FIRST)
        check_format(path / _FIRST, written.get("format"), *_FORMATS)
        settings = {name: value for name, value in written.items() if name != "format"}
        if written["format"] == 1:
            settings = {**_OLDER, **settings}
        _check_settings(settings, path / _FIRST)
        return cls(path, settings, _seal_of(written, trusting=trusting))

    def reseal(self) -> None:
        """Write all files anew as they are now, with their checksums, in a folder that was opened `trusting` edits.

        Raises
        ------
        InputError
            If a file does not hold what it may; nothing has been written then.
        """
        written = {"format": _FORMATS[-1], **self.settings}
        seal = _seal_of(written)
        files = {
            _FIRST: Seal(_SEALED).to_json(_FIRST, written),
            "environment.json": seal.to_json("environment.json", {"sessions": self.load_sessions()}),
        }
        if (looks := self.load_looks()) is not None:
            files[LAYERS] = seal.to_lines(LAYERS, [*map(Line.of, looks)])
        if self.is_finished:
            files[_LAST] = seal.to_json(_LAST, self.load_results())
        else:
            files[CHECKPOINT] = seal.to_tensors(CHECKPOINT, *self.load_checkpoint())
        with self.locked():
            for name, content in files.items():
                self._write(name, content, again=True)

    def save_checkpoint(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Replace the checkpoint."""
        self._write(CHECKPOINT, self._seal.to_tensors(CHECKPOINT, tensors, state))

    def load_checkpoint(self, network: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the state of the last checkpoint.

        Parameters
        ----------
        network : mapping of str to Tensor, optional
            The state of the network that is trained: names, shapes and types are compared to it before all is read.
        """
        path, expected = self.path / CHECKPOINT, None
        if network is not None:
            expected = {f"{part}.{name}": tensor for part in ("network", "best") for name, tensor in network.items()}
        tensors, state = self._seal.read_tensors(path, expected, complete=False)
        _check(state, {"epoch": (int,)}, path)
        return tensors, state

    def save_results(self, estimator: bytes, results: Mapping[str, Any]) -> None:
        """Save the trained estimator and its figures: the run is finished, and what it went on from is removed."""
        self._write(ESTIMATOR, estimator)
        self._write(_LAST, self._seal.to_json(_LAST, results))
        with suppress(OSError):
            (self._place / CHECKPOINT).unlink()

    def load_results(self) -> dict[str, Any]:
        """Return the figures of a finished run."""
        path = self.path / _LAST
        results = self._seal.read_json(path)
        _check(results, _RESULTS, path)
        return results

    def load_sessions(self) -> list[dict[str, Any]]:
        """Return the environments of the sessions so far, each with the paths of its "files" and "test_files"."""
        path = self.path / "environment.json"
        values = self._seal.read_json(path)
        sessions = check_sessions({"sessions": [values["session"]]} if "session" in values else values, str(path))
        for kind in ("files", "test_files"):
            for session in sessions:
                places, n_files = session.get(kind), len(self.settings[kind])
                if not isinstance(places, list) or len(places) != n_files or not _are_texts(places):
                    raise InputError(f"{path} is damaged: expected the paths of {n_files} {kind}")
        if not sessions:
            raise InputError(f"{path} is damaged: it has no session")
        return sessions

    def remove_leftovers(self) -> None:
        """Remove what a kill has left that nobody will write, or read, again."""
        super().remove_leftovers()
        with suppress(InputError, OSError), self.locked():
            if self.is_finished:
                (self._place / CHECKPOINT).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the folder as it was made; whoever made it has locked it."""
        with suppress(OSError):
            for name in (_FIRST, "environment.json", CHECKPOINT, LAYERS):
                (self._place / name).unlink()
            self._place.rmdir()


def holds_table(path: Path) -> bool:
    """Tell whether a folder is that of a run on a table."""
    return os.path.lexists(path / _FIRST)


def as_saved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they will be read."""
    ready: dict[str, Any] = json.loads(to_json(settings))
    return ready


def _check(values: Any, kinds: _Kinds, path: Path) -> None:
    """Refuse what lacks a value or has one of another kind, whoever gave it a checksum."""
    if not isinstance(values, dict):
        raise InputError(f"{path} is damaged: expected a JSON object")
    for name, of in kinds.items():
        if name not in values or type(values[name]) not in of:
            raise InputError(f"{path} is damaged: {name!r} is {str(values.get(name))[:80]!r}")


def _check_settings(settings: Mapping[str, Any], path: Path) -> None:
    _check(settings, _SETTINGS, path)
    if settings["task"] not in _TASKS or not all(_are_texts(settings[k]) for k in ("target", "columns", "dropped")):
        raise InputError(f"{path} is damaged: expected a task of {' or '.join(_TASKS)}, and columns that are texts")
    if not settings["target"] or not settings["files"]:
        raise InputError(f"{path} is damaged: expected files and a target")
    for file in (*settings["files"], *settings["test_files"]):
        _check(file, _FILE, path)
    split = settings["split"]
    if split is not None:
        _check(split, _SPLIT, path)
        if set(split) - set(_SPLIT) or not (0 < split["share"] < 1 and 0 <= split["seed"] < 2**32):
            raise InputError(
                f"{path} is damaged: expected a split by a share below 1, a seed below 2³², group and time"
            )
    if (split is None) != bool(settings["test_files"]):
        raise InputError(f"{path} is damaged: expected a split of the rows, or files to test on")


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _seal_of(settings: Mapping[str, Any], *, trusting: bool = False) -> Seal:
    """Return the seal of all files but the first and the estimator's, which have their own."""
    return Seal(_SEALED, Seal(_SEALED).sum_of(_FIRST, as_saved(settings)), trusting=trusting)
