"""Examples and their three-way split, checked once, so that nothing after has to check again."""

import hashlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from batchnorm.errors import InputError, importing, in_words

# Of classes; with the calls for the usual others.
_EXPECTED_LABELS = (
    "expected whole numbers of shape (examples,): use .astype(int) or .long() where they are no integers, .argmax(1) "
    "where they are one-hot, .ravel() where they are a column"
)
_MOST_UNNAMED_CLASSES = 10**6
_MOST_SEED = 2**32 - 1  # of scikit-learn
LossName = Literal["cross_entropy", "binary_cross_entropy", "squared_error"]


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

    Raises
    ------
    InputError
        If types or shapes are others, or a tensor is sparse.
    """

    inputs: Tensor
    labels: Tensor
    scale: float = 1.0
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        inputs, labels = _values("inputs", self.inputs), _as_targets(_values("labels", self.labels))
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "scale", _as_scale(self.scale))
        if self.weights is not None and _values("weights", self.weights).shape != labels.shape[:1]:
            raise InputError(f"weights have shape {tuple(self.weights.shape)}, expected ({len(labels)},)")
        if len(inputs) != len(labels):
            raise InputError(f"there are {len(inputs)} inputs and {len(labels)} labels, expected as many of both")

    def __len__(self) -> int:
        return len(self.labels)

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
        return type(self)(self.inputs.to(device), self.labels.to(device), self.scale, weights)


def _values(what: str, tensor: Tensor) -> Tensor:
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


def _as_targets(labels: Tensor) -> Tensor:
    """Return what can be learnt of a network's outputs: see `loss_of`."""
    is_whole = not labels.is_floating_point()
    if labels.dim() == 1 and is_whole:
        return labels.long()
    if labels.dim() == 2 and (labels.dtype == torch.bool or not is_whole):
        return labels
    raise InputError(
        f"labels of type {labels.dtype} and shape {tuple(labels.shape)}, {_EXPECTED_LABELS}; several labels as bool "
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
        What the parts were drawn with; None if the data set came with its parts.
    origin : mapping, optional
        Of what has no name that is known: the user's own files, as JSON values, from which it can be read again.

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
    origin: Mapping[str, Any] | None = None

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
            Whole numbers from 0, of any type that holds no others.
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

        Raises
        ------
        InputError
            If values are masked, complex, objects, NaN or infinite, labels are not classes, or a class has too few
            examples for three parts.

        Examples
        --------
        >>> import numpy as np
        >>> dataset = Dataset.from_arrays(np.eye(40), np.arange(40) % 4)
        >>> len(dataset.train), len(dataset.validation), len(dataset.test)
        (32, 4, 4)
        """
        x, y = as_inputs(unmasked("inputs", inputs)), _as_labels(unmasked("labels", labels))
        if len(x) != len(y):
            raise InputError(f"{name}: {len(x)} inputs came with {len(y)} labels, expected as many of both")
        if scale is None:
            scale = 1 / 255 if x.dtype == np.uint8 else 1.0
        if class_names is None:
            class_names = _class_names(y)
        # Before the split, so that an example is named by its place in what was given.
        whole = Examples(torch.from_numpy(np.require(x, requirements=["C", "W"])), torch.from_numpy(y), scale)
        _check_part(name, whole, tuple(x.shape[1:]), len(class_names))
        _check_split(validation, test, split_seed)
        rest, tested = split_stratified(np.arange(len(y)), y, round(test * len(y)), split_seed, name)
        trained, validated = split_stratified(rest, y, round(validation * len(y)), split_seed, name)
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
    if len(labels) == 0:
        raise InputError(f"{what} is empty")
    if inputs.is_meta:
        raise InputError(f"{what} is on the device meta, where there are no values")
    if labels.device != inputs.device:
        raise InputError(f"{what} has inputs on {inputs.device} and labels on {labels.device}, expected one device")
    if 0 in feature_shape:
        raise InputError(f"{what} has inputs of shape {feature_shape}, which hold no feature")
    if tuple(inputs.shape[1:]) != feature_shape:
        raise InputError(f"{what} has inputs of shape {tuple(inputs.shape[1:])}, expected {feature_shape}")
    if part.weights is not None:
        raise InputError(f"{what} has weights, which only the estimators take: BatchNormClassifier().fit(…)")
    if labels.dim() != 1:
        raise InputError(f"{what} has labels of shape {tuple(labels.shape)}, {_EXPECTED_LABELS}")
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise InputError(f"{what} has label {int(labels[first])} at example {first}, expected 0 to {n_classes - 1}")
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = ~inputs.reshape(len(inputs), -1).isfinite()
        example, feature = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{what} has {int(bad.sum())} features that are NaN or infinite, the first at example {example}, "
            f"feature {feature}: fill or drop them"
        )


def unmasked(what: str, values: ArrayLike) -> NDArray[Any]:
    """Return what came as an array, if all of it is there."""
    if isinstance(values, Tensor):
        values = _values(what, values)
    elif hasattr(values, "toarray"):  # scipy's, of which numpy makes a single object
        raise InputError(f"{what} are sparse, expected a dense array: use .toarray()")
    try:
        array = _numpy(values) if isinstance(values, Tensor) else np.asarray(values)
        n_masked = int(np.sum(np.ma.getmask(values)))
    except (ValueError, TypeError, RuntimeError) as error:  # such as lists of different lengths
        raise InputError(f"{what} are no array: {in_words(error)}") from error
    if n_masked:
        raise InputError(f"{what} have {n_masked:,} masked values: fill them by .filled(…), or drop them")
    return array


def _numpy(tensor: Tensor) -> NDArray[Any]:
    known = tensor.float() if tensor.dtype == torch.bfloat16 else tensor  # numpy has no bfloat16
    array: NDArray[Any] = known.cpu().numpy()
    return array


def as_inputs(x: NDArray[Any]) -> NDArray[Any]:
    """Return inputs as they are kept: `uint8`, or else `float32`."""
    if x.ndim < 2:
        raise InputError(f"inputs have shape {x.shape}, expected (examples, features) or more dimensions")
    if x.dtype.kind not in "buif":
        raise InputError(f"inputs are of type {x.dtype}, expected numbers")
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported as such
        return x.astype(np.float32)


def _as_labels(y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim != 1 or y.dtype.kind not in "bui":
        raise InputError(f"labels have shape {y.shape} and type {y.dtype}, {_EXPECTED_LABELS}")
    if y.dtype == np.uint64 and y.max(initial=0) > np.iinfo(np.int64).max:
        raise InputError(f"labels go up to {y.max()}, expected classes that are numbered from 0")
    return y.astype(np.int64)


def _class_names(y: NDArray[np.int64]) -> list[str]:
    largest = int(y.max(initial=0))
    if largest >= _MOST_UNNAMED_CLASSES:
        raise InputError(f"labels go up to {largest}, expected classes that are numbered from 0 without gaps")
    return [str(label) for label in range(largest + 1)]


def _check_split(validation: float, test: float, split_seed: int) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise InputError(f"validation is {validation} and test is {test}, expected shares above 0 and below 1 together")
    if not 0 <= split_seed <= _MOST_SEED:
        raise InputError(f"split_seed is {split_seed}, expected 0 to {_MOST_SEED}")


def split_stratified(
    indices: NDArray[np.int64], labels: NDArray[np.int64], n_taken: int, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices that stay and those that are taken, of every class the same share."""
    with importing("datasets", "splitting a data set needs scikit-learn"):
        from sklearn.model_selection import train_test_split
    try:
        kept, taken = train_test_split(indices, test_size=n_taken, random_state=seed, stratify=labels[indices])
    except ValueError as error:  # a class has too few examples for every part
        raise InputError(f"{name} cannot be split by class: {error}") from error
    return kept, taken
