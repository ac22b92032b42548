"""A frame's columns, of whatever library, as arrays of numbers, texts or times: missing is missing, however written."""

import datetime
import decimal
import math
import numbers
import re
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import narwhals as nw
import numpy as np
from numpy.typing import NDArray

INFINITY = "Input X contains infinity in column {!r}: put a number there, or NaN where none is known"
_HOW = "make numbers, truth values, texts or dates of it, or leave it out"
_NATURAL = (nw.Float64, nw.Float32, nw.Int64, nw.Int32, nw.Int16, nw.Int8, nw.UInt64, nw.UInt32, nw.UInt16, nw.UInt8)
_EXACT = 2**24  # up to which float32 has every whole number
_LEVELS = (nw.Categorical, nw.Enum)
_UTC = datetime.timezone.utc  # noqa: UP017 (its short name is younger than some versions of numpy's stubs)


@dataclass(frozen=True)
class Column:
    """One column: its name in messages, and a series of one type, or an array, of objects where types are mixed."""

    name: str
    cells: Any

    def __len__(self) -> int:
        return len(self.cells)


@dataclass(frozen=True)
class Frame:
    """The columns of a frame or of an array.

    Parameters
    ----------
    columns : sequence of Column
    n_rows : int
    is_plain : bool
        Whether all of them are numbers and truth values of types that numpy has, with no place that says missing.
    names : list of str
        The columns' names, as texts.
    """

    columns: Sequence[Column]
    n_rows: int
    is_plain: bool
    names: list[str]


def open_frame(X: Any) -> Frame | None:
    """Return the columns of a frame, or None if that is not what `X` is.

    Nor is a pandas frame whose columns all leave out zeros: that is a sparse matrix.

    Raises
    ------
    ValueError
        If it is a query that was not computed yet.
    """
    if isinstance(X, Frame):
        return X
    if isinstance(X, np.ndarray | list | tuple):
        return None
    if nw.dependencies.is_pandas_dataframe(X):  # by place: names may be there twice, and of any type
        if len(X.columns) and all(_leaves_out_zeros(dtype) for dtype in X.dtypes):
            return None
        native = [X.iloc[:, i] for i in range(X.shape[1])]
        series = [nw.from_native(cells, series_only=True) for cells in native]
        return _frame([str(name) for name in X.columns], series, len(X))
    frame = nw.from_native(X, pass_through=True)
    if isinstance(frame, nw.LazyFrame):
        raise ValueError(f"X is a {type(X).__name__}, expected a frame that holds its rows: collect() it first")
    if not isinstance(frame, nw.DataFrame):
        return None
    return _frame(frame.columns, [frame.get_column(name) for name in frame.columns], len(frame))


def _leaves_out_zeros(dtype: Any) -> bool:
    return hasattr(dtype, "fill_value") and bool(dtype.fill_value == 0)


def array_frame(X: NDArray[Any], names: Any = None) -> Frame:
    """Return the columns of an array (rows, columns)."""
    texts = [f"x{i}" for i in range(X.shape[1])] if names is None else [str(name) for name in names]
    return Frame([Column(name, X[:, i]) for i, name in enumerate(texts)], len(X), is_plain=False, names=texts)


def _frame(names: list[str], series: list[Any], n_rows: int) -> Frame:
    columns = [Column(name, _cells(cells)) for name, cells in zip(names, series, strict=True)]
    return Frame(columns, n_rows, bool(series) and all(map(_is_plain, series)), names)


def _cells(series: Any) -> Any:
    native = series.to_native()
    dtype = getattr(native, "dtype", None)
    if hasattr(dtype, "fill_value"):
        return nw.from_native(native.sparse.to_dense(), series_only=True)
    unknown = series.dtype == nw.Unknown and not _pandas_zone(series)  # to narwhals: it is what its values are
    return _objects(series.to_list()) if dtype == np.dtype(object) or series.dtype == nw.Object or unknown else series


