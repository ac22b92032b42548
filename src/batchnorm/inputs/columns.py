"""`Columns`: what a frame's columns become, as learnt from those of a training.

====================  ==================================================================================================
a column of           becomes
====================  ==================================================================================================
numbers, durations    itself (in seconds), the median where one is missing, and, if any was, "is missing"
truth values          the same, as 0 and 1
dates and times       years since the middle of the training, month, day of the week, hour; "is missing" likewise
texts, categories     a 0/1 column for each of up to 30 frequent values, one for all rarer ones and those not
                      seen in training, one for "is missing"; of more values also the mean of the targets of each
====================  ==================================================================================================

What was the same in every example of the training is left out. All of it is look-ups and arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs.frames import Column, Frame, kind_of, needs_double
from batchnorm.inputs.kinds import PARTS, Context, Nothing, Numbers, Times
from batchnorm.inputs.statistics import outputs_of
from batchnorm.inputs.texts import Texts

Learnt = Nothing | Numbers | Times | Texts
OutOfFold = dict[int, NDArray[np.float64]]  # by a column's place: statistics of its values in the other folds
_KINDS: dict[str, Any] = {kind.kind: kind for kind in (Nothing, Numbers, Times, Texts)}


@dataclass(frozen=True)
class Columns:
    """What a frame becomes, as `learn` has it from that of a training.

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
    def learn(
        cls,
        frame: Frame,
        targets: NDArray[Any],
        weights: NDArray[np.float64] | None,
        seed: int,
        categorical_features: Any = "from_dtype",
        *,
        keep_constant: bool = False,
    ) -> tuple[Self, OutOfFold]:
        """Learn what the columns of a training are.

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

        Returns
        -------
        Columns
        OutOfFold
            The statistics that the training's own rows get: `transform` takes them.

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
        out_of_fold: OutOfFold = {}
        double, by_level = False, isinstance(categorical_features, str)
        for i, (column, is_category) in enumerate(zip(frame.columns, categories, strict=True)):
            kind = kind_of(column, by_level=by_level)
            if kind != "empty" and (is_category or kind in ("text", "category")):
                texts, statistics = Texts.learn(column, context, are_categories=is_category or kind == "category")
                learnt.append(texts)
                if statistics is not None:
                    out_of_fold[i] = statistics
            else:
                learnt.append(_learn(kind, column, context))
                double |= isinstance(learnt[-1], Numbers) and needs_double(column)
        columns = cls(tuple(learnt), double)
        if not columns.names:
            raise ValueError("no column is left to learn from: each is constant, missing, or texts that all differ")
        return columns, out_of_fold

    def transform(self, frame: Frame, out_of_fold: OutOfFold | None = None) -> NDArray[Any]:
        """Return what the columns become (examples, columns), as numbers in the training's precision.

        Parameters
        ----------
        frame : Frame
        out_of_fold : OutOfFold, optional
            Of a training's own rows, in the place of the statistics that others get.

        Raises
        ------
        ValueError
            If a column does not hold what it did, which names the column.
        """
        own = out_of_fold or {}
        result = np.empty((frame.n_rows, len(self.names)), dtype=self.dtype)
        at = 0
        for i, (learnt, column) in enumerate(zip(self.learnt, frame.columns, strict=True)):
            block = learnt.transform(column)
            result[:, at : at + block.shape[1]] = block
            at += block.shape[1]
            if i in own:  # they are a column's last ones
                result[:, at - own[i].shape[1] : at] = own[i]
        return result

    def count_strange(self, frame: Frame) -> dict[str, int]:
        """Return for columns of texts and categories how many cells hold what was rare, or never there, in training."""
        columns = zip(self.learnt, frame.columns, strict=True)
        counts = {learnt.name: learnt.count_strange(column) for learnt, column in columns if isinstance(learnt, Texts)}
        return {name: n for name, n in counts.items() if n}

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of what they become."""
        return np.dtype(np.float64 if self.double else np.float32)

    @cached_property
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
    if isinstance(learnt, Times) and (len(learnt.parts) != len(learnt.medians) or set(learnt.parts) - set(PARTS)):
        raise ValueError(f"the parts of {learnt.name}: {learnt.parts}")
    if isinstance(learnt, Texts):
        widths = {len(row) for row in learnt.statistics} | {len(learnt.mean)}
        if len(learnt.known) != len(learnt.statistics) or len(widths) > 1:
            raise ValueError(f"the statistics of {learnt.name}")
    return learnt


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
