"""`Columns`: what a frame's columns become, as learnt from those of a training.

====================  ==================================================================================================
a column of           becomes
====================  ==================================================================================================
numbers, durations    itself (in seconds), the median where one is missing, and, if any was, "is missing"
truth values          the same, as 0 and 1
dates and times       years since the middle of the training, month, day of the week, hour; "is missing" likewise
texts, categories     a 0/1 column for each of up to `MOST_VALUES` frequent values, one for all rarer ones and those not
                      seen in training, one for "is missing"; of more values also the mean of the targets of each
====================  ==================================================================================================

What was the same in every example of the training is left out. All of it is look-ups and arithmetic.
"""

import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs.frames import Column, Frame, kind_of, needs_double, read_numbers, read_texts, read_times, zone_of
from batchnorm.inputs.scaling import quantiles
from batchnorm.inputs.statistics import out_of_fold, outputs_of, value_statistics

MOST_VALUES = 30  # of a column, that have a column each
RARE = 0.005  # share of the examples below which a value has none; a value that stands there once has none either
UNIQUE = 0.9  # share of values that stand there once, beyond which texts are names or prose
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


@dataclass(frozen=True)
class Texts:
    """A column of texts or categories."""

    kind: ClassVar[str] = "texts"
    name: str
    values: tuple[str, ...]
    others: bool
    missing: bool
    known: tuple[str, ...]
    statistics: tuple[tuple[float, ...], ...]
    mean: tuple[float, ...]

    @classmethod
    def learn(cls, column: Column, context: Context, *, are_categories: bool) -> tuple[Self | Nothing, NDArray[Any]]:
        """Learn from a training's column, and return also what it becomes there: statistics are those of other folds.

        Warns
        -----
        UserWarning
            If nearly all values stand there once: the column is left out.
        """
        texts = read_texts(column)
        numbers = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
        codes = np.array([-1 if text is None else numbers[text] for text in texts], dtype=np.int64)
        weights = context.weights / context.weights[context.weights > 0].min()  # how often it stands there
        counts = np.bincount(codes[codes >= 0], weights[codes >= 0], minlength=len(numbers))
        once, n = counts[(counts > 0) & (counts < 2)].sum(), counts.sum()
        if not are_categories and once > UNIQUE * n:
            warnings.warn(
                f"column {column.name!r} is left out, as nearly all of its texts are different: name it in "
                "categorical_features, or make columns of what it says",
                stacklevel=7,
            )
            return Nothing(column.name), np.empty((len(column), 0))
        present = [text for text, count in zip(numbers, counts, strict=True) if count > 0]
        present.sort(key=lambda text: (-counts[numbers[text]], text))
        least = max(2.0, RARE * weights.sum())
        values = [text for text in present if counts[numbers[text]] >= least][:MOST_VALUES]
        others, missing = len(present) > len(values), context.has(codes < 0)
        if len(values) + others + missing < 2 and not context.keep_constant:
            values, others, missing = [], False, False
        learnt = cls(column.name, tuple(values), others, missing, (), (), ())
        if len(present) <= MOST_VALUES or context.outputs is None:
            return learnt, learnt.transform(column)
        again = [text for text in present if counts[numbers[text]] >= 2]
        places: dict[str | None, int] = {text: i for i, text in enumerate(again)}
        codes = np.array([places.get(text, -1) for text in texts], dtype=np.int64)
        weights = context.weights / context.weights[context.weights > 0].mean()
        statistics, mean = value_statistics(codes, context.outputs, weights, len(again))
        result = learnt.transform(column), out_of_fold(codes, context.outputs, weights, len(again), context.seed)
        known = tuple(again), tuple(tuple(row) for row in statistics.tolist()), tuple(mean.tolist())
        return cls(column.name, tuple(values), others, missing, *known), np.hstack(result)

    def names(self) -> list[str]:
        """Return the names of the columns it becomes."""
        of = [""] if len(self.mean) < 2 else [f" {j}" for j in range(len(self.mean))]
        return [
            *(f"{self.name}={value}" for value in self.values),
            *[f"{self.name} is rare"] * self.others,
            *[f"{self.name} is missing"] * self.missing,
            *(f"{self.name}: mean of target{j}" for j in of[: len(self.mean)]),
        ]

    def transform(self, column: Column) -> NDArray[np.float64]:
        """Return the columns that a column becomes (examples, columns)."""
        texts, n_values = read_texts(column), len(self.values)
        width = n_values + self.others + self.missing
        places: dict[str | None, int] = {text: i for i, text in enumerate(self.values)}
        if self.missing:
            places[None] = width - 1
        other = n_values if self.others else width  # past the last column: in none
        taken = np.array([places.get(text, other) for text in texts], dtype=np.int64)
        result = np.asarray(taken[:, None] == np.arange(width), dtype=np.float64)
        if not self.mean:
            return result
        rows: dict[str | None, int] = {text: i for i, text in enumerate(self.known)}
        table = np.array([*self.statistics, self.mean])
        return np.hstack([result, table[[rows.get(text, -1) for text in texts]]])


