"""Examples: inputs and what is learnt of them, gathered a batch at a time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from batchnorm.config import Task
from batchnorm.data.targets import EXPECTED_LABELS, TargetScale, task_of
from batchnorm.errors import InputError

LossName = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]
_LOSSES: dict[Task, LossName] = {
    "classification": "cross_entropy",
    "labels": "binary_cross_entropy",
    "regression": "squared_error",
}


class ExamplesLike(Protocol):
    """What a training needs of examples, wherever their inputs are: `Examples` have them in memory."""

    @property
    def labels(self) -> Tensor:
        """What is learnt, one row per example, on the device that is trained on."""

    @property
    def weights(self) -> Tensor | None:
        """How often each example counts (examples,), on the same device; None if each counts once."""

    @property
    def n_features(self) -> int:
        """Number of features of one example."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Gather a batch on that device: inputs (batch, *feature_shape) as a network takes them, and their labels."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs and labels of one part of a data set.

    Inputs stay as they came (images: `uint8`, a quarter of the memory) and become floating point as a batch
    is gathered.

    Parameters
    ----------
    inputs : Tensor, shape (examples, *feature_shape)
        Real numbers of any type: `uint8` or `float32` are usual.
    labels : Tensor
        What is learnt: classes from 0, of any whole type, which become `int64`, shape (examples,); several labels that
        apply or not, `bool`, shape (examples, labels); or values, floating point, shape (examples, outputs).
    scale : float, default 1
        What inputs are multiplied with when gathered: 1/255 for the usual images.
    weights : Tensor, shape (examples,), optional
        How often each example counts in a training; above 0. Without them, once.
    target_scale : TargetScale, optional
        Of values: what they are standardised with to be learnt. The outputs of a network for these examples are then
        standardised values. A `Dataset` gives it to its parts.

    Raises
    ------
    InputError
        If types or shapes are others, or a tensor is sparse.
    """

    inputs: Tensor
    labels: Tensor
    scale: float = 1.0
    weights: Tensor | None = None
    target_scale: TargetScale | None = None

    def __post_init__(self) -> None:
        inputs, labels = real_tensor("inputs", self.inputs), as_targets(real_tensor("labels", self.labels))
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scale", _as_scale(self.scale))
        if self.weights is not None and real_tensor("weights", self.weights).shape != labels.shape[:1]:
            raise InputError(f"weights have shape {tuple(self.weights.shape)}, expected ({len(labels)},)")
        if self.target_scale is not None:
            self.target_scale.check(labels)
        if len(inputs) != len(labels):
            raise InputError(f"there are {len(inputs)} inputs and {len(labels)} labels, expected as many of both")

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        """Return shapes and types in place of values."""
        inputs, labels = (f"{t.dtype} {tuple(t.shape)}".removeprefix("torch.") for t in (self.inputs, self.labels))
        return f"{type(self).__name__}(inputs: {inputs}, labels: {labels}, scale={self.scale:.6g})"

    @property
    def n_features(self) -> int:
        """Number of features of one example."""
        return math.prod(self.inputs.shape[1:])

    def batch(self, indices: Tensor | slice, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Gather a batch: inputs (batch, *feature_shape), scaled, and their labels; a network may change the inputs."""
        inputs = self.inputs[indices].to(dtype, copy=isinstance(indices, slice))  # which is a view, else
        return inputs if self.scale == 1.0 else inputs * self.scale, self.labels[indices]

    def blocks(self, size: int, dtype: torch.dtype = torch.float32) -> "Blocks":
        """Return all examples in order, `size` at a time: batches to go through as often as one likes."""
        return Blocks(self, size, dtype)

    def to(self, device: torch.device) -> Self:
        """Return the same examples on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        moved = type(self)(self.inputs.to(device), self.labels.to(device), self.scale, weights)
        return moved if self.target_scale is None else replace(moved, target_scale=self.target_scale)

    def as_learnt(self) -> "Examples":
        """Return the same examples with labels as a network learns them: values are standardised, in `float32`."""
        if self.target_scale is None:
            return self
        return replace(self, labels=self.target_scale.standardized(self.labels).float(), target_scale=None)


def real_tensor(what: str, tensor: Tensor) -> Tensor:
    """Return a tensor of real numbers, one row per example, without what autograd knows of it."""
    if not isinstance(tensor, Tensor):
        raise InputError(f"{what} are a {type(tensor).__name__}, expected a Tensor: use torch.as_tensor")
    if tensor.is_nested or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        kind = "nested tensor" if tensor.is_nested else type(tensor).__name__
        raise InputError(f"{what} are a {kind}, expected a plain Tensor, with one shape and value for each example")
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise InputError(f"{what} are sparse or quantized, expected a dense Tensor: use .to_dense() or .dequantize()")
    if tensor.is_complex():
        raise InputError(f"{what} are of type {tensor.dtype}, expected real numbers: use torch.view_as_real")
    if tensor.dim() == 0:
        raise InputError(f"{what} are a single number, expected shape (examples, …)")
    return (
        tensor.detach() if tensor.requires_grad else tensor
    ).resolve_neg()  # numpy and views of bytes know no such bit


def as_targets(labels: Tensor) -> Tensor:
    """Return what can be learnt of a network's outputs: see `loss_of`."""
    is_whole = not labels.is_floating_point()
    if labels.dim() == 1 and is_whole:
        return labels.long()
    if labels.dim() == 2 and (labels.dtype == torch.bool or not is_whole):
        return labels
    raise InputError(
        f"labels of type {labels.dtype} and shape {tuple(labels.shape)}, {EXPECTED_LABELS}; several labels as bool "
        "and values in floating point have shape (examples, outputs)"
    )


def _as_scale(scale: float) -> float:
    try:
        if math.isfinite(scale):
            return float(scale)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"scale is {scale!r}, expected a finite number")


@dataclass(frozen=True, eq=False)
class Blocks:
    """Examples in order, `size` at a time."""

    examples: Examples
    size: int
    dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(self.examples), self.size):
            rows = slice(start, start + self.size)  # a subclass of examples may know of no other type
            yield self.examples.batch(rows) if self.dtype == torch.float32 else self.examples.batch(rows, self.dtype)


def loss_of(labels: Tensor) -> LossName:
    """Return the loss that labels of this kind are learnt with, values unless another is asked for: see `Examples`."""
    return _LOSSES[task_of(labels)]
