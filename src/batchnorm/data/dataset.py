"""A data set: examples and their three-way split, checked once, so that nothing after has to check again."""

import hashlib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from batchnorm.config import Task
from batchnorm.data.examples import Examples, real_tensor
from batchnorm.data.representation import dataset_html
from batchnorm.data.targets import EXPECTED_LABELS, OUTPUTS, TargetScale, read_targets, task_of
from batchnorm.errors import InputError, importing, in_words

_MOST_UNNAMED_CLASSES = 10**6
_MOST_SEED = 2**32 - 1  # of scikit-learn


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set in three parts: one trains, one validates, one tests once at the end.

    Parameters
    ----------
    name : str
    train, validation, test : Examples
        Of the same feature shape and scale.
    class_names : sequence of str
        One per class, which labels index; or per label or value, of several that are learnt at once.
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
        part's, or a feature or value is NaN or infinite.
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
            what = f"the {name} part of {self.name}"
            _check_part(what, part, self.feature_shape, self.n_classes, self.task)
        if self.task == "regression":
            scale = TargetScale.of(self.train.labels)
            for name, part in self.parts.items():
                object.__setattr__(self, name, replace(part, target_scale=scale))

    @classmethod
    def from_arrays(
        cls,
        inputs: ArrayLike,
        labels: ArrayLike,
        *,
        task: Task | None = None,
        name: str = "arrays",
        class_names: Sequence[str] | None = None,
        scale: float | None = None,
        validation: float = 0.1,
        test: float = 0.1,
        split_seed: int = 0,
        source: str = "arrays",
    ) -> Self:
        """Split arrays into three parts, in which every class has the same share (needs scikit-learn).

        Parameters
        ----------
        inputs : array_like, shape (examples, *feature_shape)
            `uint8` stays so; everything else becomes `float32`.
        labels : array_like, shape (examples,) or (examples, outputs)
            Classes as whole numbers from 0; several labels at once as columns of 0 and 1; or values as floating-point
            numbers, one or several.
        task : {"classification", "labels", "regression"}, optional
            What the labels are, by default what they look like.
        name : str, default "arrays"
        class_names : sequence of str, optional
            By default "0", "1", … up to the largest label, or one per column.
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
            If values are masked, complex, objects, NaN or infinite, it cannot be told what labels are, or a class has
            too few examples for three parts.

        Examples
        --------
        >>> import numpy as np
        >>> dataset = Dataset.from_arrays(np.eye(40), np.arange(40) % 4)
        >>> len(dataset.train), len(dataset.validation), len(dataset.test)
        (32, 4, 4)
        """
        x, y = as_inputs(unmasked("inputs", inputs)), read_targets(unmasked("labels", labels), task)
        if len(x) != len(y):
            raise InputError(f"{name}: {len(x)} inputs came with {len(y)} labels, expected as many of both")
        if scale is None:
            scale = 1 / 255 if x.dtype == np.uint8 else 1.0
        if class_names is None:
            class_names = _class_names(y) if y.ndim == 1 else column_names(y)
        # Before the split, so that an example is named by its place in what was given.
        whole = Examples(torch.from_numpy(np.require(x, requirements=["C", "W"])), torch.from_numpy(y), scale)
        _check_part(name, whole, tuple(x.shape[1:]), len(class_names), task_of(whole.labels))
        _check_split(validation, test, split_seed)
        rest, tested = split(np.arange(len(y)), y, round(test * len(y)), split_seed, name)
        trained, validated = split(rest, y, round(validation * len(y)), split_seed, name)
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
    def task(self) -> Task:
        """What is learnt: "classification", several "labels" at once, or "regression"."""
        return task_of(self.train.labels)

    @property
    def n_classes(self) -> int:
        """Number of classes, labels or values: what a network has outputs for."""
        return len(self.class_names)

    @property
    def target_scale(self) -> TargetScale | None:
        """What values are standardised with to be learnt; None of classes and labels."""
        return self.train.target_scale

    @property
    def summary(self) -> str:
        """Name, source, and number of examples of each part, on one line."""
        sizes = ", ".join(f"{len(part):,} {name}" for name, part in self.parts.items())
        return f"{self.name} from {self.source}: {sizes} examples"

    def _repr_html_(self) -> str:
        return dataset_html(self)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all parts: two runs saw the same data if and only if it is the same."""
        digest = hashlib.sha256()
        for part in self.parts.values():
            digest.update(f"{tuple(part.inputs.shape)} {part.inputs.dtype} {part.scale!r}".encode())
            digest.update(part.inputs.cpu().contiguous().numpy().data)
            digest.update(_bytes_of_labels(part.labels.cpu().contiguous()))
        return digest.hexdigest()


def _bytes_of_labels(labels: Tensor) -> memoryview:
    values = labels.double() if labels.is_floating_point() else labels  # equal ones of any type are the same data
    return values.numpy().data


def _check_part(what: str, part: Examples, feature_shape: tuple[int, ...], n_classes: int, task: Task) -> None:
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
    if task == "classification":
        _check_classes(what, labels, n_classes)
    else:
        _check_columns(what, labels, n_classes, task)
    if inputs.is_floating_point() and not inputs.isfinite().all():
        bad = ~inputs.reshape(len(inputs), -1).isfinite()
        example, feature = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{what} has {int(bad.sum())} features that are NaN or infinite, the first at example {example}, "
            f"feature {feature}: fill or drop them"
        )


def _check_classes(what: str, labels: Tensor, n_classes: int) -> None:
    if labels.dim() != 1:
        raise InputError(f"{what} has labels of shape {tuple(labels.shape)}, {EXPECTED_LABELS}")
    outside = (labels < 0) | (labels >= n_classes)
    if outside.any():
        first = int(outside.nonzero()[0])
        raise InputError(f"{what} has label {int(labels[first])} at example {first}, expected 0 to {n_classes - 1}")


def _check_columns(what: str, labels: Tensor, n_columns: int, task: Task) -> None:
    if task_of(labels) != task or labels.shape[1] != n_columns or n_columns == 0:
        shape = f"{labels.dtype} of shape {tuple(labels.shape)}".removeprefix("torch.")
        raise InputError(f"{what} has {shape} for labels, expected {n_columns} {OUTPUTS[task]} of each example")
    bad = ~labels.isfinite()
    if bad.any():
        example, column = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"{what} has {int(bad.sum())} labels that are NaN or infinite, the first at example {example}, column "
            f"{column}: drop these examples"
        )


def unmasked(what: str, values: ArrayLike) -> NDArray[Any]:
    """Return what came as an array, if all of it is there."""
    if isinstance(values, Tensor):
        values = real_tensor(what, values)
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


def _class_names(y: NDArray[np.int64]) -> list[str]:
    largest = int(y.max(initial=0))
    if largest >= _MOST_UNNAMED_CLASSES:
        raise InputError(f"labels go up to {largest}, expected classes that are numbered from 0 without gaps")
    return [str(label) for label in range(largest + 1)]


def column_names(y: NDArray[Any]) -> list[str]:
    """Return what the columns of several labels or values are called that have no name."""
    return [str(column) for column in range(y.shape[1])]


def _check_split(validation: float, test: float, split_seed: int) -> None:
    if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
        raise InputError(f"validation is {validation} and test is {test}, expected shares above 0 and below 1 together")
    if not 0 <= split_seed <= _MOST_SEED:
        raise InputError(f"split_seed is {split_seed}, expected 0 to {_MOST_SEED}")


def split(
    indices: NDArray[np.int64], labels: NDArray[Any], n_taken: int, seed: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices that stay and those that are taken, of every class the same share."""
    with importing("datasets", "splitting a data set needs scikit-learn"):
        from sklearn.model_selection import train_test_split
    classes = labels[indices] if labels.ndim == 1 else None
    try:
        kept, taken = train_test_split(indices, test_size=n_taken, random_state=seed, stratify=classes)
    except ValueError as error:  # a class has too few examples for every part
        how = "" if classes is None else " by class"
        raise InputError(f"{name} cannot be split{how}: {error}") from error
    return kept, taken
