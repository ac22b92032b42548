"""Types of columns: those that the input stage takes, what others become, and what two of them have in common."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from batchnorm.errors import InputError
from batchnorm.tables.files.sources import cause_in_words

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_YEAR_1, _YEAR_10000 = -62135596800, 253402300800  # seconds from 1970 on
_LONGEST_NAME = 40
_HOW = "make numbers, truth values, texts or dates of it, or leave it out"


def usable(kind: pa.DataType) -> pa.DataType | None:
    """Return the type that a column is given to the input stage in, or None if it has no sensible one."""
    t = pa.types
    if t.is_dictionary(kind):
        inner = usable(kind.value_type)
        return pa.dictionary(pa.int32(), pa.string()) if inner == pa.string() else inner
    if t.is_large_string(kind) or t.is_string_view(kind) or t.is_string(kind):
        return pa.string()
    if t.is_decimal(kind) or t.is_null(kind):
        return pa.float64()
    if t.is_float16(kind):
        return pa.float32()
    if t.is_date64(kind):
        return pa.date32()
    if t.is_time(kind):
        return pa.duration(kind.unit)
    plain = (t.is_integer, t.is_floating, t.is_boolean, t.is_date32, t.is_timestamp, t.is_duration)
    return kind if any(is_one(kind) for is_one in plain) else None


def shown(kind: pa.DataType) -> str:
    """Return a type in a few letters: a nested one may have thousands."""
    text = str(kind)
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def usable_schema(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the types that columns are read as; those that cannot be keep theirs."""
    return pa.schema([(field.name, usable(field.type) or field.type) for field in schema])


def open_ended(schema: pa.Schema) -> pa.Schema:
    """Return the types of a stream by those of its beginning: what is all missing there may be anything later."""
    return pa.schema([(field.name, pa.string() if pa.types.is_null(field.type) else field.type) for field in schema])


def convert(batch: pa.RecordBatch, schema: pa.Schema, name: str) -> pa.RecordBatch:
    """Return a batch of the types that its columns are read as.

    Raises
    ------
    InputError
        If a column has none, or a value does not fit.
    """
    columns = []
    for field, column in zip(schema, batch.columns, strict=True):
        if usable(column.type) is None:
            raise InputError(f"{name}: column {field.name!r} is of type {shown(column.type)}: {_HOW}")
        try:
            columns.append(_cast(column, field.type))
            _check_dates(columns[-1])
        except (pa.ArrowException, ValueError) as error:
            raise InputError(
                f"{name}: column {field.name!r} of type {shown(column.type)} cannot be read as {field.type} "
                f"({cause_in_words(error)}): {_HOW}"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cast(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if pa.types.is_dictionary(column.type) and not pa.types.is_dictionary(kind):
        return _cast(column.dictionary_decode(), kind)
    if pa.types.is_time(column.type) and pa.types.is_duration(kind):  # since midnight
        whole = pa.int32() if column.type.bit_width == 32 else pa.int64()
        return column.view(whole).cast(pa.int64()).cast(pa.duration(column.type.unit)).cast(kind)
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(column.type):
        return pc.cast(column, pa.string()).dictionary_encode()
    return pc.cast(column, kind, safe=not pa.types.is_floating(kind))


def _check_dates(column: pa.Array) -> None:
    """Refuse dates that Python has not, before the year 1 or after 9999."""
    if pa.types.is_date32(column.type):
        per_second, day = 1, 86400
    elif pa.types.is_timestamp(column.type):
        per_second, day = _PER_SECOND[column.type.unit], 1
    else:
        return
    whole = column.view(pa.int32() if pa.types.is_date32(column.type) else pa.int64())
    found = pc.min_max(whole).as_py()
    if found["min"] is not None and not (
        _YEAR_1 * per_second <= found["min"] * day and found["max"] * day < _YEAR_10000 * per_second
    ):
        raise ValueError("a date is not of the years from 1 to 9999")


def joined(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or None."""
    t = pa.types
    if one == other:
        return one
    for a, b in ((one, other), (other, one)):
        if t.is_null(a):
            return b
        if t.is_floating(a) and (t.is_floating(b) or t.is_integer(b)):
            return pa.float64()
        if t.is_string(a) and t.is_dictionary(b):
            return a
        if t.is_timestamp(a) and a.tz is None and t.is_date(b):
            return a
    if t.is_integer(one) and t.is_integer(other):
        return pa.int64() if pa.uint64() not in (one, other) else pa.float64()
    if (t.is_timestamp(one) and t.is_timestamp(other) and one.tz == other.tz) or (
        t.is_duration(one) and t.is_duration(other)
    ):
        return max(one, other, key=lambda kind: ("s", "ms", "us", "ns").index(kind.unit))
    return None


def distinct(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return the values that a column has, each once.

    Sorting numbers takes little memory; pyarrow's table of hashes takes a hundred bytes for each of those that differ.
    """
    known = column.drop_null()
    if pa.types.is_primitive(column.type):
        return np.unique(known.to_numpy())
    return np.asarray(pc.unique(known).to_numpy(zero_copy_only=False))
