"""The columns that predictions are written in, whatever was predicted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import InputError

Columns = dict[str, NDArray[Any]]


def check_least(least: float | None, *, has_probabilities: bool) -> None:
    """Refuse to mark rows that are unsure where there are no probabilities."""
    if least is not None and not has_probabilities:
        raise InputError("--unsure-below needs probabilities, and this run predicts values")


def class_columns(classes: NDArray[Any], probabilities: NDArray[Any], least: float | None) -> Columns:
    """Return "prediction" and "probability_<class>"; with `least` also "unsure": no probability is as large.

    Parameters
    ----------
    classes : array, shape (classes,)
    probabilities : array, shape (rows, classes)
    least : float or None
    """
    columns: Columns = {"prediction": classes[probabilities.argmax(axis=1)]}
    columns |= {f"probability_{label}": probabilities[:, i] for i, label in enumerate(classes)}
    return columns | _unsure(probabilities.max(axis=1), least)


def label_columns(names: Sequence[str], probabilities: NDArray[Any], least: float | None) -> Columns:
    """Return "prediction_<label>" and "probability_<label>" of several labels; "unsure" where one of them is."""
    labels = np.asarray(probabilities > 0.5, dtype=np.int64)
    columns = value_columns(names, labels) | _named("probability", names, probabilities)
    return columns | _unsure(np.maximum(probabilities, 1 - probabilities).min(axis=1), least)


def value_columns(names: Sequence[str], values: NDArray[Any]) -> Columns:
    """Return "prediction", or "prediction_<target>" of several targets."""
    return _named("prediction", names, values)


def _named(what: str, names: Sequence[str], values: NDArray[Any]) -> Columns:
    if values.ndim == 1:
        return {what: values}
    return {f"{what}_{name}": np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}


def _unsure(sure: NDArray[Any], least: float | None) -> Columns:
    return {} if least is None else {"unsure": sure < least}
