"""How often each example counts."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array


def checked_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64] | None:
    """Return a user's weights (examples,), or None if there are none.

    Raises
    ------
    ValueError
        If there is not one for each example, one is below 0 or not finite, or all are 0.
    """
    if sample_weight is None:
        return None
    if isinstance(sample_weight, numbers.Real) or getattr(sample_weight, "shape", None) == ():
        sample_weight = np.full(n_samples, sample_weight)
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weights.shape != (n_samples,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected ({n_samples},): one per example")
    if (weights < 0).any():
        raise ValueError(f"sample_weight holds {weights.min():g}, expected no weight below 0")
    if not weights.any():
        raise ValueError("sample_weight is zero for every example: nothing is left to train on")
    return np.array(weights)


def counts_of(
    rows: NDArray[np.int64], weights: NDArray[np.float64] | None, n_examples: int
) -> NDArray[np.float64] | None:
    """Return how often each example counts if only some rows do, or None if each counts once."""
    if weights is None and len(rows) == n_examples:
        return None
    counts = np.zeros(n_examples)
    counts[rows] = 1.0 if weights is None else weights[rows]
    return counts


def weights_of_classes(
    wanted: Any, codes: NDArray[Any], classes: NDArray[Any], counts: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the weight (examples,) of each example's class: a dict's, or what makes all classes weigh the same."""
    if isinstance(wanted, str):  # "balanced"
        totals = np.bincount(codes, weights=counts, minlength=len(classes))
        weights = np.divide(totals.sum(), (totals > 0).sum() * totals, out=np.zeros(len(classes)), where=totals > 0)
        return np.asarray(weights[codes])
    if not isinstance(wanted, dict):
        raise ValueError(f"class_weight must be a dict of class to weight. Got {wanted!r} instead")
    names = classes.tolist()
    unknown, without = [name for name in wanted if name not in names], [name for name in names if name not in wanted]
    if unknown and without:  # some part of the data may lack a class, but then each that it has should be named
        raise ValueError(f"class_weight has {unknown}, which are no classes, and has not {without}, which are")
    weights = np.array([wanted.get(name, 1.0) for name in names], dtype=np.float64)
    if not ((weights >= 0) & np.isfinite(weights)).all():
        raise ValueError(f"class_weight is {wanted}, expected finite weights of at least 0")
    return np.asarray(weights[codes])