def _objects(values: list[Any]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _is_plain(series: Any) -> bool:
    if not (series.dtype in _NATURAL or series.dtype == nw.Boolean):
        return False
    # NaN, the one missing value that numpy's types have, is looked for in the whole array, which is faster.
    return isinstance(getattr(series.to_native(), "dtype", None), np.dtype) or series.null_count() == 0


def is_missing(value: Any) -> bool:
    """Tell whether one value is None, NaN, NaT or pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):  # pandas', without its import
        return True
    if isinstance(value, decimal.Decimal):
        return value.is_nan()  # one that signals is not to be compared
    return isinstance(value, float | np.floating | np.datetime64 | np.timedelta64) and value != value


def kind_of(column: Column, *, by_level: bool = True) -> str:
    """Return how a column is read: "number", "duration", "time", "text", "category" or, where all is missing, "empty".

    Parameters
    ----------
    column : Column
    by_level : bool
        Whether a column of a category type is one, rather than what its values are.

    Raises
    ------
    ValueError
        If it is neither, which names the column.
    """
    cells = column.cells
    if isinstance(cells, np.ndarray):
        kind = {"M": "time", "m": "duration", "U": "text", "O": ""}.get(cells.dtype.kind, "number")
        return kind or _kind_of_values(column, cells)
    dtype = cells.dtype
    if cells.null_count() == len(cells):
        return "empty"
    if dtype in _LEVELS:
        return "category" if by_level else _kind_of_values(column, _objects(cells.to_list()))
    if dtype.is_numeric() or dtype == nw.Boolean:
        return "number"
    if _pandas_zone(cells):
        return "time"
    for of, kind in ((nw.String, "text"), (nw.Datetime, "time"), (nw.Date, "time"), (nw.Duration, "duration")):
        if dtype == of:
            return kind
    raise ValueError(f"column {column.name!r} is of type {dtype}: {_HOW}")


def _kind_of_values(column: Column, values: NDArray[Any]) -> str:
    found = {type(value) for value in values if not is_missing(value)}
    if not found:
        return "empty"
    if all(issubclass(kind, numbers.Real | decimal.Decimal | np.bool_) for kind in found):
        return "number"
    if all(issubclass(kind, str | numbers.Real | decimal.Decimal | np.bool_) for kind in found):
        return "text"
    if all(issubclass(kind, datetime.date | np.datetime64) for kind in found):
        return "time"
    if all(issubclass(kind, datetime.timedelta | np.timedelta64) for kind in found):
        return "duration"
    names = ", ".join(sorted({kind.__name__ for kind in found}))
    raise ValueError(f"column {column.name!r} holds values of type {names}: {_HOW}")


def needs_double(column: Column) -> bool:
    """Tell whether numbers or durations need float64: they have it, or are whole and one is beyond those of float32."""
    cells = column.cells
    if isinstance(cells, nw.Series) and cells.dtype not in _LEVELS:
        is_float = cells.dtype.is_float()
        return cells.dtype in (nw.Float64, nw.Decimal) or (not is_float and _is_beyond_float32(column))
    array = cells if isinstance(cells, np.ndarray) else _objects(cells.to_list())
    if array.dtype.kind == "f":
        return array.dtype.itemsize >= 8
    if array.dtype == object:
        return not all(isinstance(value, numbers.Integral | np.bool_) for value in array if not is_missing(value))
    return _is_beyond_float32(column)


def _is_beyond_float32(column: Column) -> bool:
    values = read_numbers(column, durations=kind_of(column, by_level=False) == "duration")
    return bool((np.abs(values) > _EXACT).any())


def read_numbers(column: Column, *, durations: bool = False) -> NDArray[np.float64]:
    """Return a column's numbers, truth values as 0 and 1, or its durations in seconds; NaN where one is missing.

    Raises
    ------
    ValueError
        If it holds something else, or an infinite number.
    """
    kind = kind_of(column, by_level=False)
    _expect(column, kind, "duration" if durations else "number", "durations" if durations else "numbers")
    if kind == "empty":
        return np.full(len(column), np.nan)
    cells = column.cells
    if durations:
        array = cells if isinstance(cells, np.ndarray) else cells.to_numpy()
        if array.dtype == object:
            array = np.array([None if is_missing(value) else value for value in array], dtype="timedelta64[us]")
        return np.asarray(array / np.timedelta64(1, "s"), dtype=np.float64)
    if isinstance(cells, nw.Series) and cells.dtype not in _LEVELS:
        array = cells.cast(nw.Float64).to_numpy()
    else:
        array = cells if isinstance(cells, np.ndarray) else _objects(cells.to_list())
        if array.dtype == object:
            array = np.array([math.nan if is_missing(value) else _float(value) for value in array])
    found = np.asarray(array, dtype=np.float64)
    if np.isinf(found).any():
        raise ValueError(INFINITY.format(column.name))
    return found


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # of a whole number or a fraction; a decimal number is infinite then
        return math.inf


def read_texts(column: Column) -> list[str | None]:
    """Return a column's values as texts, numbers among them as whole as they are: 1, 1.0 and "1" are the same."""
    cells = column.cells
    if isinstance(cells, nw.Series) and cells.dtype == nw.String:
        return [value if isinstance(value, str) else None for value in cells.to_list()]
    return [
        None if is_missing(value) else _text(value)
        for value in (cells.to_list() if isinstance(cells, nw.Series) else cells.tolist())
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_ | str):
        return str(value)
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Real | decimal.Decimal):
        number: Any = value
        whole = math.isfinite(number) and number == int(number)
        return str(int(number)) if whole else repr(float(number))
    return str(value)


