"""What is predicted: classes, several labels or values, out of a table's columns."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchnorm.data import names_classes
from batchnorm.errors import InputError
from batchnorm.tables.files import distinct

Task = Literal["classification", "regression"]


def recognized_task(columns: Sequence[pa.ChunkedArray]) -> tuple[Task, str]:
    """Return whether columns hold classes or values, and in a few words why.

    Texts, categories and truth values are classes, as are whole numbers of few values; several columns are labels if
    all hold 0 and 1, and otherwise values.

    Raises
    ------
    InputError
        If a column holds times, which may be meant as either.
    """
    if of := next((column.type for column in columns if pa.types.is_temporal(column.type)), None):
        raise InputError(
            f"the target holds {of} values: make numbers of them, such as days since a first one, or give --task "
            "classification if each is a class"
        )
    if len(columns) > 1:
        labels = all(_is_truth(column) for column in columns)
        return ("classification", "each 0 or 1") if labels else ("regression", "several columns")
    column = columns[0]
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return "classification", f"{column.type} values"
    values = distinct(column)
    n = len(values)
    whole = bool((values == np.round(values)).all())
    if names_classes(n, len(column) - column.null_count, whole):
        return "classification", f"{n} different values"
    return "regression", f"{n:,} different numbers"


def _is_truth(column: pa.ChunkedArray) -> bool:
    if pa.types.is_boolean(column.type):
        return True
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    return numeric and set(distinct(column).tolist()) <= {0, 1}


def target_array(columns: Sequence[pa.ChunkedArray], names: Sequence[str], task: Task) -> NDArray[Any]:
    """Return what an estimator takes as `y`: shape (rows,), or (rows, columns) of several.

    Raises
    ------
    InputError
        If values are asked for of what is no number, or infinite.
    """
    arrays = [_array(column, name, task) for column, name in zip(columns, names, strict=True)]
    if len(arrays) == 1:
        return arrays[0]
    stacked = np.stack(arrays, axis=1)
    if task == "regression":
        return stacked
    if not set(np.unique(stacked).tolist()) <= {0, 1}:
        raise InputError(f"the columns {', '.join(names)} are no labels of 0 and 1: give one --target, or other ones")
    return stacked.astype(np.int64)


def _array(column: pa.ChunkedArray, name: str, task: Task) -> NDArray[Any]:
    kind = column.type
    if task == "regression":
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise InputError(f"the target {name!r} holds {kind} values, expected numbers: give --task classification")
        values = column.cast(pa.float64()).to_numpy()
        if not np.isfinite(values).all():
            raise InputError(f"the target {name!r} holds infinite values: leave out these rows")
        return np.asarray(values)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy())
    if pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    coded = column.combine_chunks().dictionary_encode()  # in a moment, of many rows that have few classes
    names = np.array([str(value) for value in coded.dictionary.to_pylist()])
    return np.asarray(names[coded.indices.to_numpy()])
