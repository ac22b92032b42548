"""What a file computes, beside what it was made of."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import BatchnormError

BOUND = 1e-5  # of the largest value of an output
_EVEN = 2 * BOUND  # probabilities that differ by less may come in another order


def deviation(expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference in numbers, relative to the largest of each array; infinity where shapes differ."""
    return max((_difference(np.asarray(a), np.asarray(b)) for a, b in zip(expected, found, strict=True)), default=0.0)


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> float:
    if expected.shape != found.shape:
        return math.inf
    a, b = (array.astype(np.complex128 if array.dtype.kind == "c" else np.float64) for array in (expected, found))
    same = (a == b) | (np.isnan(a) & np.isnan(b))  # infinite ones too
    if same.all():
        return 0.0
    finite = np.abs(a[np.isfinite(a)])
    scale = float(finite.max(initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        largest = float(np.abs(a - b)[~same].max())
    return math.inf if math.isnan(largest) else largest / scale


def same_labels(expected: NDArray[Any], found: NDArray[Any], probabilities: NDArray[Any]) -> bool:
    """Tell whether labels are the same, but for those whose probabilities leave it open."""
    if expected.shape != found.shape:
        return False
    if expected.ndim == 2:  # several labels
        open_ = np.abs(probabilities - 0.5) <= _EVEN
    elif probabilities.shape[1] < 2:
        open_ = np.zeros(len(expected), dtype=bool)
    else:
        best = np.sort(probabilities, axis=1)
        open_ = best[:, -1] - best[:, -2] <= _EVEN
    return bool(((expected == found) | open_).all())


def compare(
    format: str, expected: Sequence[NDArray[Any]], found: Sequence[NDArray[Any]], classes: NDArray[Any] | None = None
) -> float:
    """Return by how much predictions deviate, those of all rows and, behind them, of the first alone; refuse too much.

    Parameters
    ----------
    format : str
    expected : sequence of array
        Values, or numbers of classes and probabilities.
    found : sequence of array
        The same, once or with those of the first row behind it.
    classes : array, optional
        What is found in place of numbers of classes.
    """
    wanted = [*expected, *(array[:1] for array in expected)] if len(found) > len(expected) else expected
    if len(expected) == 1:
        deviates, agree = deviation(wanted, found), True
    else:
        deviates = deviation(wanted[1::2], found[1::2])
        labels = [wanted[i] if classes is None else classes[wanted[i]] for i in range(0, len(wanted), 2)]
        agree = all(map(same_labels, labels, found[::2], wanted[1::2]))
    check(format, deviates, agree)
    return deviates


def check(format: str, deviates: float, labels_agree: bool = True) -> None:
    """Refuse what does not compute the same.

    Raises
    ------
    BatchnormError
        Before anything is written.
    """
    if not labels_agree:
        raise BatchnormError(
            f"the {format} file would give other classes than what was exported on its rows: please report it"
        )
    if not deviates <= BOUND:
        raise BatchnormError(
            f"the outputs of the {format} file would deviate by {deviates:.2g} relative to their largest value, "
            f"expected at most {BOUND:g}. Either the model is not a function of its input alone, or rounding is that "
            "large in its dtype (then try model.double()), or this is a mistake of export: please report it"
        )
