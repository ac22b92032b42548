"""Examples and their three-way split, checked once, so that nothing after has to check again."""

import hashlib
import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from batchnorm.errors import InputError, importing

Loss = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]


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
        `uint8` or `float32`.
    labels : Tensor
        What is learnt: classes, `int64` from 0, shape (examples,); several labels that apply or not, `bool`, shape
        (examples, labels); or values, floating point, shape (examples, outputs).
    scale : float, default 1
        What inputs are multiplied with when gathered: 1/255 for the usual images.
    weights : Tensor, shape (examples,), optional
        How often each example counts in a training; above 0. Without them, once.
    """

    inputs: Tensor
    labels: Tensor
    scale: float = 1.0
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_features(self) -> int:
        """Number of features of one example."""
        return math.prod(self.inputs.shape[1:])

    def batch(self, indices: Tensor | slice, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Gather a batch: inputs (batch, *feature_shape), scaled, and their labels."""
        inputs = self.inputs[indices].to(dtype)
        return inputs if self.scale == 1.0 else inputs * self.scale, self.labels[indices]

    def blocks(self, size: int, dtype: torch.dtype = torch.float32) -> "Blocks":
        """Return all examples in order, `size` at a time: batches to go through as often as one likes."""
        return Blocks(self, size, dtype)

    def to(self, device: torch.device) -> Self:
        """Return the same examples on `device`."""
        weights = None if self.weights is None else self.weights.to(device)
        return type(self)(self.inputs.to(device), self.labels.to(device), self.scale, weights)


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


