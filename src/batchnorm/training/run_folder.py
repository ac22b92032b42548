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
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from batchnorm.errors import BatchnormError, InputError
from batchnorm.files import to_json, write_atomically

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
    def create(cls, path: str | Path, settings: Mapping[str, Any], beginning: Checkpoint) -> "RunFolder":
        """Make a new folder, which appears together with its config.json and the checkpoint it begins from.

        Raises
        ------
        InputError
            If there is something at `path` already.
        """
        path = Path(path)
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise InputError(f"{path} exists already: choose another --out, or go on with it by --resume {path}")
        settings = {"format": _FORMAT, **settings}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
                new = Path(temporary) / path.name
                new.mkdir()
                write_atomically(new / "config.json", to_json(settings))
                cls(new, settings).save_checkpoint(beginning)
                new.replace(path)
        except OSError as error:
            raise BatchnormError(f"the run folder {path} cannot be made: {error.strerror or error}") from error
        return cls(path, settings)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """Open an existing folder.

        Raises
        ------
        InputError
            If it is not a run folder, or one of a later version of this package.
        """
        path = Path(path)
        config = path / "config.json"
        if not config.is_file():
            what = "is not a run folder: it has no config.json" if path.is_dir() else "is not a folder"
            raise InputError(f"{path} {what}")
        settings = _parse(config)
        if not isinstance(settings, dict) or not {"format", "config", "network", "dataset"} <= settings.keys():
            raise InputError(f"{config} is not the configuration of a run: expected format, config, network, dataset")
        if settings["format"] != _FORMAT:
            raise InputError(f"{path} has format {settings['format']}, this version of batchnorm reads {_FORMAT}")
        return cls(path, settings)

    @property
    def is_finished(self) -> bool:
        """Whether the run went to its end."""
        return (self.path / "results.json").is_file()

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        # One metadata entry: safetensors does not keep the order of several, and equal states have equal files.
        metadata = {"state": json.dumps(checkpoint.state)}
        self._write("checkpoint.safetensors", safetensors.torch.save(_contiguous(checkpoint.tensors), metadata))

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
        self._write("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history).encode())

    def save_results(
        self, weights: dict[str, Tensor], population: dict[str, Tensor], results: Mapping[str, Any]
    ) -> None:
        """Save the trained network and its figures: the run is finished."""
        self._write("weights.safetensors", safetensors.torch.save(_contiguous(weights)))
        self._write("population.safetensors", safetensors.torch.save(_contiguous(population)))
        self._write("results.json", to_json(results))

    def load_results(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return weights, population statistics and results of a finished run.

        Raises
        ------
        InputError
            If it is not finished.
        """
        if not self.is_finished:
            raise InputError(f"{self.path} is not finished: go on with batchnorm train --resume {self.path}")
        return (
            self._load_tensors("weights.safetensors"),
            self._load_tensors("population.safetensors"),
            _parse(self.path / "results.json"),
        )

    def load_history(self) -> list[dict[str, Any]]:
        """Return the evaluations, in order."""
        path = self.path / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def save_sessions(self, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Replace the description of the environment, one entry per session."""
        self._write("environment.json", to_json({"sessions": sessions}))

    def load_sessions(self) -> list[dict[str, Any]]:
        """Return the environments of the sessions so far; the last is the latest."""
        path = self.path / "environment.json"
        return list(_parse(path)["sessions"]) if path.is_file() else []

    def _write(self, name: str, content: bytes) -> None:
        try:
            write_atomically(self.path / name, content)
        except OSError as error:
            raise BatchnormError(
                f"{self.path / name} cannot be written: {error.strerror or error}; what was saved before is intact: "
                f"mend that, then go on with batchnorm train --resume {self.path}"
            ) from error

    def _load_tensors(self, name: str) -> dict[str, Tensor]:
        path = self.path / name
        try:
            # Cloned: what is loaded lies in memory as the file has it, and how it lies can change a sum's last bit.
            return {key: value.clone() for key, value in safetensors.torch.load_file(path).items()}
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} cannot be read as safetensors: {error}") from error


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from error


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
