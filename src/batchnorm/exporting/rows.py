"""Rows of a frame as the inputs of an exported graph, and rows that are made up where nobody gives any."""

import datetime
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs import (
    Columns,
    Numbers,
    Texts,
    Times,
    array_frame,
    deviation_of,
    open_frame,
    read_numbers,
    read_texts,
    read_times,
)

_GAPS = 0.1  # share of made-up cells that are missing
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def missing_text(keys: Sequence[str]) -> str:
    """Return the text that stands for a missing one: the empty one, if that is no value."""
    text = ""
    while text in keys:
        text += "?"
    return text


def table_read(X: Any, number: str) -> NDArray[Any]:
    """Return a table as an array of numbers."""
    frame = open_frame(X)
    if frame is not None:
        return np.column_stack([read_numbers(column) for column in frame.columns]).astype(number)
    dense = X.toarray() if hasattr(X, "toarray") else X
    return np.asarray(dense, dtype=number)


def columns_read(X: Any, columns: Columns, number: str) -> list[NDArray[Any]]:
    """Return the columns that a graph reads, as it reads them: numbers, microseconds, texts."""
    frame = open_frame(X)
    if frame is None:
        frame = array_frame(np.asarray(X, dtype=object) if isinstance(X, list | tuple) else np.asarray(X))
    found: list[NDArray[Any]] = []
    for learnt, column in zip(columns.learnt, frame.columns, strict=True):
        if not learnt.names():
            continue
        if isinstance(learnt, Numbers):
            found.append(read_numbers(column, durations=learnt.durations).astype(number))
        elif isinstance(learnt, Times):
            found.append(read_times(column, learnt.zone)[0].astype(np.int64))
        elif isinstance(learnt, Texts):
            missing = missing_text([*learnt.values, *learnt.known])
            texts = [missing if text is None else text for text in read_texts(column)]
            found.append(np.array(texts, dtype=object))
    return found


def made_up_rows(estimator: Any, n: int) -> NDArray[Any]:
    """Return rows that an estimator can predict for, about as spread as those of its training; always the same."""
    rng = np.random.default_rng(0)
    columns, moments = estimator._columns, estimator._inputs
    mean, deviation = moments.mean.numpy(), deviation_of(moments).numpy()
    if columns is None:
        dtype = next(estimator.network_.parameters()).detach().cpu().numpy().dtype
        drawn: NDArray[Any] = (mean + 2 * deviation * rng.normal(size=(n, len(mean)))).astype(dtype)
        if moments.n:
            drawn[rng.random(drawn.shape) < _GAPS] = np.nan
        return drawn
    rows = np.empty((n, len(columns.learnt)), dtype=object)
    at = 0
    for j, learnt in enumerate(columns.learnt):
        width = len(learnt.names())
        scale = float(deviation[at]) if width else 1.0
        rows[:, j] = _made_up(learnt, scale, rng, n)
        at += width
    return rows


def _made_up(learnt: Any, scale: float, rng: np.random.Generator, n: int) -> list[Any]:
    draws, gaps = rng.normal(size=n), rng.random(n) < _GAPS
    if isinstance(learnt, Numbers):
        numbers = (learnt.median + 2 * scale * draws).tolist()
        made: list[Any] = [datetime.timedelta(seconds=x) for x in numbers] if learnt.durations else numbers
    elif isinstance(learnt, Times):
        zone = None if learnt.zone is None else datetime.UTC
        steps = (learnt.center + 400 * 86400e6 * draws).tolist()
        made = [(_EPOCH + datetime.timedelta(microseconds=x)).replace(tzinfo=zone) for x in steps]
    elif isinstance(learnt, Texts):
        texts = [*dict.fromkeys([*learnt.values, *learnt.known]), "a text that nobody has seen"]
        made = [texts[i] for i in rng.integers(len(texts), size=n)]
    else:
        return [None] * n
    return [None if gap else value for gap, value in zip(gaps, made, strict=True)]


class quietly(warnings.catch_warnings):  # noqa: N801 (a context manager is named like a function)
    """Not have scikit-learn say that rows without names are given to what was trained with them."""

    def __enter__(self) -> Any:
        found = super().__enter__()
        warnings.filterwarnings("ignore", "X does not have valid feature names", UserWarning)
        return found
