"""What is learnt: classes, several labels at once, or values; told by the arrays, and how values are scaled."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.config import Task
from batchnorm.errors import InputError

TASKS: tuple[Task, ...] = get_args(Task)
OUTPUTS: dict[Task, str] = {"classification": "classes", "labels": "labels", "regression": "values"}
# What a network gives for each of them.
NETWORK_OUTPUTS: dict[Task, str] = {"classification": "logits", "labels": "logits", "regression": "values"}
# Of classes; with the calls for the usual others.
EXPECTED_LABELS = (
    "expected whole numbers of shape (examples,): use .astype(int) or .long() where they are no integers, .argmax(1) "
    "where they are one-hot, .ravel() where they are a column"
)
OTHER_TASKS = "; task 'labels' learns several labels of 0 and 1 at once, task 'regression' values"
_MOST_CLASSES = 20  # that numbers are taken to name
_ROWS_OF_A_CLASS = 10  # at least, on the average, for that


def names_classes(n_values: int, n_rows: int, whole: bool) -> bool:
    """Tell whether so many different numbers, in so many rows, look like names of classes and not like values."""
    return n_values == 2 or (whole and 0 < n_values <= min(_MOST_CLASSES, n_rows / _ROWS_OF_A_CLASS))


def check_task(task: str | None) -> None:
    """Refuse a task that there is not."""
    if task is not None and task not in TASKS:
        raise InputError(f"task is {task!r}, expected one of {', '.join(TASKS)}")


def read_targets(y: NDArray[Any], task: Task | None = None) -> NDArray[Any]:
    """Return what is learnt as `Examples` keep it.

    Parameters
    ----------
    y : array, shape (examples,) or (examples, outputs)
    task : {"classification", "labels", "regression"}, optional
        By default told by `y`: whole numbers (examples,) are classes; several columns of 0 and 1 are labels; other
        floating-point numbers are values.

    Returns
    -------
    array
        `int64` (examples,), `bool` (examples, labels), or `float64` (examples, outputs).

    Raises
    ------
    InputError
        If it is none of these; or if numbers might be classes as well, and the task is not given.
    """
    check_task(task)
    task = task or recognized_task(y)
    if task == "classification":
        return _classes(y)
    if y.ndim not in (1, 2) or y.dtype.kind not in "buif" or 0 in y.shape[1:]:
        kind = "labels of 0 and 1" if task == "labels" else "values"
        raise _refused(y, f"expected {kind} of shape (examples,) or (examples, {OUTPUTS[task]})")
    columns = y[:, None] if y.ndim == 1 else y
    if task == "regression":
        return _finite(columns)
    if (strange := ~np.isin(columns, (0, 1))).any():
        place = tuple(int(i) for i in np.argwhere(strange)[0])
        raise InputError(f"labels have {columns[place]!s} at example {place[0]}, label {place[1]}, expected 0 or 1")
    return columns.astype(np.bool_)


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        numbers = values.astype(np.float64)
    bad = np.argwhere(~np.isfinite(numbers))
    if len(bad):
        raise InputError(
            f"{len(bad):,} labels are NaN or infinite, the first at example {bad[0, 0]}, column {bad[0, 1]}: drop "
            "these examples"
        )
    return numbers


def recognized_task(y: NDArray[Any]) -> Task:
    """Return what labels look like, or raise `InputError` where they look like more than one task."""
    several = y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "buif"
    if several and len(y) and np.isin(y, (0, 1)).all():
        if (y.sum(1) == 1).all():
            raise _refused(y, f"one-hot, {EXPECTED_LABELS}{OTHER_TASKS}")
        return "labels"
    if y.dtype.kind == "f" and (several or y.ndim == 1 or y.shape[1:] == (1,)):
        if not several and _may_be_classes(y):
            raise _refused(y, "which may be classes or values: say which by task 'classification' or 'regression'")
        return "regression"
    return "classification"


def _may_be_classes(y: NDArray[Any]) -> bool:
    """Tell whether floating-point numbers look like names of classes."""
    return names_classes(len(np.unique(y)), len(y), are_whole(y))


def are_whole(y: NDArray[Any]) -> bool:
    """Tell whether floating-point numbers are whole ones, and can be told from each other."""
    if y.dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):
        numbers = y.astype(np.float64)
    return bool(((np.abs(numbers) < 2**53) & (numbers == np.round(numbers))).all())


def _classes(y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim == 1 and are_whole(y):
        return y.astype(np.int64)
    if y.ndim != 1 or y.dtype.kind not in "bui":
        raise _refused(y, f"{EXPECTED_LABELS}{OTHER_TASKS}")
    if y.dtype == np.uint64 and y.max(initial=0) > np.iinfo(np.int64).max:
        raise InputError(f"labels go up to {y.max()}, expected classes that are numbered from 0")
    return y.astype(np.int64)


def _refused(y: NDArray[Any], why: str) -> InputError:
    return InputError(f"labels have shape {y.shape} and type {y.dtype}, {why}")


def task_of(labels: Tensor) -> Task:
    """Return what labels of this kind are: see `Examples`."""
    if labels.dim() == 1:
        return "classification"
    return "regression" if labels.is_floating_point() else "labels"


def as_columns(outputs: Any, labels: Tensor) -> Any:
    """Return a network's outputs (batch, outputs), of one value or label also where they came as (batch,)."""
    is_flat = isinstance(outputs, Tensor) and outputs.dim() == 1
    return outputs[:, None] if is_flat and labels.dim() == 2 and labels.shape[1] == 1 else outputs


