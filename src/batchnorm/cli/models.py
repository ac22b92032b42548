"""Models that someone names, their weights, and arrays as batches: what the toolkit's commands work on."""

import importlib
import inspect
import io
import math
import os
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.data import as_columns, task_of
from batchnorm.errors import BatchnormError, InputError, with_class
from batchnorm.files import open_regular, to_safetensors, write_atomically

_PREFIXES = ("model.", "module.", "_orig_mod.")  # of Lightning, of parallel wrappers, of torch.compile
_NESTED = ("state_dict", "model_state_dict", "model")  # where checkpoints keep the weights among other things


_ZIP_MAGIC = b"PK"
_MOST_CHARACTERS = 500  # of what others say in an error


@contextmanager
def others_code(reference: str, data: Path | None) -> Iterator[None]:
    """Run what someone else wrote: what it prints goes to standard error, and where it ends is told in one line.

    Parameters
    ----------
    reference : str
        What was given as the model.
    data : Path, optional
        The inputs that were given.

    Raises
    ------
    InputError
        If it ends the process, or the model fails on its inputs.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except SystemExit as error:
        raise InputError(f"{reference} ended the process (exit code {error.code}), expected a model") from error
    except (BatchnormError, KeyboardInterrupt):
        raise
    except EOFError as error:  # files that end too soon have errors of their own
        raise InputError(
            f"{reference} asked for input, of which there is none: name what builds a model by itself"
        ) from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if not _comes_from_a_module(error):
            raise
        inputs = "its inputs" if data is None else f"the inputs in {data}"
        raise InputError(f"{reference} cannot take {inputs}: {_in_short(error)}") from error
    except BaseException as error:
        if isinstance(error, Exception):
            raise
        raise InputError(f"{reference} raised {_shortened(with_class(error))}") from error


def _comes_from_a_module(error: Exception) -> bool:
    call = nn.Module._call_impl.__code__
    return any(frame.f_code is call for frame, _ in traceback.walk_tb(error.__traceback__))


def _in_short(error: BaseException) -> str:
    return _shortened(str(error).strip() or with_class(error))


def _shortened(text: str) -> str:
    return textwrap.shorten(text, _MOST_CHARACTERS, placeholder=" …")


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
        If there is no such thing, it is not a model, or what builds it needs arguments.
    """
    module_name, _, name = reference.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *name.split("."))):
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
        _check_signature(reference, found)
        found = found()
    if inspect.iscoroutine(found):
        found.close()  # which nobody awaits
        raise InputError(f"{reference} is an async function, expected one that returns a torch.nn.Module")
    if not isinstance(found, nn.Module):
        raise InputError(f"{reference} gave a {type(found).__name__}, expected a torch.nn.Module")
    return found