def _stacked(columns: list[NDArray[Any]], n_rows: int) -> NDArray[np.float64]:
    return np.column_stack(columns).astype(np.float64) if columns else np.empty((n_rows, 0))


Learnt = Nothing | Numbers | Times | Texts
_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Nothing, Numbers, Times, Texts)}


@dataclass(frozen=True)
class Columns:
    """What a frame becomes: `learn_transform` on the frame of a training, `transform` on others.

    Parameters
    ----------
    learnt : tuple
        For each column of the frame.
    double : bool
        Whether the numbers need float64: there are such among them, or whole ones that float32 does not have.
    """

    learnt: tuple[Learnt, ...]
    double: bool

    @classmethod
    def learn_transform(
        cls,
        frame: Frame,
        targets: NDArray[Any],
        weights: NDArray[np.float64] | None,
        seed: int,
        categorical_features: Any = "from_dtype",
        *,
        keep_constant: bool = False,
    ) -> tuple[Self, NDArray[Any]]:
        """Learn what the columns of a training are, and return also what they become there.

        Parameters
        ----------
        frame : Frame
        targets : array
            Classes from 0, shape (examples,), or labels or values, shape (examples, outputs).
        weights : array, shape (examples,), optional
            How often each example counts; nothing is learnt from one that does not.
        seed : int
            Draws the folds of the target statistics.
        categorical_features : None, "from_dtype" or array_like
            Which columns are categories besides texts: those of a category type, or those named, numbered or marked.
        keep_constant : bool
            Whether a column stays that is constant so far, as others follow.

        Raises
        ------
        ValueError
            If a column has no form as numbers, or none is left.

        Warns
        -----
        UserWarning
            For each column that is left out though it holds something.
        """
        categories = _categories(frame.names, categorical_features)
        counts = np.ones(frame.n_rows) if weights is None else weights
        context = Context(counts, outputs_of(targets), seed, keep_constant)
        learnt: list[Learnt] = []
        blocks, double = [], False
        by_level = isinstance(categorical_features, str)
        for column, is_category in zip(frame.columns, categories, strict=True):
            kind = kind_of(column, by_level=by_level)
            if kind != "empty" and (is_category or kind in ("text", "category")):
                of_texts, block = Texts.learn(column, context, are_categories=is_category or kind == "category")
                learnt.append(of_texts)
            else:
                learnt.append(_learn(kind, column, context))
                block = learnt[-1].transform(column)
                double |= kind in ("number", "duration") and needs_double(column, float(np.abs(block).max(initial=0)))
            blocks.append(block)
        columns = cls(tuple(learnt), double)
        if not columns.names:
            raise ValueError("no column is left to learn from: each is constant, missing, or texts that all differ")
        return columns, columns._joined(blocks, frame.n_rows)

    def transform(self, frame: Frame) -> NDArray[Any]:
        """Return what the columns become (examples, columns), as numbers in the training's precision.

        Raises
        ------
        ValueError
            If a column does not hold what it did, which names the column.
        """
        blocks = (learnt.transform(column) for learnt, column in zip(self.learnt, frame.columns, strict=True))
        return self._joined(blocks, frame.n_rows)

    def _joined(self, blocks: Iterable[NDArray[Any]], n_rows: int) -> NDArray[Any]:
        result = np.empty((n_rows, len(self.names)), dtype=np.float64 if self.double else np.float32)
        at = 0
        for block in blocks:
            result[:, at : at + block.shape[1]] = block
            at += block.shape[1]
        return result

    @property
    def names(self) -> list[str]:
        """Names of what they become."""
        return [name for learnt in self.learnt for name in learnt.names()]

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads: lists, texts, numbers."""
        return {"double": self.double, "columns": [{"kind": learnt.kind, **asdict(learnt)} for learnt in self.learnt]}

    @classmethod
    def from_json(cls, described: dict[str, Any]) -> Self:
        """Return the columns that `to_json` described.

        Raises
        ------
        Exception
            If something is missing or not what it should be.
        """
        return cls(tuple(_from_json(column) for column in described["columns"]), _of_type(described["double"], bool))


def _learn(kind: str, column: Column, context: Context) -> Learnt:
    if kind == "time":
        return Times.learn(column, context)
    return Nothing(column.name) if kind == "empty" else Numbers.learn(column, context, durations=kind == "duration")


def _categories(names: Sequence[str], asked: Any) -> list[bool]:
    """Return for each column whether it is asked to be a category, as scikit-learn's boosted trees are asked."""
    n = len(names)
    if asked is None or isinstance(asked, str):
        return [False] * n
    given = np.asarray(asked)
    if given.size == 0:
        return [False] * n
    if given.ndim != 1 or given.dtype.kind not in "biuUO":
        raise ValueError(f"categorical_features is {asked!r}, expected names, numbers or a mask of columns")
    if given.dtype.kind == "b":
        if len(given) != n:
            raise ValueError(f"categorical_features has {len(given)} truth values, expected {n}: one for each column")
        return [bool(value) for value in given]
    places = range(-n, n) if given.dtype.kind in "iu" else names
    unknown = [value for value in given.tolist() if value not in places]
    if unknown:
        raise ValueError(f"categorical_features names {unknown[0]!r}, which is no column: they are {list(names)}")
    if given.dtype.kind in "iu":
        return [i in given or i - n in given for i in range(n)]
    return [name in given.tolist() for name in names]


def _from_json(described: dict[str, Any]) -> Learnt:
    cls = _KINDS[described["kind"]]
    learnt: Learnt = cls(**{field.name: _of_type(described[field.name], field.type) for field in fields(cls)})
    if isinstance(learnt, Times) and (len(learnt.parts) != len(learnt.medians) or set(learnt.parts) - set(_PARTS)):
        raise ValueError(f"the parts of {learnt.name}: {learnt.parts}")
    if isinstance(learnt, Texts):
        widths = {len(row) for row in learnt.statistics} | {len(learnt.mean)}
        if len(learnt.known) != len(learnt.statistics) or len(widths) > 1:
            raise ValueError(f"the statistics of {learnt.name}")
    return learnt


_PARTS = ("years", "month", "weekday", "hour")


def _of_type(value: Any, kind: Any) -> Any:
    """Return a value of JSON as the type that a field has, or raise."""
    if kind in (bool, int, str) and type(value) is kind:
        return value
    if kind == str | None and (value is None or type(value) is str):
        return value
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if getattr(kind, "__origin__", None) is tuple and isinstance(value, list):
        return tuple(_of_type(item, kind.__args__[0]) for item in value)
    raise TypeError(f"{value!r} is no {kind}")
