"""From a network and a data set to a finished run: train, then test once, with both kinds of statistics."""

import copy
import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset, Examples, Signature, task_of
from batchnorm.errors import BatchnormWarning, DivergedError, InputError, check_kind, in_words
from batchnorm.evaluation import AnyEvaluation, evaluate
from batchnorm.files import as_path
from batchnorm.kernels.draws import global_generators_kept
from batchnorm.network import DenseNetwork
from batchnorm.training.checks import check_device, check_fit, check_kept, check_saved, placed
from batchnorm.training.identity import (
    check_dataset,
    describe_dataset,
    describe_layers,
    describe_network,
    expected_state,
    rebuild,
    recorded_scale,
)
from batchnorm.training.looking import looks_by_default, make_observer
from batchnorm.training.loop import (
    Position,
    batch_slices,
    initial_checkpoint,
    is_finite,
    load_state,
    random_stream,
    train,
)
from batchnorm.training.monitor import Monitor
from batchnorm.training.population import measure_population
from batchnorm.training.recording import discarded_in_vain, recorded
from batchnorm.training.run import Run
from batchnorm.training.runs import Checkpoint, RunFolder, describe_session, differences
from batchnorm.training.surroundings import in_own_surroundings

_SAME_LOSS = 0.01  # relative: beyond what another device or number of threads makes of the last bits
_MAKE_DATASET = "make one by batchnorm.Dataset.from_arrays or batchnorm.load_dataset"


@in_own_surroundings
def fit(
    network: nn.Module,
    dataset: Dataset,
    config: TrainingConfig | None = None,
    *,
    out: str | Path | None = None,
    device: str | torch.device = "cpu",
    monitor: Monitor | None = None,
    observe: bool | None = None,
) -> Run:
    """Train a network, evaluate it on the way, and test it once at the end.

    Each epoch goes once through the training set in a new order. Every step normalises with its batch's moments and
    moves the running averages; every evaluation is in inference mode. After the last step the exact population
    statistics of the training set are computed, and the test set's figures are given with both. Where they cannot be
    (as of TorchScript), the results have a "note" that says why, and `monitor` is warned.

    The same seed on the same machine with the same packages and number of threads gives the same weights, to the bit,
    wherever this is called from (inside of autocasting, inference mode, another default dtype or device, in threads).
    Torch's global random generators are afterwards as they were. docs/training.md has the table of modules.
    Where numba is missing, `monitor` is warned that training goes through autograd.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits (batch, n_classes), one per class or label, or to values, which are
        those of the data set standardised with its `target_scale`; one value or label may come as (batch,). Trained in
        place, and left in inference mode on `device`. A `DenseNetwork` decides for itself the configuration's fields
        that describe the network.
    dataset : Dataset
        Its `task` says what is learnt: classes, several labels at once, or values.
    config : TrainingConfig, optional
    out : str or Path, optional
        A run folder to make; without one, nothing is saved. If training fails before there is anything to go on from,
        none is left.
    device : str or torch.device, default "cpu"
        "cpu", "cuda" or "cuda:1".
    monitor : Monitor, optional
        Is told of every step and evaluation; `batchnorm.ProgressMonitor` shows them. Without one, warnings
        are Python's.
    observe : bool, optional
        Whether to look into the layers (`observe_layers`) of up to five hundred training examples before the first step
        and at evaluations, at most some 25 times: see `Run.layers`. It changes nothing of what is trained. By
        default of an unaltered `DenseNetwork` with a run folder; of another module it may take long.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If the network does not fit the data, the device is not there, or `out` exists.
    DivergedError
        If a loss, of a step or an evaluation, or a weight becomes NaN or infinite; the last good checkpoint is kept.
    TrainingInterrupted
        On Ctrl-C, SIGTERM or SIGHUP, after the step was finished and the state saved.

    Examples
    --------
    >>> import batchnorm as bn
    >>> network = bn.DenseNetwork(64, (32,), 10)
    >>> run = bn.fit(network, bn.load_dataset("digits"), bn.TrainingConfig(epochs=2))
    >>> run.test_accuracy > 0.8
    True
    """
    config = TrainingConfig() if config is None else config
    check_kind("network", network, nn.Module, "give an instance of a torch.nn.Module")
    check_kind("dataset", dataset, Dataset, _MAKE_DATASET)
    check_kind("config", config, TrainingConfig, "batchnorm.TrainingConfig(epochs=1), for example")
    monitor, out = _checked_monitor(monitor), None if out is None else as_path("out", out)
    if isinstance(network, DenseNetwork):
        config = replace(config, **network.architecture)
    place = check_device(device)
    uncalled = None if out is None else describe_layers(network)
    with global_generators_kept(place):
        check_fit(placed(network, place), dataset, config, place)
    folder, sessions = None, [describe_session(place, dataset.source, dataset.origin)]
    if out is not None:
        check_saved(network)
    if out is not None or config.early_stopping_patience is not None:
        check_kept(network)
    observe = (out is not None and looks_by_default(network)) if observe is None else bool(observe)
    if out is not None:
        settings = {
            "config": config.to_dict(),
            "network": describe_network(network, uncalled),
            "dataset": describe_dataset(dataset),
        }
        folder = RunFolder.create(out, settings, initial_checkpoint(network), sessions[0], looks=observe)
    with discarded_in_vain(folder):
        return _run(network, dataset, config, None, folder, sessions, place, monitor, observe)


