"""What a finished run says of new inputs."""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from batchnorm.data import Signature
from batchnorm.errors import InputError
from batchnorm.evaluation import BLOCK_SIZE, outputs

_SOME_BYTES = 2**24  # at a time: a network's batch norm is folded for each


def probabilities(network: nn.Module, signature: Signature, inputs: ArrayLike) -> NDArray[np.float32]:
    """Return the probability of each class (examples, classes), a block of inputs at a time.

    Raises
    ------
    InputError
        If inputs are others than those that were trained on.
    """
    array = signature.array(inputs)
    found = np.empty((len(array), len(signature.class_names)), np.float32)
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    size = max(BLOCK_SIZE, _SOME_BYTES // (array.itemsize * math.prod(array.shape[1:])))
    for start in range(0, len(array), size):
        rows = slice(start, start + size)
        of_blocks = [logits.softmax(1) for logits, _ in outputs(network, signature.examples(array[rows]).to(device))]
        found[rows] = torch.cat(of_blocks).cpu().numpy()
    if (undecided := np.isnan(found).any(1)).any():
        raise InputError(f"example {int(undecided.argmax())} has NaN among its logits: are its inputs far too large?")
    return found
