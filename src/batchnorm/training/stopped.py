"""What a run that is not finished has trained so far."""

from pathlib import Path

from torch import nn

from batchnorm.data import Signature
from batchnorm.errors import InputError, in_words
from batchnorm.files import as_path
from batchnorm.training.identity import expected_state, rebuild, recorded_scale
from batchnorm.training.loop import load_state
from batchnorm.training.run import Run
from batchnorm.training.runs import RunFolder
from batchnorm.training.surroundings import in_own_surroundings


@in_own_surroundings
def load_stopped(path: str | Path, *, network: nn.Module | None = None) -> Run:
    """Load a run that was stopped or has diverged, as it was at its last checkpoint, or still is.

    Parameters
    ----------
    path : str or Path
        The run folder.
    network : torch.nn.Module, optional
        As for `load_run`.

    Returns
    -------
    Run
        Without figures of the test set, and without population statistics: `results["test"]` and `population` are
        empty.

    Raises
    ------
    InputError
        If `path` is not a run folder, or does not fit `network`.
    """
    folder = RunFolder.open(as_path("path", path))
    checkpoint = folder.load_checkpoint(expected_state(folder))
    network, config = rebuild(folder, network, to_train=False)
    tensors = {name.partition(".")[2]: t for name, t in checkpoint.tensors.items() if name.startswith("network.")}
    try:
        load_state(network, tensors)
    except RuntimeError as error:
        raise InputError(f"the checkpoint in {path} does not fit the network: {in_words(error)}") from error
    network.eval()
    results = {"epochs": checkpoint.state["epoch"], "stopped_early": False, "test": {}}
    history, signature = checkpoint.state["history"], Signature.recorded(folder.settings["dataset"])
    scale, looks = recorded_scale(folder), folder.load_looks() or []
    return Run(network, config, history, results, {}, folder.path, signature, folder.task, scale, looks)