def read_times(column: Column, zone: str | None) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """Return a column's times in microseconds: in UTC, or none where they have no zone, and on the clock of `zone`.

    Raises
    ------
    ValueError
        If it holds no times, or they have a zone and should have none, or the reverse.
    """
    kind = kind_of(column, by_level=False)
    _expect(column, kind, "time", "dates or times")
    if kind == "empty":
        nothing = np.full(len(column), "NaT", dtype="datetime64[us]")
        return nothing, nothing
    has = zone_of(column)
    if (has is None) != (zone is None):
        is_, was = ("no time zone", "had one") if has is None else (f"the time zone {has}", "had none")
        raise ValueError(f"column {column.name!r} has {is_}, and {was} in training: convert it")
    cells = column.cells
    if has is None:
        clock = _times(cells)
        return clock, clock
    if isinstance(cells, nw.Series):
        return _clock(cells, "UTC"), _clock(cells, str(zone))
    return _times(cells), _times(cells, zone_named(str(zone)))


def zone_of(column: Column) -> str | None:
    """Return the time zone of a column of times, or None; UTC for times of Python that have several."""
    cells = column.cells
    if isinstance(cells, nw.Series):
        return _pandas_zone(cells) or getattr(cells.dtype, "time_zone", None)
    if cells.dtype != object:
        return None
    aware = {getattr(value, "tzinfo", None) is not None for value in cells if not is_missing(value)}
    if len(aware) > 1:
        raise ValueError(f"column {column.name!r} mixes times with and without a time zone: give all one, or none")
    if True not in aware:
        return None
    names = {_name_of_zone(value.tzinfo) for value in cells if not is_missing(value)}
    return names.pop() if len(names) == 1 else "UTC"


def _pandas_zone(series: Any) -> str | None:
    """Return the time zone of a pandas series: narwhals does not know all of their names."""
    zone = getattr(getattr(series.to_native(), "dtype", None), "tz", None)
    return None if zone is None else _name_of_zone(zone)


def _name_of_zone(zone: Any) -> str:
    name = getattr(zone, "key", None) or getattr(zone, "zone", None) or str(zone)  # of zoneinfo, pytz, datetime
    return str(name) if "(" not in name else "UTC"  # a zone without a name


def zone_named(name: str) -> datetime.tzinfo:
    """Return the time zone that `zone_of` named."""
    offset = re.fullmatch(r"(?:UTC)?([+-])(\d\d):(\d\d)", name)
    if offset is None:
        return zoneinfo.ZoneInfo(name)
    sign, hours, minutes = offset.groups()
    return datetime.timezone(datetime.timedelta(minutes=int(f"{sign}1") * (60 * int(hours) + int(minutes))))


def _clock(series: Any, zone: str) -> NDArray[np.datetime64]:
    """Return times with a time zone as the clocks of another show them."""
    if _pandas_zone(series):
        return np.asarray(series.to_native().dt.tz_convert(zone).dt.tz_localize(None), dtype="datetime64[us]")
    return _times(series.dt.convert_time_zone(zone).dt.replace_time_zone(None))


def _times(cells: Any, zone: datetime.tzinfo = _UTC) -> NDArray[np.datetime64]:
    array = cells if isinstance(cells, np.ndarray) else cells.to_numpy()
    if array.dtype == object:
        times = [None if is_missing(value) else _naive(value, zone) for value in array]
        array = np.array(times, dtype="datetime64[us]")
    return array.astype("datetime64[us]")


def _naive(value: Any, zone: datetime.tzinfo) -> Any:
    return value.astimezone(zone).replace(tzinfo=None) if getattr(value, "tzinfo", None) else value


def _expect(column: Column, kind: str, expected: str, words: str) -> None:
    if kind not in (expected, "empty"):
        found = {"text": "texts", "category": "texts", "number": "numbers", "time": "times", "duration": "durations"}
        raise ValueError(f"column {column.name!r} holds {found[kind]}, expected {words}, as in training: convert it")
