"""A trained network on one part of a data set: accuracy, loss, confusion. Always in inference mode."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.data import Examples
from batchnorm.errors import InputError
from batchnorm.files import json_ready
from batchnorm.network import DenseNetwork, input_dtype
from batchnorm.results import Result, html_table
from batchnorm.toolkit.model import inference, without_gradients

BLOCK_SIZE = 500  # examples at a time: the activations of a layer stay in the cache


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """What `evaluate` measures.

    Parameters
    ----------
    accuracy : float
        Share of the examples whose largest logit is their label's.
    loss : float
        Mean softmax cross-entropy, in nats, without label smoothing.
    confusion : Tensor, shape (n_classes, n_classes)
        Number of examples by label (rows) and prediction (columns).
    """

    accuracy: float
    loss: float
    confusion: Tensor

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.6g}, loss {self.loss:.4g} on {int(self.confusion.sum()):,} examples"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {"accuracy": self.accuracy, "loss": self.loss, "confusion": self.confusion.tolist()}
        )
        return described

    def _repr_html_(self) -> str:
        counts = self.confusion.tolist()
        rows = [[str(label), *map(str, row)] for label, row in enumerate(counts)]
        return html_table(["label \\ prediction", *map(str, range(len(counts)))], rows, str(self))


def evaluate(network: nn.Module, examples: Examples, block_size: int = BLOCK_SIZE) -> Evaluation:
    """Evaluate a network on examples with its fixed statistics, whatever mode it is in.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits (batch, n_classes). Its modes are afterwards what they were. Of a
        `DenseNetwork` a copy is evaluated in which batch norm is folded into the linear layers.
    examples : Examples
        On the network's device.
    block_size : int, default 500
        Examples at a time.

    Returns
    -------
    Evaluation
    """
    confusion, loss = torch.zeros((), dtype=torch.int64, device=examples.labels.device), 0.0
    with inference(network), without_gradients(network):
        network = inference_form(network)
        for inputs, labels in examples.blocks(block_size, input_dtype(network)):
            logits = network(inputs)  # (block, n_classes)
            if logits.dtype in (torch.float16, torch.bfloat16):
                logits = logits.float()  # a sum of so many losses has no digits left
            n_classes = logits.shape[1]
            if labels.max() >= n_classes:
                raise InputError(f"label {labels.max()} among the examples, but the network has {n_classes} classes")
            pairs = labels * n_classes + logits.argmax(1)
            confusion = confusion + pairs.bincount(minlength=n_classes**2).reshape(n_classes, n_classes)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
    accuracy = confusion.diagonal().sum().item() / len(examples)
    return Evaluation(accuracy, loss / len(examples), confusion)


def inference_form(network: nn.Module) -> nn.Module:
    """Return what computes a network's outputs in inference: of a `DenseNetwork` a copy with batch norm folded away."""
    if isinstance(network, DenseNetwork) and network.alteration() is None:
        return network.folded()
    return network
