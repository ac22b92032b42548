"""An ONNX file with weights and activations of 8 bits, by onnxruntime's own quantiser.

Static, not dynamic: the dynamic one scales activations by the range of the batch at hand, so that a prediction would
depend on what else is in its batch. Here ranges are measured once, on examples of the training part.
"""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from batchnorm.data import Examples, Signature
from batchnorm.errors import InputError, with_class
from batchnorm.exporting import sessions

_QUANTIZED = ("Conv", "Gemm", "MatMul")
_CALIBRATED_ON, _BLOCK = 1000, 100  # examples


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]  # it has no types
    """Blocks of inputs, one after the other."""

    def __init__(self, blocks: Iterator[Mapping[str, NDArray[Any]]]):
        self._blocks = blocks

    def get_next(self) -> Any:
        """Return a block, or None at the end."""
        return next(self._blocks, None)


def quantized(content: bytes, signature: Signature, training: Examples) -> bytes:
    """Return an ONNX file with its matrix products in 8 bits.

    Parameters
    ----------
    content : bytes
        The file, whose input is called "inputs".
    signature : Signature
    training : Examples
        On which the ranges of activations are measured: the first thousand of them in an order drawn once.

    Raises
    ------
    InputError
        If there is no matrix product of float32.
    """
    with tempfile.TemporaryDirectory() as folder, _quiet():
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        try:
            quant_pre_process(
                onnx.load_from_string(content), str(before), skip_optimization=True, skip_symbolic_shape=True
            )
            quantization.quantize_static(
                str(before),
                str(after),
                _Calibration(_inputs(signature, training)),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=list(_QUANTIZED),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
        except Exception as error:  # of classes of its own
            raise InputError(f"onnxruntime cannot quantise the model: {with_class(error)[:300]}") from error
        model = onnx.load(after)
    if not any(node.op_type == "DequantizeLinear" for node in model.graph.node):
        raise InputError("onnxruntime's quantiser finds no matrix product of float32 in the model: leave quantize out")
    return bytes(model.SerializeToString())


def accuracy(content: bytes, signature: Signature, test: Examples) -> float:
    """Return the share of examples whose class an ONNX file gives."""
    labels = np.array(signature.class_names, dtype=object)[test.labels.cpu().numpy()]
    session = sessions.opened(content)
    right = 0
    for start in range(0, len(test), _BLOCK):
        rows = slice(start, start + _BLOCK)
        found, _ = session.run(None, {"inputs": signature.examples(test.inputs[rows].cpu().numpy()).inputs.numpy()})
        right += int((found == labels[rows]).sum())
    return right / len(test)


def _inputs(signature: Signature, training: Examples) -> Iterator[Mapping[str, NDArray[Any]]]:
    order = np.random.default_rng(0).permutation(len(training))[:_CALIBRATED_ON]
    for start in range(0, len(order), _BLOCK):
        rows = training.inputs[np.sort(order[start : start + _BLOCK])].cpu().numpy()
        yield {"inputs": signature.examples(rows).inputs.numpy()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the quantiser advises its developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
