"""A trained network on one part of a data set, by what it learns. Always in inference mode."""

from collections.abc import Iterator
from contextlib import suppress
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.config import Task
from batchnorm.data import NETWORK_OUTPUTS, OUTPUTS, Examples, TargetScale, as_columns, task_of
from batchnorm.errors import InputError, check_kind, raised_by_network
from batchnorm.evaluation.results import AnyEvaluation, Evaluation, LabelsEvaluation, ValuesEvaluation
from batchnorm.network import DenseNetwork, input_dtype
from batchnorm.scores import label_scores, value_scores
from batchnorm.toolkit.model import inference, without_gradients

BLOCK_SIZE = 500  # examples at a time: the activations of a layer stay in the cache
UNDECIDED = -1  # the class of an example with NaN among its logits


def evaluate(network: nn.Module, examples: Examples, block_size: int = BLOCK_SIZE) -> AnyEvaluation:
    """Evaluate a network on examples with its fixed statistics, whatever mode it is in.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits (batch, n_classes) or (batch, labels), or to values (batch, outputs):
        standardised ones, where the examples have a `target_scale`, as those of a `Dataset` do. Its modes are
        afterwards what they were. Of a `DenseNetwork` a copy is evaluated in which batch norm is folded into the linear
        layers.
    examples : Examples
        On the network's device.
    block_size : int, default 500
        Examples at a time.

    Returns
    -------
    Evaluation, LabelsEvaluation or ValuesEvaluation
        By what the labels are: classes, several labels, or values.

    Raises
    ------
    InputError
        If there are no examples, or the network raises, or its outputs are not those of as many classes, labels or
        values as they have.
    """
    check_kind("network", network, nn.Module, "give an instance of a torch.nn.Module")
    _check_examples(examples, block_size)
    measure: _Measure = _MEASURES[task_of(examples.labels)](examples)
    for outputs, labels in network_outputs(network, examples, block_size):
        columns = as_columns(outputs, labels)  # (block, outputs)
        measure.check(columns, labels)
        if columns.dtype in (torch.float16, torch.bfloat16):
            columns = columns.float()  # a sum of so many losses has no digits left
        measure.take(columns, labels)
    return measure.result()


def network_outputs(
    network: nn.Module, examples: Examples, block_size: int = BLOCK_SIZE
) -> Iterator[tuple[Any, Tensor]]:
    """Yield what a network makes of each block of examples in inference, whatever that is, and their labels."""
    with inference(network), without_gradients(network):
        network = inference_form(network)
        for inputs, labels in examples.blocks(block_size, input_dtype(network)):
            with raised_by_network(f"the network cannot take inputs of shape {tuple(inputs.shape)}"):
                outputs = network(inputs)
            yield outputs, labels


class _Measure(Protocol):
    """What is measured of examples of one kind, block by block."""

    def check(self, outputs: Any, labels: Tensor) -> None:
        """Refuse outputs (block, outputs) that are not those of these labels."""

    def take(self, outputs: Tensor, labels: Tensor) -> None:
        """Take a block's outputs into account."""

    def result(self) -> AnyEvaluation:
        """Return what was measured."""


class _OfClasses:
    def __init__(self, examples: Examples):
        self._labels, self._predicted, self._n_classes, self._loss = examples.labels, list[Tensor](), 0, 0.0

    def check(self, outputs: Any, labels: Tensor) -> None:
        _check_table(outputs, labels, "classification")
        if labels.max() >= outputs.shape[1]:
            raise InputError(f"label {labels.max()} among the examples, but the network has {outputs.shape[1]} classes")

    def take(self, outputs: Tensor, labels: Tensor) -> None:
        self._n_classes = outputs.shape[1]
        self._predicted.append(_predicted_classes(outputs))
        self._loss += F.cross_entropy(outputs, labels, reduction="sum").item()

    def result(self) -> Evaluation:
        labels, predictions = self._labels.cpu(), torch.cat(self._predicted).cpu()  # (examples,)
        n, accuracy = len(labels), (labels == predictions).sum().item() / len(labels)
        return Evaluation(accuracy, self._loss / n, self._n_classes, n, _count(labels, predictions, self._n_classes))


