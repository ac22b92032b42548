"""torch's own exporters: a module as an `ExportedProgram`, and that as a file or as an ONNX graph."""

import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from batchnorm.errors import importing, raised_by_network
from batchnorm.toolkit.model import map_nested

_LOGGERS = (  # of packages that are not installed; of what the error says
    "torch.onnx._internal.exporter._registration",
    "torch.fx.experimental.symbolic_shapes",
)
_LONGEST = 300  # characters of what torch says


def export_program(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> ExportedProgram:
    """Return what torch makes of a module, for batches of any size: the first dimension of each tensor.

    Raises
    ------
    InputError
        If torch cannot, in one line.
    """
    args, kwargs = map_nested(_several, args), map_nested(_several, dict(kwargs or {}))
    shapes = map_nested(_dimensions, kwargs or args)
    untraced = raised_by_network("torch.export cannot trace the model for batches of any size", _reason)
    with untraced, _quiet(), torch.no_grad():
        return torch.export.export(module, args, kwargs, dynamic_shapes=shapes)


def _several(leaf: Any) -> Any:
    """Return a tensor of more than one row: torch takes a single one for a size that never changes."""
    is_one = isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == 1
    return torch.cat([leaf, leaf]) if is_one else leaf


def _dimensions(leaf: Any) -> Any:
    return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) and leaf.dim() else None


def to_bytes(program: ExportedProgram, texts: Mapping[str, str]) -> bytes:
    """Return the file that `torch.export.load` reads."""
    file = io.BytesIO()
    program.example_inputs = None  # they would be pickled, and are someone's data
    with raised_by_network("torch.export cannot save the model", _reason), _quiet():
        torch.export.save(program, file, extra_files=dict(texts))
    return file.getvalue()


def to_onnx(program: ExportedProgram, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> Any:
    """Return an ONNX model as torch's exporter writes it.

    Raises
    ------
    InputError
        If an operation has no form in ONNX, in one line.
    """
    with importing("onnx", "exporting to ONNX needs onnx, onnxscript and onnxruntime"):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    with raised_by_network("torch's ONNX exporter cannot write the model", _reason), _quiet():
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=inputs, output_names=outputs, external_data=False
        )
        assert made is not None
        return made.model_proto


def _reason(error: BaseException) -> str:
    """Return what stands at the bottom of torch's long messages, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    said = lines[0].partition(" For more information")[0]
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}…"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what torch's exporter says of itself, not of the model."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            warnings.filterwarnings("ignore", r"The tensor attributes? self\._flat_weights", UserWarning)  # of nn.LSTM
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
