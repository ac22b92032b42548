"""A run on disk: JSON and safetensors, each file written whole or not at all, nothing pickled.

::

    config.json              what is run: configuration, network, data set
    environment.json         where: versions, processor, threads; one entry per session
    metrics.jsonl            one line per evaluation
    checkpoint.safetensors   everything to go on from, to the bit; replaced after each epoch
    weights.safetensors      the trained network, with its running averages        } there once the run
    population.safetensors   its exact population statistics, under the same names } is finished
    results.json             the test set's figures; written last

No file but environment.json contains a time or a place: equal runs have equal files.
"""

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from batchnorm.config import TrainingConfig
from batchnorm.errors import BatchnormError, InputError
from batchnorm.files import check_format, make_folder, remove_leftover, to_json, to_safetensors, write_atomically

_FIRST_FILES = ("config.json", "environment.json", "checkpoint.safetensors")
_FORMAT = 1  # raised when a folder written before can no longer be read


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A moment of a training: named tensors, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class RunFolder:
    """A folder that holds one run; make it with `create` or `open`."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = settings

    @classmethod
    def create(
        cls, path: str | Path, settings: Mapping[str, Any], beginning: Checkpoint, session: Mapping[str, Any]
    ) -> "RunFolder":
        """Make a new folder, which appears together with all that going on from it needs.

        Parameters
        ----------
        path : str or Path
        settings : mapping
            "config", "network" and "dataset".
        beginning : Checkpoint
            What the training begins from.
        session : mapping
            The environment of the first session.

        Raises
        ------
        InputError
            If there is something at `path` already.
        """
        folder = cls(Path(path), {"format": _FORMAT, **settings})
        contents = (
            to_json(folder.settings),
            to_json({"sessions": [session]}),
            _checkpoint_bytes(beginning),
        )
        make_folder(folder.path, dict(zip(_FIRST_FILES, contents, strict=True)))
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing folder.

        Raises
        ------
        InputError
            If it is not a run folder, is damaged, or is one of a later version of this package.
        """
        path = Path(path)
        config = path / "config.json"
        if not config.is_file():
            what = "is not a run folder: it has no config.json" if path.is_dir() else "is not a folder"
            raise InputError(f"{path} {what}")
        settings = read_json(config, {"format", "config", "network", "dataset"})
        check_format(path, settings["format"], _FORMAT)
        for part, keys in {
            "config": set(),
            "network": {"class"},
            "dataset": {"name", "split_seed", "fingerprint"},
        }.items():
            _check_keys(settings[part], keys, f"{config}, {part},")
        return cls(path, settings)

    @property
    def config(self) -> TrainingConfig:
        """The run's configuration."""
        return TrainingConfig.from_dict(self.settings["config"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the same run, where the system has such locks (not on Windows)."""
        try:
            import fcntl
        except ImportError:
            yield
            return
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another process is working on {self.path}: wait for it, or stop it") from error
            yield
        finally:
            os.close(descriptor)

    @property
    def is_finished(self) -> bool:
        """Whether the run went to its end."""
        return (self.path / "results.json").is_file()

    def remove_leftovers(self) -> None:
        """Remove what a kill has left of a file that nobody will write again, if this may be done."""
        with suppress(InputError, OSError), self.locked():
            for path in list(self.path.iterdir()):
                remove_leftover(path)

    def discard(self) -> None:
        """Remove a new folder if nothing was saved in it since it was made, and nobody else works on it."""
        with suppress(InputError, OSError), self.locked():
            if not (self.path / "metrics.jsonl").exists():
                for name in _FIRST_FILES:
                    (self.path / name).unlink()
                self.path.rmdir()

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        self._write("checkpoint.safetensors", _checkpoint_bytes(checkpoint))

    def load_checkpoint(self) -> Checkpoint:
        """Return the last checkpoint."""
        path = self.path / "checkpoint.safetensors"
        tensors = self._load_tensors(path.name)
        try:
            with safetensors.safe_open(path, "pt") as file:
                state = json.loads(file.metadata()["state"])
        except (TypeError, KeyError, ValueError) as error:
            raise InputError(f"{path} is not the checkpoint of a training: its metadata have no state") from error
        return Checkpoint(tensors, state)

    def save_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Replace the evaluations."""
        self._write("metrics.jsonl", "".join(json.dumps(record, allow_nan=False) + "\n" for record in history).encode())

    def save_results(
        self, weights: dict[str, Tensor], population: dict[str, Tensor], results: Mapping[str, Any]
    ) -> None:
        """Save the trained network and its figures: the run is finished."""
        self._write("weights.safetensors", to_safetensors(weights))
        self._write("population.safetensors", to_safetensors(population))
        self._write("results.json", to_json(results))

    def load_results(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return weights, population statistics and results of a finished run.

        Raises
        ------
        InputError
            If it is not finished, or damaged.
        """
        if not self.is_finished:
            what = f"{self.path} is not finished: go on with"
            raise InputError(f"{what} {_resume_call(self.path)}", on_command_line=f"{what} {resume_command(self.path)}")
        results = read_json(self.path / "results.json", {"epochs", "test"})
        _check_keys(results["test"], {"running"}, f"{self.path / 'results.json'}, test,")
        return self._load_tensors("weights.safetensors"), self._load_tensors("population.safetensors"), results

    def load_history(self) -> list[dict[str, Any]]:
        """Return the evaluations, in order."""
        path = self.path / "metrics.jsonl"
        try:
            return [json.loads(line) for line in path.read_text().splitlines()]
        except (ValueError, OSError) as error:
            raise InputError(f"{path} cannot be read as lines of JSON: {error}") from error

    def save_sessions(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Replace the description of the environment, one entry per session."""
        self._write("environment.json", to_json({"sessions": sessions}))

    def load_sessions(self) -> list[dict[str, Any]]:
        """Return the environments of the sessions so far. A damaged record is none: no result hangs on it."""
        try:
            sessions = read_json(self.path / "environment.json", {"sessions"})["sessions"]
            return [session for session in sessions if isinstance(session, dict)]
        except (InputError, TypeError):
            return []

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            what = (
                f"{self.path / name} cannot be written: {error.strerror or error}; what was saved before is intact: "
                "fix that, then go on with"
            )
            raise BatchnormError(
                f"{what} {_resume_call(self.path)}", on_command_line=f"{what} {resume_command(self.path)}"
            ) from error

    def _load_tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        try:
            # Copied out of the mapped file, into memory as torch lays it out for any other tensor.
            return {key: value.clone() for key, value in safetensors.torch.load_file(path).items()}
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} cannot be read as safetensors: {error}") from error


def resume_command(path: Path) -> str:
    """Return what to type to go on with a run, or with several."""
    return f"batchnorm train --resume {shlex.quote(str(path))}"


def _resume_call(path: Path) -> str:
    return f"batchnorm.resume({str(path)!r}, dataset)"


def read_json(path: Path, keys: set[str]) -> dict[str, Any]:
    """Return the JSON object in a file of a run, which has at least these keys."""
    try:
        values = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error
    return _check_keys(values, keys, str(path))


def _check_keys(values: Any, keys: set[str], what: str) -> dict[str, Any]:
    if not isinstance(values, dict) or not keys <= values.keys():
        raise InputError(f"{what} is damaged: expected a JSON object with {', '.join(sorted(keys)) or 'fields'}")
    return values


def _checkpoint_bytes(checkpoint: Checkpoint) -> bytes:
    return to_safetensors(checkpoint.tensors, {"state": json.dumps(checkpoint.state, allow_nan=False)})
