"""The same training from several seeds: results are a mean and a spread, not one run's luck."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from batchnorm.config import N_SEEDS, Task, TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import InputError
from batchnorm.files import as_path
from batchnorm.memory import check_training_memory
from batchnorm.network import DenseNetwork
from batchnorm.training.checks import check_device
from batchnorm.training.fitting import fit, resume
from batchnorm.training.monitor import Monitor
from batchnorm.training.run import Run
from batchnorm.training.runs import Plan, RunFolder, describe_session, save_summary
from batchnorm.training.surroundings import in_own_surroundings

_MEASURES: dict[Task, tuple[str, ...]] = {
    "classification": ("accuracy",),
    "labels": ("accuracy", "accuracy_of_labels"),
    "regression": ("r2", "rmse", "mae"),
}


@in_own_surroundings
def fit_seeds(
    dataset: Dataset,
    config: TrainingConfig,
    n_seeds: int,
    *,
    out: str | Path,
    resuming: bool = False,
    device: str | torch.device = "cpu",
    monitor: Monitor | None = None,
) -> list[Run]:
    """Train the network that a configuration describes from `n_seeds` seeds: config.seed and those after it.

    Parameters
    ----------
    dataset : Dataset
    config : TrainingConfig
    n_seeds : int
        From 2 to 10,000.
    out : str or Path
        A folder to make, with a run folder per seed and a summary.
    resuming : bool, default False
        Go on with what `out` holds: finished runs are loaded, a stopped one goes on, the others are begun.
    device, monitor
        As for `batchnorm.fit`.

    Returns
    -------
    list of Run

    Raises
    ------
    InputError
        If `n_seeds` is outside its limits, or the network does not fit into memory; and as `batchnorm.fit`.
    """
    out, n_seeds = as_path("out", out), int(N_SEEDS.check("n_seeds", n_seeds))
    place = out.absolute()
    configs = [replace(config, seed=config.seed + i) for i in range(n_seeds)]
    check_training_memory(config, dataset.n_features, dataset.n_classes)
    if not resuming:
        session = describe_session(check_device(device), dataset.source, dataset.origin)
        Plan(config, dataset.name, dataset.split_seed, n_seeds, session).save(out)
    try:
        runs = [
            _fit_one(dataset, seeded, _as_given(out, place) / f"seed-{seeded.seed}", device, monitor)
            for seeded in configs
        ]
    except Exception:
        if not resuming:
            Plan.discard(place)  # if the first run has left nothing: it would be in the way of the next try
        raise
    save_summary(place, summarize(runs))
    return runs


def _as_given(out: Path, place: Path) -> Path:
    """Return a folder as it was given, for messages, unless the process has gone elsewhere meanwhile."""
    return out if out.absolute() == place else place


def _fit_one(
    dataset: Dataset, config: TrainingConfig, path: Path, device: str | torch.device, monitor: Monitor | None
) -> Run:
    if path.exists():
        if (found := RunFolder.open(path).config) != config:
            raise InputError(f"{path} holds another run: its seed is {found.seed}, or its configuration differs")
        return resume(path, dataset, device=device, monitor=monitor)
    network = DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes)
    return fit(network, dataset, config, out=path, device=device, monitor=monitor)


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Return mean and sample standard deviation over at least two runs, of each evaluation and of the test accuracy.

    Of values they are those of R² and both errors; of them and of several labels the test's are under "test". Epochs
    that not all runs evaluated (some stopped early) are left out.
    """
    records = [{record["epoch"]: record for record in run.history} for run in runs]
    common = [epoch for epoch in records[0] if all(epoch in of_run for of_run in records)]
    measures = _MEASURES[runs[0].task]
    names = [f"{part}_{measure}" for part in ("train", "validation") for measure in measures]
    evaluations = [
        {"epoch": epoch} | {name: _spread([of_run[epoch][name] for of_run in records]) for name in names}
        for epoch in common
    ]
    test = {
        kind: {measure: _spread([run.results["test"][kind][measure] for run in runs]) for measure in measures}
        for kind in ("running", "population")
        if all(kind in run.results["test"] for run in runs)  # one may have been recalibrated since
    }
    summary: dict[str, Any] = {"seeds": [run.config.seed for run in runs], "evaluations": evaluations}
    if runs[0].task == "classification":
        return summary | {"test_accuracy": {kind: spreads["accuracy"] for kind, spreads in test.items()}}
    return summary | {"test": test}


def _spread(values: Sequence[Any]) -> dict[str, Any]:
    """Return mean and deviation of a figure, or of each of several; None where it was not measured."""
    if isinstance(values[0], list):
        each = [_spread(figures) for figures in zip(*values, strict=True)]
        return {"mean": [e["mean"] for e in each], "sd": [e["sd"] for e in each], "values": list(values)}
    if None in values:
        return {"mean": None, "sd": None, "values": list(values)}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values), "values": list(values)}
