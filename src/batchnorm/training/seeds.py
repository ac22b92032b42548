"""The same training from several seeds: results are a mean and a spread, not one run's luck."""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset
from batchnorm.network import DenseNetwork
from batchnorm.training.checks import check_device
from batchnorm.training.fitting import Run, fit, resume
from batchnorm.training.monitor import Monitor
from batchnorm.training.runs import Plan, describe_session, save_summary


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
    out : str or Path
        A folder to make, with a run folder per seed and a summary.
    resuming : bool, default False
        Go on with what `out` holds: finished runs are loaded, a stopped one goes on, the others are begun.
    device, monitor
        As for `batchnorm.fit`.

    Returns
    -------
    list of Run
    """
    out = Path(out)
    configs = [replace(config, seed=config.seed + i) for i in range(n_seeds)]
    if not resuming:
        session = describe_session(check_device(device), dataset.source)
        Plan(config, dataset.name, dataset.split_seed, n_seeds, session).save(out)
    runs = []
    for seeded in configs:
        path = out / f"seed-{seeded.seed}"
        if path.exists():
            runs.append(resume(path, dataset, device=device, monitor=monitor))
        else:
            network = DenseNetwork.from_config(seeded, dataset.n_features, dataset.n_classes)
            runs.append(fit(network, dataset, seeded, out=path, device=device, monitor=monitor))
    save_summary(out, summarize(runs))
    return runs


def summarize(runs: Sequence[Run]) -> dict[str, Any]:
    """Return mean and sample standard deviation over at least two runs, of each evaluation and of the test accuracy.

    Epochs that not all runs evaluated (some stopped early) are left out.
    """
    records = [{record["epoch"]: record for record in run.history} for run in runs]
    common = [epoch for epoch in records[0] if all(epoch in of_run for of_run in records)]
    measures = ("train_accuracy", "validation_accuracy")
    evaluations = [
        {"epoch": epoch} | {name: _spread([of_run[epoch][name] for of_run in records]) for name in measures}
        for epoch in common
    ]
    test = {
        kind: _spread([run.results["test"][kind]["accuracy"] for run in runs])
        for kind in ("running", "population")
        if all(kind in run.results["test"] for run in runs)  # one may have been recalibrated since
    }
    return {"seeds": [run.config.seed for run in runs], "evaluations": evaluations, "test_accuracy": test}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values), "values": list(values)}
