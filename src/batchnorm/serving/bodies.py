"""What bodies of JSON and answers have in common."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from batchnorm.errors import InputError
from batchnorm.files import json_ready, parse_json
from batchnorm.tables import shortened


def list_of_body(body: bytes, key: str, expected: str, most: int) -> list[Any]:
    """Return the list that a body of JSON has under its only key.

    Parameters
    ----------
    body : bytes
    key : str
    expected : str
        How the body should be, for errors.
    most : int
        Items at most.

    Raises
    ------
    InputError
        If it is no such body, or the list is empty or longer.
    """
    given = parse_json(body, "the body")
    if not isinstance(given, dict):
        raise InputError(f"the body is {shortened(given)}, expected {expected}")
    if given.keys() != {key}:
        keys = ", ".join(shortened(key) for key in list(given)[:8])
        raise InputError(f"the body has {f'the keys {keys}' if keys else 'no keys'}, expected {expected}")
    items = given[key]
    if not isinstance(items, list):
        raise InputError(f"{key} is {shortened(items)}, expected {expected}")
    if not items:
        raise InputError(f"{key} is empty: there is nothing to predict")
    if len(items) > most:
        raise InputError(f"there are {len(items):,} {key}, expected {most:,} at most: send them in parts")
    return items


def rows_of(columns: Mapping[str, NDArray[Any]]) -> list[dict[str, Any]]:
    """Return columns of predictions as rows of what JSON knows."""
    rows: list[dict[str, Any]] = json_ready(pa.RecordBatch.from_pydict(columns).to_pylist())
    return rows
