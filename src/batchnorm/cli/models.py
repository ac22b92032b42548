"""Models that someone names, their weights, and arrays as batches: what the toolkit's commands work on."""

import importlib
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from batchnorm.errors import InputError
from batchnorm.files import to_safetensors, write_atomically

_PREFIXES = ("model.", "module.", "_orig_mod.")  # of Lightning, of parallel wrappers, of torch.compile
_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights among other things


def build_model(reference: str) -> nn.Module:
    """Import and call what ``package.module:name`` refers to.

    Parameters
    ----------
    reference : str
        ``name`` is a function or class that takes no arguments and returns a `torch.nn.Module`, or is one. The current
        folder is looked in first.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    InputError
        If there is no such thing, or it is not a model.
    """
    module_name, _, name = reference.partition(":")
    if not module_name or not name:
        raise InputError(
            f"{reference!r} is neither a run folder nor of the form package.module:name, such as mymodels:build_model"
        )
    if (folder := os.getcwd()) not in sys.path:  # noqa: PTH109  # a str is what the path holds
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise InputError(f"there is no module {error.name!r}, neither in {folder} nor installed") from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"module {module_name!r} has no {name!r}")
        found = getattr(found, part)
    if not isinstance(found, nn.Module) and callable(found):
        try:
            found = found()
        except SystemExit as error:
            raise InputError(f"{reference} ended the process (exit code {error.code}), expected a model") from error
    if not isinstance(found, nn.Module):
        raise InputError(f"{reference} gave a {type(found).__name__}, expected a torch.nn.Module")
    return found


def load_weights(model: nn.Module, path: Path) -> None:
    """Load weights into a model; from safetensors, or from what `torch.save` has written as far as it holds tensors.

    Nothing is unpickled that could run code (``weights_only=True``).

    Raises
    ------
    InputError
        If the file cannot be read or does not fit the model.
    """
    state = _read(path)
    for key in _NESTED:
        if isinstance(state.get(key), Mapping):
            state = state[key]
    for prefix in _PREFIXES:
        if state and all(str(key).startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"the weights in {path} do not fit the model: {' '.join(str(error).split())}") from error


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load(content))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # torch raises pickle's own errors, and advises to run what is in the file
        raise InputError(
            f"{path} holds more than tensors, or is damaged: save the state_dict of the model, as safetensors or by "
            "torch.save"
        ) from error
    if not isinstance(state, dict):
        raise InputError(f"{path} holds a {type(state).__name__}, expected weights by name")
    return state


def float_type(model: nn.Module) -> torch.dtype:
    """Return the type in which a model computes: of its first floating-point parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's weights as safetensors."""
    write_atomically(path, to_safetensors(model.state_dict()))


class ArrayBatches:
    """Arrays in .npy files, cut into batches as often as one likes; read as they are needed.

    Yields inputs, or pairs of inputs and labels.

    Parameters
    ----------
    inputs : Path
        An array (examples, …) as the model takes it.
    labels : Path, optional
        Classes (examples,) as whole numbers.
    batch_size : int
    dtype : torch.dtype
        What floating-point inputs become.

    Raises
    ------
    InputError
        If a file is not such an array, or the two do not fit each other.
    """

    def __init__(self, inputs: Path, labels: Path | None, batch_size: int, dtype: torch.dtype = torch.float32):
        self._inputs, self._batch_size, self._dtype = _open(inputs), batch_size, dtype
        self._labels = None if labels is None else _open(labels)
        if self._labels is None:
            return
        if self._labels.ndim != 1 or self._labels.dtype.kind not in "iu":
            raise InputError(
                f"{labels} has shape {self._labels.shape} of {self._labels.dtype}, expected classes (examples,) as "
                "whole numbers"
            )
        if len(self._labels) != len(self._inputs):
            raise InputError(
                f"{labels} has {len(self._labels)} labels for the {len(self._inputs)} examples of {inputs}"
            )

    def __len__(self) -> int:
        return math.ceil(len(self._inputs) / self._batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for start in range(0, len(self._inputs), self._batch_size):
            rows = slice(start, start + self._batch_size)
            x = torch.from_numpy(np.array(self._inputs[rows]))
            x = x.to(self._dtype) if x.is_floating_point() else x
            yield x if self._labels is None else (x, torch.from_numpy(np.array(self._labels[rows], dtype=np.int64)))


def _open(path: Path) -> Any:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{path} is not an array that numpy.save has written: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim < 1 or not len(array):
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise InputError(f"{path} holds {what}, expected an array of numbers (examples, …)")
    return array