@dataclass(frozen=True)
class TargetScale:
    """What values are standardised with, to be learnt; a network's outputs are standardised values.

    Parameters
    ----------
    mean, deviation : tuple of float
        Of each value, in its unit, over the training part.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, values: Tensor) -> Self:
        """Return mean and standard deviation of each column (examples, outputs), the same bits on every machine.

        That of a constant is 1: nothing is to be learnt of it but its mean.

        Raises
        ------
        InputError
            If numbers are too large for float64 to hold their sum.
        """
        columns = values.detach().double().cpu().T.tolist()
        means, deviations = zip(*map(_moments, columns), strict=True)
        return cls(means, deviations)

    def check(self, values: Tensor) -> None:
        """Check that these are as many values (examples, outputs) as are scaled, and that they can be."""
        n, numbers = values.shape[1] if task_of(values) == "regression" else 0, (*self.mean, *self.deviation)
        if not len(self.mean) == len(self.deviation) == n or not all(map(math.isfinite, numbers)):
            raise InputError(f"target_scale is {self}, expected a finite mean and deviation for each of {n} values")
        if min(self.deviation, default=1) <= 0:
            raise InputError(f"target_scale has the deviations {self.deviation}, expected numbers above 0")

    def standardized(self, values: Tensor) -> Tensor:
        """Return values (examples, outputs) as a network learns them, in float64."""
        mean, deviation = self._tensors(values)
        return (values.double() - mean) / deviation

    def in_unit(self, outputs: Tensor) -> Tensor:
        """Return outputs (examples, outputs) of a network in the unit of the values, in float64."""
        mean, deviation = self._tensors(outputs)
        return outputs.double() * deviation + mean

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, deviation = (
            torch.tensor(v, dtype=torch.float64, device=like.device) for v in (self.mean, self.deviation)
        )
        return mean, deviation


def _moments(values: Sequence[float]) -> tuple[float, float]:
    try:  # sums without rounding, whatever their order
        mean = math.fsum(values) / len(values)
    except OverflowError:
        mean = math.inf
    spread = max(abs(value - mean) for value in values)
    if not math.isfinite(spread):
        raise InputError(f"labels go up to {max(map(abs, values)):.3g}, too far for float64 to sum them: divide them")
    # Squares of shares of the largest: those of the values themselves might be more, or less, than float64 holds.
    return mean, spread * math.sqrt(
        math.fsum(((v - mean) / spread) ** 2 for v in values) / len(values)
    ) if spread else 1.0
