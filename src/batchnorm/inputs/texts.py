"""What columns of texts and categories become: 0/1 columns, and of many values the mean of the targets of each."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from batchnorm.inputs.frames import Column, read_texts
from batchnorm.inputs.kinds import Context, Nothing
from batchnorm.inputs.statistics import out_of_fold, value_statistics

MOST_VALUES = 30  # of a column, that have a column each
RARE = 0.005  # share of the examples below which a value has none; a value that stands there once has none either
UNIQUE = 0.9  # share of values that stand there once, beyond which texts are names or prose


@dataclass(frozen=True)
class Texts:
    """A column of texts or categories."""

    kind: ClassVar[str] = "texts"
    name: str
    values: tuple[str, ...]
    others: bool
    missing: bool
    known: tuple[str, ...] = ()
    statistics: tuple[tuple[float, ...], ...] = ()
    mean: tuple[float, ...] = ()

    @classmethod
    def learn(
        cls, column: Column, context: Context, *, are_categories: bool
    ) -> tuple[Self | Nothing, NDArray[np.float64] | None]:
        """Learn from a training's column; return also the statistics that its own rows get, of other folds, if any.

        Warns
        -----
        UserWarning
            If nearly all values stand there once: the column is left out.
        """
        texts = read_texts(column)
        numbers = {text: i for i, text in enumerate(dict.fromkeys(text for text in texts if text is not None))}
        codes = _codes(texts, numbers)
        weights = context.weights / context.weights[context.weights > 0].min()  # without rounding, of copies
        counted = (codes >= 0) & (weights > 0)
        counts = np.bincount(codes[counted], weights[counted], minlength=len(numbers))
        rows = np.bincount(codes[counted], minlength=len(numbers))  # one that stands alone is alone, however heavy
        if not are_categories and np.sum(rows > 0) > 1 and np.sum(rows == 1) > UNIQUE * rows.sum():
            warnings.warn(
                f"column {column.name!r} is left out, as nearly all of its texts are different: name it in "
                "categorical_features, or make columns of what it says",
                stacklevel=7,
            )
            return Nothing(column.name), None
        present = [text for text, i in numbers.items() if rows[i]]
        present.sort(key=lambda text: (-counts[numbers[text]], text))
        several = [text for text in present if rows[numbers[text]] > 1]
        least = RARE * weights.sum()
        values = tuple([text for text in several if counts[numbers[text]] >= least][:MOST_VALUES])
        others, missing = len(present) > len(values), context.has(codes < 0)
        if len(values) + others + missing < 2 and not context.keep_constant:
            values, others, missing = (), False, False  # a column of ones
        learnt = cls(column.name, values, others, missing)
        if len(present) <= MOST_VALUES or context.outputs is None:
            return learnt, None
        places = {text: i for i, text in enumerate(several)}
        return learnt._with_statistics(places, _codes(texts, places), context)

    def _with_statistics(
        self, known: dict[str, int], codes: NDArray[np.int64], context: Context
    ) -> tuple[Self, NDArray[np.float64]]:
        """Return the same with the statistics of the targets of known values, and those of a training's own rows."""
        assert context.outputs is not None
        weights = context.weights / context.weights[context.weights > 0].mean()
        statistics, mean = value_statistics(codes, context.outputs, weights, len(known))
        foreign = out_of_fold(codes, context.outputs, weights, len(known), context.seed)
        learnt = replace(self, known=tuple(known), statistics=_tuples(statistics), mean=tuple(mean.tolist()))
        return learnt, foreign

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
        texts, width = read_texts(column), len(self.values) + self.others + self.missing
        places, other = self._places
        taken = np.array([places.get(text, other) for text in texts], dtype=np.int64)
        result = np.asarray(taken[:, None] == np.arange(width), dtype=np.float64)
        if not self.mean:
            return result
        rows, table = self._rows
        return np.hstack([result, table[[rows.get(text, -1) for text in texts]]])

    def count_strange(self, column: Column) -> int:
        """Return how many cells hold a text that has no 0/1 column and no statistics of its own."""
        own = {*self.values, *self.known, None}
        return sum(text not in own for text in read_texts(column))

    @cached_property
    def _places(self) -> tuple[dict[str | None, int], int]:
        """The column of each value, and of all others: past the last one, which is in none, if none were so."""
        places: dict[str | None, int] = {text: i for i, text in enumerate(self.values)}
        if self.missing:
            places[None] = len(self.values) + self.others
        return places, len(self.values) if self.others else len(places)

    @cached_property
    def _rows(self) -> tuple[dict[str | None, int], NDArray[np.float64]]:
        """The statistics (values + 1, outputs), and where each value's are: those of any other are the last."""
        return {text: i for i, text in enumerate(self.known)}, np.array([*self.statistics, self.mean])


def _codes(texts: Sequence[str | None], numbers: Mapping[str, int]) -> NDArray[np.int64]:
    """Return each text's number, −1 for one that has none."""
    return np.array([-1 if text is None else numbers.get(text, -1) for text in texts], dtype=np.int64)


def _tuples(rows: NDArray[np.float64]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in rows.tolist())
