"""From a network and a data set to a finished run: train, then test once, with both kinds of statistics."""

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset, Examples
from batchnorm.errors import BatchnormError, InputError
from batchnorm.evaluation import BLOCK_SIZE, Evaluation, evaluate
from batchnorm.files import json_ready
from batchnorm.network import DenseNetwork
from batchnorm.results import Result, html_table
from batchnorm.toolkit.statistics import recalibrate
from batchnorm.training.checks import check_device, check_fit
from batchnorm.training.loop import Position, batch_slices, initial_checkpoint, is_finite, train
from batchnorm.training.monitor import Monitor
from batchnorm.training.runs import Checkpoint, RunFolder, describe_session, population_of


@dataclass(frozen=True, eq=False)
class Run(Result):
    """A finished run.

    Parameters
    ----------
    network : torch.nn.Module
        Trained, in inference mode, with its running averages.
    config : TrainingConfig
    history : list of dict
        One record per evaluation: epoch, step, learning_rate, step_loss (mean over the epoch's steps), and accuracy
        and loss on the training and the validation set.
    results : dict
        "epochs": how many were trained; "test": accuracy and loss on the test set, with "running" averages and, if
        there are batch-norm layers, with "population" statistics. If these were replaced since, their figures are gone,
        and "recalibrated" names the "data" and the "method".
    population : dict of str to Tensor
        The exact population statistics of the training set, under the names of the running averages that they
        replace: ``network.load_state_dict(run.population, strict=False)``. ``batchnorm recalibrate RUN --in-place``
        replaces them.
    path : Path or None
        The run folder.
    """

    network: nn.Module
    config: TrainingConfig
    history: list[dict[str, Any]]
    results: dict[str, Any]
    population: dict[str, Tensor]
    path: Path | None

    @property
    def test_accuracy(self) -> float:
        """Accuracy on the test set with the running averages."""
        return float(self.results["test"]["running"]["accuracy"])

    def __str__(self) -> str:
        trained = f"{type(self.network).__name__} trained for {self.results['epochs']} epochs"
        accuracies = [
            f"{self.results['test'][kind]['accuracy']:.6g} with {what}"
            for kind, what in (("running", "running averages"), ("population", "population statistics"))
            if kind in self.results["test"]
        ]
        where = "" if self.path is None else f"; run folder {self.path}"
        return f"{trained}; test accuracy {', '.join(accuracies)}{where}"

    def to_dict(self) -> dict[str, Any]:
        """Return all but the tensors as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {
                "run": None if self.path is None else str(self.path),
                "config": self.config.to_dict(),
                "history": self.history,
                **self.results,
            }
        )
        return described

    def _repr_html_(self) -> str:
        columns = ("epoch", "train accuracy", "validation accuracy", "train loss", "validation loss")
        names = [column.replace(" ", "_") for column in columns]
        rows = [[f"{record[name]:.5g}" for name in names] for record in self.history]
        return html_table(columns, rows, str(self))


def fit(
    network: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    monitor: Monitor | None = None,
) -> Run:
    """Train a network, evaluate it on the way, and test it once at the end.

    Each epoch goes once through the training set in a new order. Every step normalises with its batch's moments and
    moves the running averages; every evaluation is in inference mode. After the last step the exact population
    statistics of the training set are computed, and the test accuracy is given with both.

    The same seed on the same machine with the same packages and number of threads gives the same weights, to the bit.
    Where numba is missing, `monitor` is warned that training goes through autograd.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits (batch, n_classes). Trained in place, and left in inference mode on
        `device`. A `DenseNetwork` decides for itself the configuration's fields that describe the network.
    dataset : Dataset
    config : TrainingConfig, optional
    out : str or Path, optional
        A run folder to make; without one, nothing is saved.
    device : str or torch.device, default "cpu"
        "cpu", "cuda" or "cuda:1".
    monitor : Monitor, optional
        Is told of every step and evaluation; `batchnorm.ProgressMonitor` shows them. Without one, warnings
        are Python's.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If the network does not fit the data, the device is not there, or `out` exists.
    DivergedError
        If the loss or a weight becomes NaN or infinite; the last good checkpoint is kept.
    TrainingInterrupted
        On Ctrl-C or SIGTERM, after the step was finished and the state saved.

    Examples
    --------
    >>> import batchnorm as bn
    >>> network = bn.DenseNetwork(64, (32,), 10)
    >>> run = bn.fit(network, bn.load_dataset("digits"), bn.TrainingConfig(epochs=2))
    >>> run.test_accuracy > 0.8
    True
    """
    config = config or TrainingConfig()
    if isinstance(network, DenseNetwork):
        config = replace(config, **network.architecture)
    place = check_device(device)
    check_fit(network.to(place), dataset, config, place)
    beginning, folder = initial_checkpoint(network), None
    sessions = [describe_session(place, dataset.source)]
    if out is not None:
        settings = {
            "config": config.to_dict(),
            "network": _describe_network(network),
            "dataset": _describe_dataset(dataset),
        }
        folder = RunFolder.create(out, settings, beginning, sessions[0])
    return _run(network, dataset, config, beginning, folder, sessions, place, monitor or Monitor())


def resume(
    path: str | Path,
    dataset: Dataset,
    *,
    network: nn.Module | None = None,
    device: str | torch.device = "cpu",
    monitor: Monitor | None = None,
) -> Run:
    """Go on with a run that was stopped or killed; it ends as if it had never been. A finished one is loaded.

    Parameters
    ----------
    path : str or Path
        The run folder.
    dataset : Dataset
        The data that the run was begun with.
    network : torch.nn.Module, optional
        Needed if the run does not train a `DenseNetwork`: its weights are replaced.
    device, monitor
        As for `fit`.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If `path` is not a run folder, or was begun with other data or another network.
    """
    folder = RunFolder.open(path)
    _check_dataset(folder, dataset)
    monitor = monitor or Monitor()
    if folder.is_finished:
        folder.remove_leftovers()
        run = load_run(path, network=network)
        _tell_again(run, dataset, monitor)
        return run
    beginning = folder.load_checkpoint(_expected_state(folder, network))
    network, config = _rebuild(folder, network)
    place = check_device(device)
    check_fit(network.to(place), dataset, config, place)
    earlier, session = folder.load_sessions(), describe_session(place, dataset.source)
    if earlier:
        _warn_of_changes(earlier[0], session, monitor)
    return _run(network, dataset, config, beginning, folder, [*earlier, session], place, monitor)


def load_run(path: str | Path, *, network: nn.Module | None = None) -> Run:
    """Load a finished run: its network, trained and in inference mode, its history and its results.

    Parameters
    ----------
    path : str or Path
        The run folder.
    network : torch.nn.Module, optional
        Needed if the run did not train a `DenseNetwork`: its weights are replaced.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If `path` is not a run folder, is not finished, or does not fit `network`.
    """
    folder = RunFolder.open(path)
    weights, population, results = folder.load_results(_expected_state(folder, network))
    network, config = _rebuild(folder, network)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit the network: {' '.join(str(error).split())}") from error
    if not is_finite(network):
        raise InputError(f"{folder.path / 'weights.safetensors'} is damaged: a weight is NaN or infinite")
    return Run(network.eval(), config, folder.load_history(results["epochs"]), results, population, folder.path)


def evaluate_run(
    path: str | Path, dataset: Dataset, part: str = "test", *, device: str | torch.device = "cpu"
) -> dict[str, Evaluation]:
    """Evaluate a finished run of a `DenseNetwork` on a part of its data, with both kinds of statistics.

    Parameters
    ----------
    path : str or Path
        The run folder.
    dataset : Dataset
        The data that the run was begun with.
    part : {"test", "validation", "train"}, default "test"
    device : str or torch.device, default "cpu"

    Returns
    -------
    dict of str to Evaluation
        With "running" averages and, if the network has batch-norm layers, with "population" statistics.
    """
    _check_dataset(RunFolder.open(path), dataset)
    run, place = load_run(path), check_device(device)
    return _evaluate_both(run.network.to(place), run.population, dataset.parts[part].to(place))


def _run(
    network: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    beginning: Checkpoint,
    folder: RunFolder | None,
    sessions: list[dict[str, Any]],
    device: torch.device,
    monitor: Monitor,
) -> Run:
    training, validation, test = (part.to(device) for part in dataset.parts.values())
    try:
        with _recorded(folder, sessions):
            position = train(network, training, validation, config, beginning=beginning, folder=folder, monitor=monitor)
            run = _finish(network, training, test, config, position, folder)
            monitor.finished(run.results)
            return run
    finally:
        network.eval()
        monitor.end()


def _finish(
    network: nn.Module,
    training: Examples,
    test: Examples,
    config: TrainingConfig,
    position: Position,
    folder: RunFolder | None,
) -> Run:
    """Compute the population statistics, test with both kinds, save."""
    twin = copy.deepcopy(network)
    changes = recalibrate(twin, training.blocks(BLOCK_SIZE), distributed=False, progress=False).changes
    population = population_of(twin.state_dict(), changes)
    results = {
        "epochs": position.epoch,
        "stopped_early": position.stopped_early,
        "test": {
            kind: {"accuracy": evaluation.accuracy, "loss": evaluation.loss}
            for kind, evaluation in _evaluate_both(network, population, test).items()
        },
    }
    if folder:
        folder.save_results(network.state_dict(), population, results)
    return Run(network, config, position.history, results, population, folder.path if folder else None)


def _evaluate_both(network: nn.Module, population: dict[str, Tensor], examples: Examples) -> dict[str, Evaluation]:
    evaluations = {"running": evaluate(network, examples)}
    if population:
        twin = copy.deepcopy(network)
        twin.load_state_dict(population, strict=False)
        evaluations["population"] = evaluate(twin, examples)
    return evaluations


@contextmanager
def _recorded(folder: RunFolder | None, sessions: list[dict[str, Any]]) -> Iterator[None]:
    """Hold a run's folder, and record in it the last of its sessions and how long it was."""
    if folder is None:
        yield
        return
    begun = time.perf_counter()
    with folder.locked():
        folder.save_sessions(sessions)
        try:
            yield
        finally:
            sessions[-1]["seconds"] = round(time.perf_counter() - begun, 3)
            with suppress(BatchnormError):  # what ended the session matters more than how long it was
                folder.save_sessions(sessions)


