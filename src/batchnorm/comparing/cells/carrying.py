"""A data set in files, as the processes that train on it map them into memory: they share one copy."""

from pathlib import Path

import numpy as np
import torch

from batchnorm.data import Dataset, Examples
from batchnorm.errors import BatchnormError, InputError, in_words
from batchnorm.files import parse_json, to_json

_DESCRIPTION = "dataset.json"


def save_dataset(dataset: Dataset, folder: Path) -> None:
    """Write a data set into an empty folder.

    Raises
    ------
    InputError
        If its inputs are of a type that numpy does not know.
    BatchnormError
        If the disk is full.
    """
    described = {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "source": dataset.source,
        "split_seed": dataset.split_seed,
        "origin": None if dataset.origin is None else dict(dataset.origin),
        "scales": {name: part.scale for name, part in dataset.parts.items()},
    }
    (folder / _DESCRIPTION).write_bytes(to_json(described))
    for name, part in dataset.parts.items():
        for kind, tensor in (("inputs", part.inputs), ("labels", part.labels)):
            file = folder / f"{name}-{kind}.npy"
            try:
                np.save(file, tensor.cpu().numpy(), allow_pickle=False)
            except TypeError as error:
                raise InputError(f"the {kind} of {dataset.name} go to no other process: {in_words(error)}") from error
            except OSError as error:
                message = (
                    f"{file} cannot be written: {error.strerror or 'the disk is full'}; jobs=1 writes no such file"
                )
                on_command_line = message.replace("jobs=1", "--jobs 1")
                raise BatchnormError(message, on_command_line=on_command_line) from error


def load_dataset(folder: Path) -> Dataset:
    """Return the data set that `save_dataset` has written."""
    described = parse_json((folder / _DESCRIPTION).read_bytes(), _DESCRIPTION)
    for name, scale in described.pop("scales").items():
        inputs, labels = (_mapped(folder / f"{name}-{kind}.npy") for kind in ("inputs", "labels"))
        described[name] = Examples(inputs, labels, scale)
    return Dataset(**described)


def _mapped(path: Path) -> torch.Tensor:
    """Map an array into memory; what is written to it stays in this process."""
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))
