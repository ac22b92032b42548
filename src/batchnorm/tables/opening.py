"""Loading a run of either kind, and going on with it: on a data set, or on a table of one's own."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchnorm.data import Dataset
from batchnorm.errors import InputError
from batchnorm.files import as_path
from batchnorm.tables.folder import holds_table
from batchnorm.tables.runs import TableRun
from batchnorm.training import Monitor, Run
from batchnorm.training import load_run as load_training_run
from batchnorm.training import resume as resume_training


def load_run(path: str | Path, *, network: nn.Module | None = None) -> Run | TableRun:
    """Load a finished run: its network, trained and in inference mode, its history and its results.

    Parameters
    ----------
    path : str or Path
        The run folder.
    network : torch.nn.Module, optional
        Needed if the run did not train a `DenseNetwork` as its constructor builds it: its weights are replaced.

    Returns
    -------
    Run or TableRun
        Of a table of one's own the second, whose `predict` takes a frame.

    Raises
    ------
    InputError
        If `path` is not a run folder, is not finished, or does not fit `network`.
    """
    folder = as_path("path", path)
    if not holds_table(folder):
        return load_training_run(folder, network=network)
    if network is not None:
        raise InputError(f"{folder} holds a run on a table, which has a network of its own: leave out network")
    return TableRun.load(folder)


def resume(
    path: str | Path,
    dataset: Dataset | None = None,
    *,
    network: nn.Module | None = None,
    device: str | torch.device = "cpu",
    monitor: Monitor | None = None,
    data_dir: str | Path | None = None,
) -> Run | TableRun:
    """Go on with a run that was stopped or killed; it ends as if it had never been. A finished one is loaded.

    Parameters
    ----------
    path : str or Path
        The run folder.
    dataset : Dataset, optional
        The data that the run was begun with. A run on a table finds its files by itself, and takes no other argument
        than `data_dir`.
    network : torch.nn.Module, optional
        Needed if the run does not train a `DenseNetwork` as its constructor builds it: its weights are replaced.
    device, monitor
        As for `fit`.
    data_dir : str or Path, optional
        Of a run on a table: where its files are now; by default where they were.

    Returns
    -------
    Run or TableRun
        Of a table of one's own the second.

    Warns
    -----
    BatchnormWarning
        If versions, processor or threads are others than those that it was begun with: its last bits may differ.

    Raises
    ------
    InputError
        If `path` is not a run folder, or was begun with other data or another network.
    TrainingInterrupted
        On Ctrl-C, SIGTERM or SIGHUP, after the step was finished and the state saved.
    """
    folder = as_path("path", path)
    if not holds_table(folder):
        if data_dir is not None:
            raise InputError("data_dir is for a run on a table: leave it out, and give the dataset")
        given: Any = dataset  # what is none is refused there
        return resume_training(folder, given, network=network, device=device, monitor=monitor)
    others = {"dataset": dataset, "network": network, "monitor": monitor, "device": None if device == "cpu" else device}
    if wrong := [name for name, value in others.items() if value is not None]:
        raise InputError(f"{folder} holds a run on a table, which knows its data and network: leave out {wrong[0]}")
    from batchnorm.tables.resuming import resume_table

    return resume_table(folder, None if data_dir is None else as_path("data_dir", data_dir))
