"""Permutation importance: how much worse predictions become when a column's cells change places."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.progress import Bar
from batchnorm.scores import value_scores

if TYPE_CHECKING:
    import pyarrow as pa

_REPEATS = 5
_SECONDS = 20.0


@dataclass(frozen=True)
class Importance:
    """What the columns of a table are worth.

    Parameters
    ----------
    names : list of str
        The columns that were tried, the most important first.
    means, deviations : list of float
        How much the score falls, over the repeats.
    score : float
        Accuracy, or R², of the rows as they are.
    n_rows, n_left_out : int
        Rows that were predicted, and columns that there was no time for.
    """

    names: list[str]
    means: list[float]
    deviations: list[float]
    score: float
    n_rows: int
    n_left_out: int


def permutation_importance(
    estimator: Any, inputs: "pa.Table", target: NDArray[Any], *, show_progress: bool = False, seconds: float = _SECONDS
) -> Importance | None:
    """Return how much the score of predictions falls when the cells of one column change places, for each column.

    It is a measure of the trained estimator, not of the world: of two columns that say the same each may seem to be of
    no worth (Breiman 2001; Fisher, Rudin and Dominici 2019, arXiv:1801.01489).

    Parameters
    ----------
    estimator : BatchNormClassifier or BatchNormRegressor
    inputs : pyarrow.Table
    target : array
    show_progress : bool, default False
    seconds : float
        After that no other column is begun.

    Returns
    -------
    Importance or None
        None where there is no score, as R² of a single row.
    """
    score = _scorer(estimator, target)
    whole = score(inputs)
    if whole is None:
        return None
    rng, end = np.random.default_rng(0), time.monotonic() + seconds
    falls = dict[str, list[float]]()
    with Bar("columns changed", show_progress, unit="columns") as bar:
        bar.expect(inputs.num_columns)
        for place, name in enumerate(inputs.column_names):
            if time.monotonic() > end:
                break
            falls[name] = [_fall(whole, score(_shuffled(inputs, place, rng))) for _ in range(_REPEATS)]
            bar.advance()
    order = sorted(falls, key=lambda name: -float(np.mean(falls[name])))
    means, deviations = ([float(of(falls[name])) for name in order] for of in (np.mean, np.std))
    return Importance(order, means, deviations, whole, inputs.num_rows, inputs.num_columns - len(falls))


def _shuffled(inputs: "pa.Table", place: int, rng: np.random.Generator) -> "pa.Table":
    column = inputs.column(place).take(rng.permutation(inputs.num_rows))
    return inputs.set_column(place, inputs.schema.field(place), column)


def _fall(before: float, after: float | None) -> float:
    return 0.0 if after is None else before - after


def _scorer(estimator: Any, target: NDArray[Any]) -> "Callable[[pa.Table], float | None]":
    def score(inputs: "pa.Table") -> float | None:
        predicted = estimator.predict(inputs)
        if not hasattr(estimator, "classes_"):
            r2: float | None = value_scores(predicted, target)["r2"]
            return r2
        right = predicted == target
        return float((right.all(axis=1) if right.ndim > 1 else right).mean())

    return score
