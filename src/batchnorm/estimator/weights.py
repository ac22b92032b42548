"""How often each example counts, and how often it takes part."""

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import train_test_split
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


def held_back_of(
    rows: NDArray[np.int64], classes: NDArray[Any] | None, share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those to hold back, of every class its share.

    A class of one member is trained on. Where there are more classes than rows to hold back, these are any rows.
    """
    n = min(math.ceil(share * len(rows)), len(rows) - 1)
    alone, strata = rows[:0], None
    if classes is not None:
        _, codes, sizes = np.unique(classes[rows], return_inverse=True, return_counts=True)
        several = sizes[codes] > 1
        if (sizes > 1).sum() <= min(n, several.sum() - n):
            alone, rows, strata = rows[~several], rows[several], codes[several]
    training, held_back = train_test_split(rows, test_size=n, random_state=seed, stratify=strata)
    return np.sort(np.append(training, alone)), np.sort(held_back)  # neighbours in a table are read faster


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


class Epoch:
    """What an epoch goes through: each row once or, where rows weigh differently, as often as it counts.

    A step normalises with the moments of its batch. An example that outweighs the rest of its batch *is* these moments,
    is normalised to 0 and never learnt. So weights do not enter a batch, where there are several: a row of k times the
    mean weight stands k times in the epoch, as k copies of it would, and one of a tenth of it in every tenth epoch on
    average. A single batch of all rows holds each with its weight, which is the same to the bit as copies.

    Parameters
    ----------
    rows : array, shape (rows,)
    weights : array, shape (examples,), or None
        How often each example counts, 1 on the average of these rows.
    batch_size : int

    Attributes
    ----------
    weights : array, shape (examples,), or None
        What each example weighs in its batch; None if all weigh the same.
    """

    def __init__(self, rows: NDArray[np.int64], weights: NDArray[np.float64] | None, batch_size: int):
        alone = len(rows) <= batch_size
        self._rows = rows
        self._copies = None if weights is None or alone else weights[rows]  # in an epoch, on average
        self.weights = weights if alone else None

    def __len__(self) -> int:
        return len(self._rows)

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return some of the rows, each once, whatever it counts."""
        return self._rows[places]

    def order(self, random: np.random.Generator, shuffle: bool) -> NDArray[np.int64]:
        """Return the rows of one epoch in their order.

        Copies are drawn systematically: their number is the weight, rounded up or down. They stand evenly apart.
        """
        n = len(self._rows)
        if self._copies is None:
            return random.permutation(self._rows) if shuffle else self._rows
        drawn = random.permutation(n)
        ends = np.minimum(np.floor(self._copies[drawn].cumsum() + random.random()), n)
        ends[-1] = n  # whatever was rounded on the way
        copies = np.diff(ends, prepend=0).astype(np.int64)
        of = np.repeat(np.arange(n), copies)
        nth = np.arange(n) - np.repeat(copies.cumsum() - copies, copies)
        first = of if shuffle else drawn[of]  # a row's own place
        places = (first / n + nth / copies[of]) % 1
        return self._rows[drawn[of[np.argsort(places, kind="stable")]]]


def concentration(
    rows: NDArray[np.int64],
    weights: NDArray[np.float64] | None,
    copies: NDArray[np.float64] | None,
    batch_size: int,
) -> float:
    """Return how many times fewer examples there are than weights say: n Σ w² / (Σ w)², L. Kish's design effect (1965).

    Of a single batch, in which an example's weight is to the bit as many copies of it, only what classes weigh counts.

    Parameters
    ----------
    rows : array, shape (rows,)
    weights : array, shape (examples,), or None
        How often each example counts, its class's weight included.
    copies : array, shape (examples,), or None
        How often the user has it count.
    batch_size : int
    """
    if weights is None:
        return 1.0
    given = np.ones(len(rows)) if copies is None or len(rows) > batch_size else copies[rows]
    weights = weights[rows]
    return float(given.sum() * (np.square(weights) / given).sum() / weights.sum() ** 2)