def _warn_of_changes(first: dict[str, Any], now: dict[str, Any], monitor: Monitor) -> None:
    for key in ("python", "packages", "cpu", "threads", "device"):
        if now[key] != first.get(key):
            monitor.warn(
                f"{key} was {first.get(key)} when the run was begun and is {now[key]} now: "
                "its last bits may differ from an undisturbed run's"
            )


def _tell_again(run: Run, dataset: Dataset, monitor: Monitor) -> None:
    """Tell of a finished run as if it had just been trained."""
    steps_per_epoch = len(batch_slices(len(dataset.train), run.config.batch_size))
    monitor.begin(run.config, steps_per_epoch, run.results["epochs"], 0)
    try:
        for record in run.history:
            monitor.evaluated(record)
        monitor.finished(run.results)
    finally:
        monitor.end()


def _describe_network(network: nn.Module) -> dict[str, Any]:
    if isinstance(network, DenseNetwork):
        return {"class": "DenseNetwork", "in_features": network.in_features, "n_classes": network.n_classes}
    return {"class": f"{type(network).__module__}.{type(network).__qualname__}"}


def _describe_dataset(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "split_seed": dataset.split_seed,
        "examples": {name: len(part) for name, part in dataset.parts.items()},
        "feature_shape": list(dataset.feature_shape),
        "n_classes": dataset.n_classes,
        "fingerprint": dataset.fingerprint,
    }


