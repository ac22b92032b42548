"""Rows that somebody writes by hand or sends, one object each, as the columns that a run was trained on.

A file tells the types of its columns by all its rows; a few rows cannot, so here it is the training that does.
"""

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from batchnorm.errors import InputError
from batchnorm.inputs import Column, Numbers, Texts, Times, read_texts
from batchnorm.tables.runs import TableRun

_EXPECTED = {
    "number": "a number",
    "duration": "a number of seconds, or a time of the day such as '17:45:00'",
    "time": "a date or time of ISO 8601 without a time zone, such as '2024-01-31' or '2024-01-31T17:45:00'",
    "zoned time": "a time of ISO 8601 with its time zone, such as '2024-01-31T17:45:00+01:00'",
    "text": "a text",
}
_TYPES = {
    "number": pa.float64(),
    "duration": pa.duration("us"),
    "time": pa.timestamp("us"),
    "zoned time": pa.timestamp("us", "UTC"),
    "text": pa.string(),
    "unused": pa.float64(),
}
_SHOWN = 40  # characters of a value in an error
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class InputColumn:
    """A column that a run was trained on, as who gives rows needs to know it.

    Parameters
    ----------
    name : str
    kind : str
        What it holds. Predictions do not depend on one that is "unused": all of it was missing in the training, or
        nearly each of its texts stood there once.
    example : float, str or None
        A usual value, as JSON has it.
    values : tuple of str
        Of a text: those that the training knew, the frequent ones first.
    """

    name: str
    kind: Literal["number", "duration", "time", "zoned time", "text", "unused"]
    example: float | str | None = None
    values: tuple[str, ...] = ()

    @property
    def expected(self) -> str:
        """What a value of it is, in words."""
        return "null" if self.kind == "unused" else f"{_EXPECTED[self.kind]}, or null where it is missing"


def input_columns(run: TableRun) -> list[InputColumn]:
    """Return the columns that predictions of a run are made from, in their order."""
    learnt = run.estimator._columns
    if learnt is None:  # of plain numbers, which are taken as they are
        return [InputColumn(name, "number", 0.0) for name in run.columns]
    return [_described(name, of) for name, of in zip(run.columns, learnt.learnt, strict=True)]


def _described(name: str, learnt: Any) -> InputColumn:
    if isinstance(learnt, Numbers):
        return InputColumn(name, "duration" if learnt.durations else "number", learnt.median)
    if isinstance(learnt, Times):
        usual = _EPOCH + datetime.timedelta(microseconds=learnt.center)
        text = usual.isoformat(timespec="seconds") if "hour" in learnt.parts else usual.date().isoformat()
        if learnt.zone is not None:
            return InputColumn(name, "zoned time", usual.isoformat(timespec="seconds") + "+00:00")
        return InputColumn(name, "time", text)
    if isinstance(learnt, Texts):
        values = tuple(dict.fromkeys([*learnt.values, *learnt.known]))
        return InputColumn(name, "text", values[0] if values else None, values)
    return InputColumn(name, "unused")


def table_of_rows(columns: Sequence[InputColumn], rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows as a table with the types of the training.

    Parameters
    ----------
    columns : sequence of InputColumn
    rows : sequence of mapping
        As JSON has them. Each has a value for every column, None where it is missing; further ones are passed over.

    Raises
    ------
    InputError
        If a row lacks a column, or has a value of another kind, which names both.
    """
    cells = [_cells(column, rows) for column in columns]
    return pa.table(cells, names=[column.name for column in columns])


def _cells(column: InputColumn, rows: Sequence[Mapping[str, Any]]) -> pa.Array:
    values = []
    for number, row in enumerate(rows, 1):
        if column.name not in row:
            raise InputError(f"row {number} lacks the column {shortened(column.name)}, expected {column.expected}")
        try:
            values.append(_value(column.kind, row[column.name]))
        except (ValueError, OverflowError) as error:
            given = shortened(row[column.name])
            where = f"row {number}: column {shortened(column.name)}"
            raise InputError(f"{where} is {given}, expected {column.expected}") from error
    return pa.array(values, _TYPES[column.kind])


def shortened(value: Any) -> str:
    """Return a value of JSON in a few letters."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _value(kind: str, value: Any) -> Any:
    """Return a cell as its column's type takes it, or raise."""
    if value is None or kind == "unused":
        return None
    if kind == "number":
        return _number(value)
    if kind == "text":
        return _text(value)
    if kind == "duration":
        return _duration(value)
    return _time(value, with_zone=kind == "zoned time")


def _number(value: Any) -> float:
    if not isinstance(value, bool | int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _text(value: Any) -> str | None:
    """Return a text; of a number the one that it is in a table, where 1, 1.0 and "1" are the same."""
    if not isinstance(value, str | bool | int | float):
        raise ValueError
    if isinstance(value, str):
        value.encode()  # half of a sign that takes two is none
    cells = np.empty(1, dtype=object)
    cells[0] = value
    return read_texts(Column("", cells))[0]


def _duration(value: Any) -> datetime.timedelta:
    if isinstance(value, str):
        clock = datetime.time.fromisoformat(value)
        if clock.tzinfo is not None:
            raise ValueError
        return datetime.datetime.combine(_EPOCH, clock) - _EPOCH
    return datetime.timedelta(seconds=_number(value))


def _time(value: Any, *, with_zone: bool) -> datetime.datetime:
    if not isinstance(value, str):
        raise ValueError
    time = datetime.datetime.fromisoformat(value)
    if (time.tzinfo is not None) != with_zone:
        raise ValueError
    return time.astimezone(datetime.UTC) if with_zone else time
