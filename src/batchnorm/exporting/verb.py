"""`export`: the door, and the only place that writes."""

import os
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any

import torch
from torch import nn

from batchnorm.errors import BatchnormError, InputError
from batchnorm.exporting.result import Exported
from batchnorm.files import as_path, check_writable, write_atomically
from batchnorm.results import Result

FORMATS = ("onnx", "torch", "torch-export")
QUANTIZED = ("int8",)


def export(
    model: Any,
    path: str | os.PathLike[str],
    format: str = "onnx",
    *,
    example: Any = None,
    rows: int | None = None,
    quantize: str | None = None,
) -> Exported:
    """Write a model or a fitted estimator as a file that runs elsewhere, once it is known to compute the same.

    Batch norm is folded away where that can be (see `fold`). Of an estimator the input stage is inside, too: numbers,
    missing ones, scaling, texts, dates; docs/export.md says what each input is. Whatever is refused, no file is
    written, and one that is there stays.

    Parameters
    ----------
    model : torch.nn.Module, estimator or run
        In inference mode (``model.eval()``), or fitted; of a run what it has trained. It is not changed.
        A run on images or arrays takes inputs as `Run.predict` does, not scaled yet, and gives classes by their names,
        labels, or values in their unit.
    path : str or Path
        A file that is there is replaced, at once and wholly.
    format : {"onnx", "torch", "torch-export"}, default "onnx"
        "onnx": a graph for onnxruntime and others, through torch's own exporter. "torch": the state dict of a plain
        `torch.nn.Sequential` as safetensors, with the lines that load it. "torch-export": what `torch.export.load`
        reads.
    example : batch, frame or array, optional
        Of a module, as for `fold`; of an estimator or a run, rows as for `predict`; of a run also the `Dataset` that it
        was trained on, whose test part is compared. By default made up: to compare on real rows, give some.
    rows : int, optional
        How many rows are compared: the first ones of the example; by default all of it, or 100 made-up ones.
    quantize : {"int8"}, optional
        Of a run on images or arrays, for classes, as ONNX, with the `Dataset` that it was trained on as example:
        weights and activations of 8 bits. The file is a quarter as large and not exact; what it costs in accuracy is
        measured, and not refused.

    Returns
    -------
    Exported

    Raises
    ------
    InputError
        If the model is in training mode or the estimator not fitted, the format unknown, `path` no name of a file, or
        the model has something that the format does not.
    BatchnormError
        If the outputs would deviate by more than 1e-5 of their largest value.
    MissingPackageError
        If a package is not installed that the format needs.

    Examples
    --------
    >>> import tempfile
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(export(model, f"{folder}/model.safetensors", "torch").usage)  # doctest: +ELLIPSIS
    from safetensors.torch import load_file
    from torch import nn
    <BLANKLINE>
    model = nn.Sequential(
        nn.Linear(in_features=4, out_features=8, bias=True),
        nn.ReLU(),
        nn.Linear(in_features=8, out_features=2, bias=True),
    )
    model.load_state_dict(load_file('model.safetensors'))
    model.eval()
    """
    target = as_path("path", path)
    if format not in FORMATS:
        raise InputError(f"format is {format!r}, expected one of {', '.join(map(repr, FORMATS))}")
    if rows is not None and (not isinstance(rows, Integral) or isinstance(rows, bool) or rows < 1):
        raise InputError(f"rows is {rows!r}, expected a whole number from 1, or None")
    if quantize is not None:
        _check_quantize(model, format, quantize)
    check_writable(target)
    if isinstance(model, Result) and hasattr(model, "estimator"):  # a run on a table
        model, example = model.estimator, None if example is None else model.inputs(example)
    count = None if rows is None else int(rows)
    with _on_cpu():
        if is_estimator(model):
            from batchnorm.exporting.fitted import write_estimator

            made = write_estimator(model, target.name, format, example, count)
        elif isinstance(model, nn.Module):
            from batchnorm.exporting.foreign import write_module

            made = write_module(model, target.name, format, example, count)
        elif is_run(model):
            from batchnorm.exporting.runs import write_quantized_run, write_run

            if quantize is None:
                made = write_run(model, target.name, format, example, count)
            else:
                made = write_quantized_run(model, target.name, example, count)
        else:
            raise InputError(_neither(model))
    try:
        write_atomically(target, made.content)
    except OSError as error:
        raise BatchnormError(f"{path} cannot be written: {error.strerror or error}") from error
    said = {name: value for name, value in vars(made).items() if name != "content"}
    return Exported(target, format, len(made.content), **said)


def _on_cpu() -> AbstractContextManager[Any]:
    """Have new tensors on the CPU; a mode that is not needed has torch trace a quarter slower."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


def is_estimator(model: object) -> bool:
    """Tell whether something is an estimator of this package, without its import."""
    return any(kind.__module__.startswith("batchnorm.estimator") for kind in type(model).__mro__)


def is_run(model: object) -> bool:
    """Tell whether something is a run on a data set."""
    if not isinstance(model, Result):
        return False
    from batchnorm.training import Run

    return isinstance(model, Run)


def _check_quantize(model: object, format: str, quantize: str) -> None:
    if quantize not in QUANTIZED:
        raise InputError(f"quantize is {quantize!r}, expected {', '.join(map(repr, QUANTIZED))} or None")
    if format != "onnx":
        raise InputError(f"quantize is for the format 'onnx', not for {format!r}: leave one of them out")
    if not is_run(model):
        raise InputError(
            "quantize is for runs on images or arrays: what is trained on a table is small, and mostly computes in "
            "float64, which onnxruntime does not quantise; leave it out"
        )


def _neither(model: object) -> str:
    kind = type(model).__name__
    return f"model is a {kind}, expected a torch.nn.Module, a fitted estimator of this package or a finished run"
