"""A run on disk: JSON and safetensors, each file written whole or not at all, nothing pickled.

::

    config.json              what is run: configuration, network, data set
    environment.json         where: versions, processor, threads, and what a session changed of a module's attributes
    metrics.jsonl            one line per evaluation
    layers.jsonl             one line per look into the layers; only where a training looks
    checkpoint.safetensors   everything to go on from, to the bit; replaced after each epoch
    weights.safetensors      the trained network, with its running averages        } there once the run
    population.safetensors   its exact population statistics, under the same names } is finished
    results.json             the test set's figures; written last

No file but environment.json contains a time or a place: equal runs have equal files. Each carries a SHA-256 inside (see
sealing); there is none beside them, which a kill between two writes would leave behind.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from batchnorm.config import Task, TrainingConfig
from batchnorm.errors import InputError
from batchnorm.files import check_format, is_there, make_folder, to_json
from batchnorm.training.runs import schema
from batchnorm.training.runs.holding import LAYERS, HeldFolder
from batchnorm.training.runs.sealing import FORMATS, Line, Seal, warn_of_format_1

_FIRST_FILES = ("config.json", "environment.json", "checkpoint.safetensors")
RUN_FILES = (
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "layers.jsonl",
    "checkpoint.safetensors",
    "weights.safetensors",
    "population.safetensors",
    "results.json",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A moment of a training: named tensors, and the rest as JSON values."""

    tensors: dict[str, Tensor]
    state: dict[str, Any]