@in_own_surroundings
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
        Needed if the run does not train a `DenseNetwork` as its constructor builds it: its weights are replaced.
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
    check_kind("dataset", dataset, Dataset, _MAKE_DATASET)
    monitor, folder = _checked_monitor(monitor), RunFolder.open(as_path("path", path))
    check_dataset(folder, dataset)
    if folder.is_finished:
        folder.remove_leftovers()
        run = load_run(path, network=network)
        _tell_again(run, dataset, monitor)
        return run
    beginning = folder.load_checkpoint(expected_state(folder))
    network, config = rebuild(folder, network, to_train=True)
    place = check_device(device)
    with global_generators_kept(place):
        check_fit(placed(network, place), dataset, config, place)
    earlier, session = folder.load_sessions(), describe_session(place, dataset.source, dataset.origin)
    for difference in differences(earlier[0], session) if earlier else ():
        monitor.warn(difference)
    observe = folder.load_looks() is not None
    return _run(network, dataset, config, beginning, folder, [*earlier, session], place, monitor, observe)


@in_own_surroundings
def load_run(path: str | Path, *, network: nn.Module | None = None) -> Run:
    """Load a finished run: its network, trained and in inference mode, its history and its results.

    Parameters
    ----------
    path : str or Path
        The run folder.
    network : torch.nn.Module, optional
        Needed if the run did not train a `DenseNetwork` as its constructor builds it: its weights are replaced.

    Returns
    -------
    Run

    Raises
    ------
    InputError
        If `path` is not a run folder, is not finished, or does not fit `network`.
    """
    folder = RunFolder.open(as_path("path", path))
    weights, population, results = folder.load_results(expected_state(folder))
    network, config = rebuild(folder, network, to_train=False)
    try:
        load_state(network, weights)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit the network: {in_words(error)}") from error
    if not is_finite(network):
        raise InputError(f"{folder.path / 'weights.safetensors'} is damaged: a weight is NaN or infinite")
    network.eval()
    history, scale = folder.load_history(results["epochs"]), recorded_scale(folder)
    signature = Signature.recorded(folder.settings["dataset"])
    looks = folder.load_looks() or []
    return Run(network, config, history, results, population, folder.path, signature, folder.task, scale, looks)