def _check_dataset(folder: RunFolder, dataset: Dataset) -> None:
    """Check that a run was begun with this data set, to the bit."""
    begun, given = folder.settings["dataset"], _describe_dataset(dataset)
    changed = [f"{key} was {begun.get(key)}, is {given[key]}" for key in given if given[key] != begun.get(key)]
    if changed:
        raise InputError(f"{folder.path} was begun with other data: {', '.join(changed)}")


def _rebuild(folder: RunFolder, network: nn.Module | None) -> tuple[nn.Module, TrainingConfig]:
    """Return the network that the run trains, as it began, and the configuration."""
    config, described = folder.config, folder.settings["network"]
    if network is None:
        _check_dense(folder)
        network = DenseNetwork.from_config(config, *_sizes(folder))
    elif _describe_network(network) != described:
        raise InputError(f"{folder.path} trains {described}, but was given {_describe_network(network)}")
    return network, config


def _expected_state(folder: RunFolder, network: nn.Module | None) -> dict[str, Tensor] | None:
    """Return names, shapes and types of the run's network, without the memory that it would take.

    None if it is lazy: it has no shapes before it takes up those of its weights.
    """
    if network is not None:
        _rebuild(folder, network)  # which refuses another one
    else:
        _check_dense(folder)
        try:
            with torch.device("meta"):
                in_features, n_classes = _sizes(folder)
                network = DenseNetwork(in_features, n_classes=n_classes, **folder.config.architecture)
        except RuntimeError as error:  # more than any memory
            raise InputError(f"{folder.path / 'config.json'} is damaged: {str(error).splitlines()[0]}") from error
    state = {name: tensor for name, tensor in network.state_dict().items() if isinstance(tensor, Tensor)}
    return None if any(is_lazy(tensor) for tensor in state.values()) else state


def _check_dense(folder: RunFolder) -> None:
    kind = folder.settings["network"]["class"]
    if kind != "DenseNetwork":
        raise InputError(f"{folder.path} trains a {kind}, which must be given as network=")


def _sizes(folder: RunFolder) -> tuple[int, int]:
    """Return the numbers of features and classes of a run's `DenseNetwork`."""
    described = folder.settings["network"]
    if not {"in_features", "n_classes"} <= described.keys():
        raise InputError(f"{folder.path / 'config.json'} is damaged: network has no in_features or no n_classes")
    return described["in_features"], described["n_classes"]
