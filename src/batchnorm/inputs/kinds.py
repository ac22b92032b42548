"""What columns of numbers, durations and times become."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs.frames import Column, read_numbers, read_times, zone_of
from batchnorm.inputs.scaling import quantiles

PARTS = ("years", "month", "weekday", "hour")  # of a time
_YEAR = 365.2425 * 86400e6  # microseconds


@dataclass(frozen=True)
class Context:
    """What columns are learnt with.

    Parameters
    ----------
    weights : array, shape (examples,)
        How often each example counts.
    outputs : array, shape (examples, outputs), or None
        Targets that statistics are taken of.
    seed : int
        Draws the folds.
    keep_constant : bool
        Whether a column stays that is constant so far.
    """

    weights: NDArray[np.float64]
    outputs: NDArray[np.float64] | None
    seed: int
    keep_constant: bool

    def median(self, values: NDArray[np.float64]) -> float:
        """Return the median of what is not NaN, or 0 if nothing counts."""
        known = ~np.isnan(values) & (self.weights > 0)
        return float(quantiles(values[known][None], self.weights[known], (0.5,))[0, 0]) if known.any() else 0.0

    def varies(self, values: NDArray[np.float64]) -> bool:
        """Tell whether values, NaN aside, are to be a column."""
        known = values[~np.isnan(values) & (self.weights > 0)]
        return bool(len(known) and (self.keep_constant or known.min() < known.max()))

    def has(self, which: NDArray[np.bool_]) -> bool:
        """Tell whether one of these examples counts."""
        return bool(self.weights[which].any())


@dataclass(frozen=True)
class Nothing:
    """A column that is left out."""

    kind: ClassVar[str] = "nothing"
    name: str

    def names(self) -> list[str]:
        """Return the names of the columns it becomes."""
        return []

    def transform(self, column: Column) -> NDArray[np.float64]:
        """Return the columns that a column becomes (examples, columns)."""
        return np.empty((len(column), 0))


@dataclass(frozen=True)
class Numbers:
    """A column of numbers or durations."""

    kind: ClassVar[str] = "numbers"
    name: str
    durations: bool
    median: float
    varies: bool
    missing: bool

    @classmethod
    def learn(cls, column: Column, context: Context, *, durations: bool) -> Self:
        """Learn from a training's column."""
        values = read_numbers(column, durations=durations)
        missing = context.has(np.isnan(values))
        return cls(column.name, durations, context.median(values), context.varies(values), missing)

    def names(self) -> list[str]:
        """Return the names of the columns it becomes."""
        return [self.name] * self.varies + [f"{self.name} is missing"] * self.missing

    def transform(self, column: Column) -> NDArray[np.float64]:
        """Return the columns that a column becomes (examples, columns)."""
        values = read_numbers(column, durations=self.durations)
        gaps = np.isnan(values)
        return _stacked([np.where(gaps, self.median, values)] * self.varies + [gaps] * self.missing, len(column))


@dataclass(frozen=True)
class Times:
    """A column of dates or times."""

    kind: ClassVar[str] = "times"
    name: str
    zone: str | None
    center: int
    parts: tuple[str, ...]
    medians: tuple[float, ...]
    missing: bool

    @classmethod
    def learn(cls, column: Column, context: Context) -> Self:
        """Learn from a training's column."""
        zone = zone_of(column)
        utc, clock = read_times(column, zone)
        center = int(context.median(_numbers(utc.astype(np.int64), utc)))
        parts = _parts(utc, clock, center)
        varying = {part: values for part, values in parts.items() if context.varies(values)}
        medians = tuple(0.0 if part == "years" else context.median(values) for part, values in varying.items())
        return cls(column.name, zone, center, tuple(varying), medians, context.has(np.isnat(utc)))

    def names(self) -> list[str]:
        """Return the names of the columns it becomes."""
        return [f"{self.name}: {part}" for part in self.parts] + [f"{self.name} is missing"] * self.missing

    def transform(self, column: Column) -> NDArray[np.float64]:
        """Return the columns that a column becomes (examples, columns)."""
        utc, clock = read_times(column, self.zone)
        gaps, parts = np.isnat(utc), _parts(utc, clock, self.center)
        filled = [np.where(gaps, median, parts[part]) for part, median in zip(self.parts, self.medians, strict=True)]
        return _stacked(filled + [gaps] * self.missing, len(column))


def _parts(utc: NDArray[Any], clock: NDArray[Any], center: int) -> dict[str, NDArray[np.float64]]:
    """Return years since `center`, and the month, day of the week (Monday: 0) and hour that a calendar shows."""
    day, month = clock.astype("datetime64[D]"), clock.astype("datetime64[M]")
    return {
        "years": _numbers((utc.astype(np.int64) - center) / _YEAR, utc),
        "month": _numbers(month.astype(np.int64) % 12 + 1, utc),
        "weekday": _numbers((day.astype(np.int64) + 3) % 7, utc),
        "hour": _numbers((clock - day).astype(np.int64) / 3600e6, utc),
    }


def _numbers(values: NDArray[Any], times: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(np.isnat(times), np.nan, values)


def _stacked(columns: list[NDArray[Any]], n_rows: int) -> NDArray[np.float64]:
    return np.column_stack(columns).astype(np.float64) if columns else np.empty((n_rows, 0))
