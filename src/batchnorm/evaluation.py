"""A trained network on one part of a data set: accuracy, loss, confusion. Always in inference mode."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.data import Examples
from batchnorm.errors import BatchnormError, InputError, check_kind, raised_by_network
from batchnorm.files import json_ready
from batchnorm.network import DenseNetwork, input_dtype
from batchnorm.results import Result, html_table
from batchnorm.toolkit.model import inference, without_gradients

BLOCK_SIZE = 500  # examples at a time: the activations of a layer stay in the cache
_UNDECIDED = -1
_SHOWN_CLASSES = 50  # a notebook shows no larger table


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """What `evaluate` measures.

    Parameters
    ----------
    accuracy : float
        Share of the examples whose largest logit is their label's. An example with NaN among its logits counts as
        wrong.
    loss : float
        Mean softmax cross-entropy, in nats, without label smoothing.
    n_classes, n_examples : int
    counts : Tensor, shape (pairs, 3)
        Each pair of a label and a prediction that occurs, and the number of its examples: what is in `confusion`
        beside zeros.
    """

    accuracy: float
    loss: float
    n_classes: int
    n_examples: int
    counts: Tensor

    @cached_property
    def confusion(self) -> Tensor:
        """Number of examples by label (rows) and prediction (columns), shape (n_classes, n_classes), on the CPU.

        Examples with NaN among their logits have no prediction, and are in no column.
        """
        try:
            # numpy's zeros take no memory before they are written to: with many classes most never are.
            confusion = torch.from_numpy(np.zeros((self.n_classes, self.n_classes), np.int64))
        except (MemoryError, ValueError) as error:
            raise BatchnormError(
                f"the confusion of {self.n_classes:,} classes takes {8 * self.n_classes**2:,} bytes, more than there "
                "is memory: use `counts`, which has what is not 0"
            ) from error
        labels, predictions, numbers = self.counts.T
        confusion[labels, predictions] = numbers
        return confusion

    @property
    def n_undecided(self) -> int:
        """Number of examples with NaN among their logits."""
        return self.n_examples - int(self.counts[:, 2].sum())

    def __str__(self) -> str:
        undecided = f", of which {self.n_undecided:,} with NaN among their logits" if self.n_undecided else ""
        return f"accuracy {self.accuracy:.6g}, loss {self.loss:.4g} on {self.n_examples:,} examples{undecided}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {"accuracy": self.accuracy, "loss": self.loss, "confusion": self.confusion.tolist()}
        )
        return described

    def _repr_html_(self) -> str:
        if self.n_classes > _SHOWN_CLASSES:
            return super()._repr_html_()
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

    Raises
    ------
    InputError
        If there are no examples, or the network raises, or its outputs are not logits of as many classes as
        they have.
    """
    check_kind("network", network, nn.Module, "give an instance of a torch.nn.Module")
    _check_examples(examples, block_size)
    predicted, n_classes, loss = [], 0, 0.0
    for logits, labels in outputs(network, examples, block_size):
        n_classes = logits.shape[1]
        predicted.append(_predictions(logits))
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
    labels, predictions = examples.labels.cpu(), torch.cat(predicted).cpu()  # (examples,)
    accuracy = (labels == predictions).sum().item() / len(examples)
    return Evaluation(accuracy, loss / len(examples), n_classes, len(examples), _count(labels, predictions, n_classes))


def outputs(network: nn.Module, examples: Examples, block_size: int = BLOCK_SIZE) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a network's logits (block, n_classes), float32 or float64, and the labels of each block of examples.

    Parameters, and what it raises, are those of `evaluate`.
    """
    with inference(network), without_gradients(network):
        network = inference_form(network)
        for inputs, labels in examples.blocks(block_size, input_dtype(network)):
            with raised_by_network(f"the network cannot take inputs of shape {tuple(inputs.shape)}"):
                logits = network(inputs)
            _check_logits(logits, labels)
            # A sum of so many losses has no digits left in half precision.
            yield logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits, labels


def _count(labels: Tensor, predictions: Tensor, n_classes: int) -> Tensor:
    """Return each pair of a label and a prediction that occurs, and how often (pairs, 3)."""
    decided = predictions != _UNDECIDED
    keys: Tensor
    keys, numbers = torch.unique((labels * n_classes + predictions)[decided], return_counts=True)
    return torch.stack([keys // n_classes, keys % n_classes, numbers], 1)


def _check_examples(examples: Examples, block_size: int) -> None:
    check_kind("examples", examples, Examples, "give one part of a data set, such as dataset.test")
    if not isinstance(block_size, Integral):
        raise InputError(f"block_size is {block_size!r}, expected a whole number")
    if block_size < 1:
        raise InputError(f"block_size is {block_size}, expected at least 1")
    if examples.inputs.is_meta or examples.labels.is_meta:
        raise InputError("the examples are on the device meta, without values: make them on another one")
    if len(examples) == 0:
        raise InputError("there are no examples to evaluate on")
    if examples.labels.dim() != 1:
        raise InputError(
            f"labels of shape {tuple(examples.labels.shape)} are no classes, which is what can be evaluated: "
            "expected whole numbers (examples,)"
        )
    if (lowest := int(examples.labels.min())) < 0:
        raise InputError(f"label {lowest} among the examples, expected classes from 0 on")


def _check_logits(logits: Any, labels: Tensor) -> None:
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(labels):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(f"the network turns {len(labels)} examples into {shape}, expected logits (examples, classes)")
    if not logits.is_floating_point():
        raise InputError(f"the network's outputs are of type {logits.dtype}, expected logits in floating point")
    if labels.max() >= logits.shape[1]:
        raise InputError(f"label {labels.max()} among the examples, but the network has {logits.shape[1]} classes")


def _predictions(logits: Tensor) -> Tensor:
    """Return each row's class, or `_UNDECIDED` where one of its logits is NaN, which torch takes for the largest."""
    best = logits.argmax(1, keepdim=True)
    return best.where(~logits.gather(1, best).isnan(), _UNDECIDED).squeeze(1)


def inference_form(network: nn.Module) -> nn.Module:
    """Return what computes a network's outputs in inference: of a `DenseNetwork` a copy with batch norm folded away."""
    if isinstance(network, DenseNetwork) and network.alteration() is None:
        with suppress(InputError):  # someone has put into a layer what cannot be copied, such as a lock
            return network.folded()
    return network