class RunFolder(HeldFolder):
    """A folder that holds one run; make it with `create` or `open`."""

    @classmethod
    def create(
        cls,
        path: str | Path,
        settings: Mapping[str, Any],
        beginning: Checkpoint,
        session: Mapping[str, Any],
        *,
        looks: bool = False,
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
        looks : bool, default False
            Whether the training looks into the layers, and keeps that.

        Raises
        ------
        InputError
            If there is something at `path` already.
        """
        settings = {"format": FORMATS[-1], **settings}
        seal = seal_of(settings)
        contents = (
            Seal(seal.format).to_json("config.json", settings),
            seal.to_json("environment.json", {"sessions": [session]}),
            seal.to_tensors("checkpoint.safetensors", beginning.tensors, beginning.state),
        )
        layers = {LAYERS: seal.to_lines(LAYERS, [])} if looks else {}
        make_folder(Path(path), dict(zip(_FIRST_FILES, contents, strict=True)) | layers)
        return cls(Path(path), settings, seal)

    @classmethod
    def open(cls, path: str | Path, *, trusting: bool = False) -> "RunFolder":
        """Open an existing folder.

        Parameters
        ----------
        path : str or Path
        trusting : bool, default False
            Whether to read what has no right checksum, too.

        Warns
        -----
        UncheckedRunWarning
            If its files have no checksums, as an earlier version wrote it.

        Raises
        ------
        InputError
            If it is not a run folder, is damaged, or is one of a later version of this package.
        """
        path = Path(path)
        config = path / "config.json"
        if not is_there(config):
            what = "is not a run folder: it has no config.json" if path.is_dir() else "is not a folder"
            raise InputError(f"{path} {what}")
        # Its format first: what a later version has written is not damaged.
        settings = Seal(1, trusting=True).read_json(config)
        check_format(path, settings.get("format"), *FORMATS)
        settings = Seal(settings["format"], trusting=trusting).read_json(config)
        schema.CONFIG(settings, str(config))
        if settings["format"] == 1 and not trusting:
            warn_of_format_1(path)
        return cls(path, settings, seal_of(settings, trusting=trusting))

    @property
    def config(self) -> TrainingConfig:
        """The run's configuration."""
        return TrainingConfig.from_dict(self.settings["config"])

    @property
    def task(self) -> Task:
        """What the run learns."""
        task: Task = self.settings["dataset"].get("task", "classification")
        return task

    def discard(self) -> None:
        """Remove a new folder if nothing was saved in it since it was made, and nobody else works on it."""
        with suppress(InputError, OSError), self.locked():
            if not (self._place / "metrics.jsonl").exists():
                for name in _FIRST_FILES:
                    (self._place / name).unlink()
                (self._place / LAYERS).unlink(missing_ok=True)
                self._place.rmdir()

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""
        name = "checkpoint.safetensors"
        self._write(name, self._seal.to_tensors(name, checkpoint.tensors, checkpoint.state))

    def load_checkpoint(self, network: Mapping[str, Tensor] | None = None) -> Checkpoint:
        """Return the last checkpoint.

        Parameters
        ----------
        network : mapping of str to Tensor, optional
            The state of a network of the run's kind, on any device: names, shapes and types are compared to it.
        """
        path = self.path / "checkpoint.safetensors"
        expected = None
        if network is not None:
            expected = {f"{part}.{name}": t for part in ("network", "best") for name, t in network.items()}
        tensors, state = self._seal.read_tensors(path, expected, complete=False)
        if state is None:
            raise InputError(f"{path} is not the checkpoint of a training: its metadata have no state")
        return Checkpoint(tensors, schema.STATE[self.task](state, f"{path}, state"))

    def save_metrics(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Replace the evaluations."""
        self._write("metrics.jsonl", self._seal.to_lines("metrics.jsonl", [*map(Line.of, history)]))

    def save_results(
        self, weights: dict[str, Tensor], population: dict[str, Tensor], results: Mapping[str, Any]
    ) -> None:
        """Save the trained network and its figures: the run is finished."""
        self._write("weights.safetensors", self._seal.to_tensors("weights.safetensors", weights))
        self.save_population(population)
        self._write("results.json", self._seal.to_json("results.json", results))

    def save_population(self, population: Mapping[str, Tensor], origin: Mapping[str, str] | None = None) -> None:
        """Replace the population statistics.

        Parameters
        ----------
        population : mapping of str to Tensor
        origin : mapping of str to str, optional
            The "data" that they are of, and the "method", if they are not those that the run itself ended with.
        """
        content = self._seal.to_tensors("population.safetensors", population, origin)
        self._write("population.safetensors", content, again=origin is not None)

    def load_results(
        self, network: Mapping[str, Tensor] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Return weights, population statistics and results of a finished run.

        Parameters
        ----------
        network : mapping of str to Tensor, optional
            The state of a network of the run's kind, on any device: names, shapes and types are compared to it.

        Raises
        ------
        InputError
            If it is not finished, damaged, or does not fit the network.
        """
        self.check_finished()
        path = self.path / "results.json"
        results = schema.RESULTS[self.task](self._seal.read_json(path), str(path))
        weights, _ = self._seal.read_tensors(self.path / "weights.safetensors", network)
        path = self.path / "population.safetensors"
        population, state = self._seal.read_tensors(path, network, complete=False)
        _check_population(path, population, weights)
        if (origin := schema.POPULATION(state, f"{path}, state")) is not None:  # what was tested were other statistics
            results["test"].pop("population", None)
            results["recalibrated"] = origin
        return weights, population, results

    def load_history(self, epochs: int | None = None) -> list[dict[str, Any]]:
        """Return the evaluations, in order; of a run that was finished after so many epochs, the last is known."""
        path = self.path / "metrics.jsonl"
        history: list[dict[str, Any]] = schema.HISTORY[self.task](self._seal.read_lines(path), f"{path}, record ")
        if epochs is not None and [record["epoch"] for record in history[-1:]] != [epochs - 1]:
            raise InputError(f"{path} is damaged: expected the evaluation of epoch {epochs - 1} at its end")
        return history

    def load_sessions(self) -> list[dict[str, Any]]:
        """Return the environments of the sessions so far: none if the file is not there.

        Raises
        ------
        InputError
            If it is damaged.
        """
        path = self.path / "environment.json"
        if not os.path.lexists(path):
            return []
        try:
            return schema.check_sessions(self._seal.read_json(path), str(path))
        except InputError as error:
            raise InputError(f"{error}; without this file, the run goes on with the threads that are given") from error

    def reseal(self) -> None:
        """Write all files anew as they are now, in the newest format and with their checksums.

        For a folder that was opened `trusting` someone's edits.

        Raises
        ------
        InputError
            If a file does not hold what it may; nothing has been written then.
        """
        settings = {**self.settings, "format": FORMATS[-1]}
        seal = seal_of(settings)
        files = {"config.json": Seal(seal.format).to_json("config.json", settings)}
        if sessions := self.load_sessions():
            files["environment.json"] = seal.to_json("environment.json", {"sessions": sessions})
        checkpoint = self.load_checkpoint()
        files["checkpoint.safetensors"] = seal.to_tensors(
            "checkpoint.safetensors", checkpoint.tensors, checkpoint.state
        )
        epochs = self.load_results()[2]["epochs"] if self.is_finished else None
        if self.is_finished or os.path.lexists(self.path / "metrics.jsonl"):
            files["metrics.jsonl"] = seal.to_lines("metrics.jsonl", [*map(Line.of, self.load_history(epochs))])
        if (looks := self.load_looks()) is not None:
            files[LAYERS] = seal.to_lines(LAYERS, [*map(Line.of, looks)])
        if self.is_finished:
            for name in ("weights.safetensors", "population.safetensors"):
                files[name] = seal.to_tensors(name, *self._seal.read_tensors(self.path / name))
            path = self.path / "results.json"
            files[path.name] = seal.to_json(path.name, schema.RESULTS[self.task](self._seal.read_json(path), str(path)))
        with self.locked():
            for name, content in files.items():
                self._write(name, content, again=True)

    def verify(self) -> None:
        """Read all files, and raise InputError if one is damaged."""
        self.load_sessions()
        self.load_checkpoint()
        self.load_looks()
        if self.is_finished:
            self.load_history(self.load_results()[2]["epochs"])
        elif os.path.lexists(self.path / "metrics.jsonl"):
            self.load_history()


def seal_of(settings: Mapping[str, Any], *, trusting: bool = False) -> Seal:
    """Return the seal of all files of a run but its configuration's own."""
    format = settings["format"]
    run = "" if format == 1 else Seal(format).sum_of("config.json", json.loads(to_json(settings)))
    return Seal(format, run, trusting=trusting)


def population_of(state: Mapping[str, Tensor], layers: Iterable[str]) -> dict[str, Tensor]:
    """Return the statistics of these layers out of the state of a network, as a run keeps them."""
    kinds = ("running_mean", "running_var")
    names = [f"{layer}.{kind}" if layer else kind for layer in layers for kind in kinds]
    return {name: state[name] for name in names}


def _check_population(path: Path, population: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Check that population statistics are means and variances, in pairs, of the weights' own."""
    for name, tensor in population.items():
        stem, _, kind = name.rpartition("running_")
        pair = {f"{stem}running_mean", f"{stem}running_var"}
        if kind not in ("mean", "var") or not pair <= population.keys() or not pair <= weights.keys():
            raise InputError(f"{path} is damaged: {name[:80]!r} is no mean or variance of the network, or half a pair")
        own = weights[name]
        if (tensor.shape, tensor.dtype) != (own.shape, own.dtype):
            raise InputError(
                f"{path} is damaged: {name!r} is {tensor.dtype} of shape {tuple(tensor.shape)}, expected "
                f"{own.dtype} of {tuple(own.shape)}"
            )
        if not tensor.isfinite().all() or (kind == "var" and (tensor < 0).any()):
            raise InputError(f"{path} is damaged: {name!r} has a number that is NaN, infinite or a negative variance")