class _OfLabels:
    def __init__(self, examples: Examples):
        self._right, self._loss = list[Tensor](), 0.0

    def check(self, outputs: Any, labels: Tensor) -> None:
        _check_columns(outputs, labels)

    def take(self, outputs: Tensor, labels: Tensor) -> None:
        self._right.append(((outputs > 0) == labels) & ~outputs.isnan())
        self._loss += F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="sum").item()

    def result(self) -> LabelsEvaluation:
        right = torch.cat(self._right).cpu().numpy()  # (examples, labels)
        return LabelsEvaluation(**label_scores(right), loss=self._loss / len(right), n_examples=len(right))


class _OfValues:
    """Errors are those of standardised values, which no unit makes too large, brought into the unit at the end."""

    def __init__(self, examples: Examples):
        n_outputs = examples.labels.shape[1]
        self._scale = examples.target_scale or TargetScale((0.0,) * n_outputs, (1.0,) * n_outputs)
        self._outputs, self._targets = list[Tensor](), self._scale.standardized(examples.labels)

    def check(self, outputs: Any, labels: Tensor) -> None:
        _check_columns(outputs, labels)

    def take(self, outputs: Tensor, labels: Tensor) -> None:
        self._outputs.append(outputs.double())

    def result(self) -> ValuesEvaluation:
        outputs, targets = torch.cat(self._outputs).cpu().numpy(), self._targets.cpu().numpy()  # (examples, outputs)
        with np.errstate(all="ignore"):  # a network that diverges has outputs of any size
            scores, loss = value_scores(outputs, targets), float(np.mean((outputs - targets) ** 2)) / 2
        for name in ("rmse", "mae"):
            errors = [e * d for e, d in zip(scores[name], self._scale.deviation, strict=True)]
            scores[name] = errors[0] if len(errors) == 1 else errors
        return ValuesEvaluation(**scores, loss=loss, n_examples=len(targets))


_MEASURES: dict[Task, Any] = {"classification": _OfClasses, "labels": _OfLabels, "regression": _OfValues}


def _count(labels: Tensor, predictions: Tensor, n_classes: int) -> Tensor:
    """Return each pair of a label and a prediction that occurs, and how often (pairs, 3)."""
    decided = predictions != UNDECIDED
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
    if examples.labels.dim() == 1 and (lowest := int(examples.labels.min())) < 0:
        raise InputError(f"label {lowest} among the examples, expected classes from 0 on")


def _check_table(outputs: Any, labels: Tensor, task: Task) -> None:
    kind = NETWORK_OUTPUTS[task]
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != len(labels):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InputError(
            f"the network turns {len(labels)} examples into {shape}, expected {kind} (examples, {OUTPUTS[task]})"
        )
    if not outputs.is_floating_point():
        raise InputError(f"the network's outputs are of type {outputs.dtype}, expected {kind} in floating point")


def _check_columns(outputs: Any, labels: Tensor) -> None:
    task = task_of(labels)
    _check_table(outputs, labels, task)
    if outputs.shape != labels.shape:
        raise InputError(
            f"the network has {outputs.shape[1]} outputs, and the examples have {labels.shape[1]} {OUTPUTS[task]}"
        )


def _predicted_classes(logits: Tensor) -> Tensor:
    """Return each row's class, or `UNDECIDED` where one of its logits is NaN, which torch takes for the largest."""
    best = logits.argmax(1, keepdim=True)
    return best.where(~logits.gather(1, best).isnan(), UNDECIDED).squeeze(1)


def inference_form(network: nn.Module) -> nn.Module:
    """Return what computes a network's outputs in inference: of a `DenseNetwork` a copy with batch norm folded away."""
    if isinstance(network, DenseNetwork) and network.alteration() is None:
        with suppress(InputError):  # someone has put into a layer what cannot be copied, such as a lock
            return network.folded()
    return network