def loss_of(labels: Tensor) -> Loss:
    """Return the loss that labels of this kind are learnt with: see `Examples`."""
    if labels.dim() == 1:
        return "cross_entropy"
    return "squared_error" if labels.is_floating_point() else "binary_cross_entropy"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set in three parts: one trains, one validates, one tests once at the end.

    Parameters
    ----------
    name : str
    train, validation, test : Examples
        Of the same feature shape and scale.
    class_names : sequence of str
        One per class; labels index it.
    source : str
        Where it was found, for the reader.
    split_seed : int, optional
        What the parts were drawn with; None if the data set came with its own test part.

    Raises
    ------
    InputError
        If a part is empty, its labels do not fit its inputs or the classes, its shape differs from the training
        part's, or a feature is NaN or infinite.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    class_names: Sequence[str]
    source: str = "arrays"
    split_seed: int | None = None

    def __post_init__(self) -> None:
        if self.split_seed is not None:  # a plain int, as it goes into a run's files
            object.__setattr__(self, "split_seed", operator.index(self.split_seed))
        for name, part in self.parts.items():
            _check_part(f"the {name} part of {self.name}", part, self.feature_shape, self.n_classes)

    @classmethod
    def from_arrays(
        cls,
        inputs: ArrayLike,
        labels: ArrayLike,
        *,
        name: str = "arrays",
        class_names: Sequence[str] | None = None,
        scale: float | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        split_seed: int = 0,
        source: str = "arrays",
    ) -> Self:
        """Split arrays into three parts in which every class has the same share (needs scikit-learn).

        Parameters
        ----------
        inputs : array_like, shape (examples, *feature_shape)
            `uint8` stays so; everything else becomes `float32`.
        labels : array_like, shape (examples,)
            Whole numbers from 0.
        name : str, default "arrays"
        class_names : sequence of str, optional
            By default "0", "1", … up to the largest label.
        scale : float, optional
            What inputs are multiplied with; by default 1/255 for `uint8` and 1 otherwise.
        validation, test : float, default 0.1
            Shares of the examples.
        split_seed : int, default 0
            The same seed gives the same parts.
        source : str, default "arrays"

        Examples
        --------
        >>> import numpy as np
        >>> dataset = Dataset.from_arrays(np.eye(40), np.arange(40) % 4)
        >>> len(dataset.train), len(dataset.validation), len(dataset.test)
        (32, 4, 4)
        """
        x, y = _as_inputs(inputs), _as_labels(labels)
        if len(x) != len(y):
            raise InputError(f"{name}: {len(x)} inputs came with {len(y)} labels, expected as many of both")
        if scale is None:
            scale = 1 / 255 if x.dtype == np.uint8 else 1.0
        if class_names is None:
            class_names = [str(label) for label in range(int(y.max(initial=0)) + 1)]
        # Before the split, so that an example is named by its place in what was given.
        whole = Examples(torch.from_numpy(np.require(x, requirements="W")), torch.from_numpy(y), scale)
        _check_part(name, whole, tuple(x.shape[1:]), len(class_names))
        rest, tested = _split_stratified(np.arange(len(y)), y, round(test * len(y)), split_seed, name)
        trained, validated = _split_stratified(rest, y, round(validation * len(y)), split_seed, name)
        train_part, validation_part, test_part = (
            # Sorted: the order within a part says nothing, and neighbours in memory are gathered faster.
            Examples(whole.inputs[part], whole.labels[part], scale)
            for part in (np.sort(trained), np.sort(validated), np.sort(tested))
        )
        return cls(name, train_part, validation_part, test_part, class_names, source, split_seed)

    @property
    def parts(self) -> dict[str, Examples]:
        """The three parts by name."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one example's inputs."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def n_features(self) -> int:
        """Number of features of one example."""
        return self.train.n_features

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all parts: two runs saw the same data if and only if it is the same."""
        digest = hashlib.sha256()
        for part in self.parts.values():
            digest.update(f"{tuple(part.inputs.shape)} {part.inputs.dtype} {part.scale!r}".encode())
            digest.update(part.inputs.cpu().contiguous().numpy().data)
            digest.update(part.labels.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def _check_part(what: str, part: Examples, feature_shape: tuple[int, ...], n_classes: int) -> None:
    inputs, labels = part.inputs, part.labels
    if len(inputs) != len(labels):
        raise InputError(f"{what} has {len(inputs)} inputs and {len(labels)} labels, expected as many of both")
    if len(labels) == 0:
        raise InputError(f"{what} is empty")
    if tuple(inputs.shape[1:]) != feature_shape:
        raise InputError(f"{what} has inputs of shape {tuple(inputs.shape[1:])}, expected {feature_shape}")
    if part.weights is not None:
        raise InputError(f"{what} has weights, which only the estimators take: BatchNormClassifier().fit(…)")
    if labels.is_floating_point():
        raise InputError(f"{what} has labels of type {labels.dtype}, expected whole numbers")
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise InputError(f"{what} has label {int(labels[first])} at example {first}, expected 0 to {n_classes - 1}")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = ~inputs.flatten(1).isfinite()
        example, feature = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{what} has {int(bad.sum())} features that are NaN or infinite, the first at example {example}, "
            f"feature {feature}: fill or drop them"
        )


def _as_inputs(inputs: ArrayLike) -> NDArray[Any]:
    x = np.asarray(inputs)
    if x.ndim < 2:
        raise InputError(f"inputs have shape {x.shape}, expected (examples, features) or more dimensions")
    if x.dtype.kind not in "buif":
        raise InputError(f"inputs are of type {x.dtype}, expected numbers")
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported as such
        return x.astype(np.float32)


def _as_labels(labels: ArrayLike) -> NDArray[np.int64]:
    y = np.asarray(labels)
    if y.ndim != 1 or y.dtype.kind not in "bui":
        raise InputError(f"labels have shape {y.shape} and type {y.dtype}, expected one whole number per example")
    return y.astype(np.int64)


def _split_stratified(
    indices: NDArray[np.int64], labels: NDArray[np.int64], n_taken: int, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    with importing("datasets", "splitting a data set needs scikit-learn"):
        from sklearn.model_selection import train_test_split
    try:
        kept, taken = train_test_split(indices, test_size=n_taken, random_state=seed, stratify=labels[indices])
    except ValueError as error:  # a class has too few examples for every part
        raise InputError(f"{name} cannot be split by class: {error}") from error
    return kept, taken