@in_own_surroundings
def evaluate_run(
    path: str | Path,
    dataset: Dataset,
    part: str = "test",
    *,
    network: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, AnyEvaluation]:
    """Evaluate a finished run on a part of its data, with both kinds of statistics.

    Parameters
    ----------
    path : str or Path
        The run folder.
    dataset : Dataset
        The data that the run was begun with.
    part : {"test", "validation", "train"}, default "test"
    network : torch.nn.Module, optional
        As for `load_run`. It is left with the population statistics, if there are any.
    device : str or torch.device, default "cpu"

    Returns
    -------
    dict of str to Evaluation, LabelsEvaluation or ValuesEvaluation
        With "running" averages and, if the network has batch-norm layers, with "population" statistics.

    Warns
    -----
    BatchnormWarning
        If the loss on the test set is another one than the run ended with: the network computes with more than what is
        saved of it.
    """
    check_kind("dataset", dataset, Dataset, _MAKE_DATASET)
    if part not in dataset.parts:
        raise InputError(f"part is {part!r}, expected {', '.join(dataset.parts)}")
    check_dataset(RunFolder.open(as_path("path", path)), dataset)
    run, place = load_run(path, network=network), check_device(device)
    network, examples = run.network.to(place), dataset.parts[part].to(place)
    evaluations = {"running": evaluate(network, examples)}
    if part == "test":
        _warn_of_another_loss(run.results["test"]["running"]["loss"], evaluations["running"].loss)
    if run.population:
        load_state(network, network.state_dict() | run.population)  # not every module's own takes strict=False
        evaluations["population"] = evaluate(network, examples)
    return evaluations


def _checked_monitor(monitor: Monitor | None) -> Monitor:
    """Return what is told of a training, before there is anything to tell."""
    monitor = Monitor() if monitor is None else monitor
    check_kind("monitor", monitor, Monitor, "give an instance of a class that is derived from batchnorm.Monitor")
    return monitor


def _run(
    network: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    beginning: Checkpoint | None,
    folder: RunFolder | None,
    sessions: list[dict[str, Any]],
    device: torch.device,
    monitor: Monitor,
    observe: bool,
) -> Run:
    training, validation, test = (part.to(device) for part in dataset.parts.values())
    stream = random_stream(config, network, device)
    observer = make_observer(network, training, config, monitor) if observe else None
    try:
        with recorded(folder, sessions, network):
            position = train(
                network,
                training,
                validation,
                config,
                beginning=beginning,
                folder=folder,
                monitor=monitor,
                stream=stream,
                n_classes=dataset.n_classes,
                observer=observer,
            )
            with stream.drawn_globally():  # computing the statistics gives random states back: nobody else's
                run = _finish(network, training, test, config, position, folder, monitor, Signature.of(dataset))
                run.layers.extend(observer.looks if observer else ())
            monitor.finished(copy.deepcopy(run.results))
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
    monitor: Monitor,
    signature: Signature,
) -> Run:
    """Compute the population statistics, test with both kinds, save."""
    population = measure_population(network, training, test)
    evaluations = {"running": evaluate(network, test)}
    if population.evaluation is not None:
        evaluations["population"] = population.evaluation
    results: dict[str, Any] = {
        "epochs": position.epoch,
        "stopped_early": position.stopped_early,
        "test": {kind: found.figures for kind, found in evaluations.items()},
    }
    if not math.isfinite(loss := evaluations["running"].loss):
        raise DivergedError(
            f"the loss on the test set is {loss}: look for outliers in its data, or try a smaller learning_rate; what "
            "was trained is kept, the run is not finished"
        )
    if population.obstacle is not None:
        results["note"] = population.obstacle
    if folder:
        folder.save_results(network.state_dict(), population.statistics, results)
    if population.obstacle is not None:
        monitor.warn(population.obstacle)
    path = folder.path if folder else None
    task, scale = task_of(test.labels), test.target_scale
    return Run(network, config, position.history, results, population.statistics, path, signature, task, scale)


def _warn_of_another_loss(recorded: float, found: float) -> None:
    if not math.isclose(recorded, found, rel_tol=_SAME_LOSS, abs_tol=_SAME_LOSS / 10):
        warnings.warn(
            f"the loss on the test set is {found:.4g}, and was {recorded:.4g} when the run ended: the network computes "
            "with something that its state_dict() leaves out, or draws random numbers",
            BatchnormWarning,
            stacklevel=2,
        )


def _tell_again(run: Run, dataset: Dataset, monitor: Monitor) -> None:
    """Tell of a finished run as if it had just been trained."""
    steps_per_epoch = len(batch_slices(len(dataset.train), run.config.batch_size))
    monitor.begin(run.config, steps_per_epoch, run.results["epochs"], 0)
    try:
        for record in run.history:
            monitor.evaluated(dict(record))
        for look in copy.deepcopy(run.layers):
            monitor.looked(look)
        monitor.finished(copy.deepcopy(run.results))
    finally:
        monitor.end()
