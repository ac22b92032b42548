"""onnxruntime, for comparing."""

import re
from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from batchnorm.errors import InputError, with_class

_ERRORS_ALONE = 3


class MissingOperationError(InputError):
    """onnxruntime has no form of an operation, mostly in float64."""


def opened(content: bytes) -> onnxruntime.InferenceSession:
    """Return a session of one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ALONE
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """Return what a model computes.

    Raises
    ------
    InputError
        If it does not know an operation, of this precision or at all, or cannot run it.
    """
    try:
        session = opened(content)
        first = {name: array[:1] for name, array in inputs.items()}
        whole, one = session.run(None, dict(inputs)), session.run(None, first)
    except Exception as error:  # of classes of its own
        if (found := re.search(r"Could not find an implementation for (\w+)\(", str(error))) is not None:
            raise MissingOperationError(
                f"onnxruntime has no {found[1]} of this precision: export model.float()"
            ) from error
        raise InputError(f"onnxruntime cannot run the model: {with_class(error)[:300]}") from error
    n_rows = len(next(iter(inputs.values())))
    if any(array.shape[:1] != (n,) for arrays, n in ((whole, n_rows), (one, 1)) for array in arrays):
        raise InputError("the model's outputs do not have a row for each of its input: batches cannot be of any size")
    return [*whole, *one]
