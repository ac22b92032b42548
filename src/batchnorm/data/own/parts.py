"""From examples with their labels to a data set in three parts; those that did not come are drawn."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from batchnorm.data.dataset import Dataset, split
from batchnorm.data.examples import Examples
from batchnorm.data.scratch import new_array
from batchnorm.data.targets import names_classes
from batchnorm.errors import InputError

PARTS = ("train", "validation", "test")
_SHARE = 0.1  # of what came for training, for each part that is drawn
_FEWEST = 10  # examples without classes that parts are drawn from
_ORDER = ("test", "validation")  # as of data sets that have a name

Part = tuple[NDArray[Any], NDArray[Any]]


def usual_name(path: Path, otherwise: str) -> str:
    """Return what a data set is called that comes from a path: as text, whatever bytes that has."""
    return os.fsencode(path.name).decode(errors="replace") or otherwise


def assemble(
    parts: Mapping[str, Part],
    class_names: Sequence[str],
    *,
    name: str,
    source: str,
    split_seed: int,
    origin: Mapping[str, Any],
) -> Dataset:
    """Return the data set of parts that came, drawing the others.

    Parameters
    ----------
    parts : mapping of str to (inputs, labels)
        "train" is among them; inputs are `uint8`, or as they are; labels as `Examples` keep them.
    class_names : sequence of str
        Of classes, which labels index, or of the columns of labels.
    name, source : str
    split_seed : int
    origin : mapping

    Raises
    ------
    InputError
        If there are fewer than two classes, or one has too few examples; or too few to draw parts from.
    """
    missing = [part for part in _ORDER if part not in parts]
    inputs, labels = parts["train"]
    if labels.ndim == 1:
        _check_classes(labels, class_names, name, len(missing))
    elif missing and len(labels) < _FEWEST:
        raise InputError(
            f"{name} has {len(labels)} examples, expected at least {_FEWEST} to draw parts from: give them"
        )
    given = {part: _examples(*values) for part, values in parts.items() if part != "train"}
    left, n_taken = np.arange(len(labels)), round(_SHARE * len(labels))
    for part in missing:
        left, taken = split(left, labels, n_taken, split_seed, name)
        given[part] = _taken(inputs, labels, taken)
    training = _taken(inputs, labels, left) if missing else _examples(inputs, labels)
    seed = split_seed if missing else None
    return Dataset(name, training, given["validation"], given["test"], class_names, source, seed, origin)


def _taken(inputs: NDArray[Any], labels: NDArray[Any], indices: NDArray[np.int64]) -> Examples:
    kept = np.sort(indices)  # the order within a part says nothing
    taken = new_array((len(kept), *inputs.shape[1:]), inputs.dtype)
    return _examples(np.take(inputs, kept, axis=0, out=taken, mode="clip"), labels[kept])  # clip: without a buffer


def _examples(inputs: NDArray[Any], labels: NDArray[Any]) -> Examples:
    scale = 1 / 255 if inputs.dtype == np.uint8 else 1.0
    return Examples(torch.from_numpy(np.require(inputs, requirements=["C", "W"])), torch.from_numpy(labels), scale)


def _check_classes(labels: NDArray[np.int64], class_names: Sequence[str], name: str, n_drawn: int) -> None:
    if len(class_names) < 2:
        raise InputError(f"{name} has one class, {class_names[0]!r}: expected at least two to tell apart")
    counts, least = np.bincount(labels, minlength=len(class_names)), max(2, 1 + n_drawn)
    rarest = int(counts.argmin())
    if counts[rarest] < least:
        raise InputError(
            f"{name} has {counts[rarest]} of class {class_names[rarest]!r} to train on, expected at least "
            f"{least}{_or_values(class_names, len(labels))}"
        )
    needed = round(len(class_names) / _SHARE)
    if n_drawn and len(labels) < needed:
        raise InputError(
            f"{name} has {len(labels)} examples of {len(class_names)} classes, expected at least {needed}, so that a "
            "tenth of them, on which the network is tested, can hold each class: add some, or give the parts"
        )


def _or_values(class_names: Sequence[str], n_examples: int) -> str:
    """Return a hint where classes are so many numbers that they may be values."""
    are_numbers = all(name.lstrip("-").isdigit() for name in class_names)
    are_classes = not are_numbers or names_classes(len(class_names), n_examples, whole=True)
    return "" if are_classes else "; if labels are values, say so by task regression"
