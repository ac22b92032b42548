"""Loading a run of either kind: on a data set, or on a table of one's own."""

from pathlib import Path

from torch import nn

from batchnorm.errors import InputError
from batchnorm.files import as_path
from batchnorm.tables.runs import TableRun, holds_table
from batchnorm.training import Run
from batchnorm.training import load_run as load_training_run


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