def _check_signature(reference: str, builder: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # of what is not written in Python
        return
    try:
        signature.bind()
    except TypeError as error:
        raise InputError(
            f"{reference} cannot be called without arguments ({error}): name a function that takes none, or a model"
        ) from error


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
    _check_real(model, state, path)
    try:
        model.load_state_dict(state)
    except Exception as error:  # a model may load its weights as it likes
        raise InputError(f"the weights in {path} do not fit the model: {_in_short(error)}") from error


def _check_real(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Refuse what torch would load with a warning: complex numbers, without their imaginary parts."""
    for name, tensor in model.state_dict().items():
        given = state.get(name)
        if isinstance(given, Tensor) and isinstance(tensor, Tensor) and given.is_complex() and not tensor.is_complex():
            raise InputError(f"the weights in {path} do not fit the model: {name} is {given.dtype}, not {tensor.dtype}")


def _read(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        return _read_safetensors(path, file) if path.suffix == ".safetensors" else _read_torch(path, file)


def _read_safetensors(path: Path, file: io.BufferedReader) -> dict[str, Any]:
    try:
        return dict(safetensors.torch.load(file.read()))
    except Exception as error:  # safetensors' own, or a KeyError for a type that torch does not have
        raise InputError(f"{path} cannot be read as weights: {_in_short(error)}") from error


def _read_torch(path: Path, file: io.BufferedReader) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # that others would read it in another way
            state = torch.load(file, map_location="cpu", weights_only=True)
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


def takes_indices(model: nn.Module) -> bool:
    """Tell whether whole numbers are places in a table to a model, and not to be computed with."""
    return any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in model.modules())


def cross_entropy(outputs: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of a batch of inputs and classes.

    Raises
    ------
    InputError
        If the outputs are not logits of these classes.
    """
    labels = batch[1]
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(f"the model's outputs are {shape}, expected logits (examples, classes): leave out --labels")
    if labels.max() >= outputs.shape[1]:
        raise InputError(f"label {labels.max()} among the examples, but the model has {outputs.shape[1]} outputs")
    return F.cross_entropy(outputs, labels)


def loss_of_run(outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the loss of a batch of what a run learnt: classes, several labels, or standardised values."""
    outputs, labels = as_columns(outputs, batch[1]), batch[1]
    task = task_of(labels)
    if task == "classification":
        return cross_entropy(outputs, batch)
    if task == "labels":
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="sum") / len(labels)
    return F.mse_loss(outputs, labels.to(outputs.dtype)) / 2


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
    model : torch.nn.Module
        Inputs become what it computes in, but for whole numbers where it takes indices.

    Raises
    ------
    InputError
        If a file is not such an array, or the two do not fit each other.
    """

    def __init__(self, inputs: Path, labels: Path | None, batch_size: int, model: nn.Module):
        self._inputs, self._batch_size = _map(inputs), batch_size
        are_indices = takes_indices(model) and self._inputs.dtype.kind in "iu"
        self._dtype = torch.int64 if are_indices else float_type(model)
        if self._inputs.ndim < 2 and not are_indices:
            raise InputError(
                f"{inputs} has shape {self._inputs.shape}, expected (examples, features) or more dimensions: use "
                "x[:, None] for one feature, x[None] for one example"
            )
        self._labels = None if labels is None else _map(labels)
        if self._labels is not None:
            _check_labels(labels, self._labels)
            if len(self._labels) != len(self._inputs):
                raise InputError(
                    f"{labels} has {len(self._labels)} labels for the {len(self._inputs)} examples of {inputs}"
                )

    def __len__(self) -> int:
        return math.ceil(len(self._inputs) / self._batch_size)

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        for start in range(0, len(self._inputs), self._batch_size):
            rows = slice(start, start + self._batch_size)
            x = _tensor(self._inputs[rows]).to(self._dtype)
            yield x if self._labels is None else (x, _tensor(self._labels[rows]).long())


def _map(path: Path) -> Any:
    """Return the array in a file, which is read as it is needed."""
    with open_regular(path) as file:
        if file.read(len(_ZIP_MAGIC)) == _ZIP_MAGIC:
            raise InputError(f"{path} is an archive of arrays (.npz), expected one array: write it by numpy.save")
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers that Python 2 wrote
            array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy's texts advise to unpickle
        raise InputError(
            f"{path} is not an array that numpy.save has written, holds Python objects, or is damaged"
        ) from error
    if array.dtype.kind not in "fiub" or array.ndim < 1 or not array.size:
        raise InputError(f"{path} holds {array.dtype} {array.shape}, expected an array of numbers (examples, …)")
    return array


def _check_labels(path: Path | None, labels: Any) -> None:
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise InputError(
            f"{path} has shape {labels.shape} of {labels.dtype}, expected classes (examples,) as whole numbers: use "
            ".argmax(1) where they are one-hot, .astype(int) where they are no integers"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest > np.iinfo(np.int64).max:
        raise InputError(f"{path} has labels from {lowest} to {highest}, expected classes from 0 on")


def _tensor(rows: Any) -> Tensor:
    """Return a copy in memory, in a type that torch knows: in the machine's byte order, no longer than 64 bits."""
    dtype = rows.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(rows, np.float64 if dtype.itemsize > 8 else dtype))
