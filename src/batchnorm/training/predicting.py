"""What a trained network makes of new inputs."""

import math
from typing import Any

import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from batchnorm.data import Signature
from batchnorm.errors import InputError
from batchnorm.evaluation import BLOCK_SIZE, network_outputs

_SOME_BYTES = 2**24  # at a time: a network's batch norm is folded for each


def outputs_of(network: nn.Module, signature: Signature, inputs: ArrayLike) -> Tensor:
    """Return a network's outputs (examples, outputs) in inference, a block of inputs at a time, on the CPU.

    Raises
    ------
    InputError
        If inputs are others than those that were trained on, or an output is NaN.
    """
    array = signature.array(inputs)
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    size = max(BLOCK_SIZE, _SOME_BYTES // (array.itemsize * math.prod(array.shape[1:])))
    found = [torch.empty(0, len(signature.class_names))]
    for start in range(0, len(array), size):
        rows = array[start : start + size]
        found += _of_rows(network, signature, rows, device)
    outputs = torch.cat(found)
    if (undecided := outputs.isnan().any(1)).any():
        first = int(undecided.int().argmax())
        raise InputError(f"example {first} has NaN among the network's outputs: are its inputs far too large?")
    return outputs


def _of_rows(network: nn.Module, signature: Signature, rows: NDArray[Any], device: torch.device) -> list[Tensor]:
    blocks = []
    for outputs, labels in network_outputs(network, signature.examples(rows).to(device)):
        columns = outputs[:, None] if isinstance(outputs, Tensor) and outputs.dim() == 1 else outputs
        expected = (len(labels), len(signature.class_names))
        if not isinstance(columns, Tensor) or columns.shape != expected or not columns.is_floating_point():
            raise InputError(f"the network's outputs are not numbers of shape {expected}, as in the training")
        blocks.append(columns.to("cpu", torch.float64 if columns.dtype == torch.float64 else torch.float32))
    return blocks
