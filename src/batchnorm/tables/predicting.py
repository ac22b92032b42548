"""Predictions of a run on a table, of files of any length, a part at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchnorm.errors import InputError, in_words
from batchnorm.inputs import open_frame
from batchnorm.tables.reading import open_table
from batchnorm.tables.runs import TableRun, check_columns

_SOME = 1000  # rows


def first_rows(run: TableRun, path: Path) -> pa.Table:
    """Return the first rows of a table, the columns that a run was trained on."""
    table = open_table(path)
    check_columns(table.names, run.columns, str(path))
    batches = (batch for batch in table.batches(run.columns) if batch.num_rows)
    return pa.Table.from_batches([next(batches).slice(0, _SOME)]).select(run.columns)


@dataclass
class Predictions:
    """What a run predicts for the rows of a file.

    Iterating gives record batches: of classes "prediction" and "probability_<class>", of several labels
    "prediction_<label>" and "probability_<label>", of values "prediction", or "prediction_<target>" of several.

    Parameters
    ----------
    run : TableRun
    path : Path
        ``-`` is standard input.
    keep : sequence of str
        Columns of the file to hand on, such as one that says which row it is.
    least : float, optional
        Largest probability below which a row is marked in the column "unsure".
    """

    run: TableRun
    path: Path
    keep: tuple[str, ...] = ()
    least: float | None = None
    rows: int = field(default=0, init=False)
    unsure: int = field(default=0, init=False)
    strange: dict[str, int] = field(default_factory=dict, init=False)
    extra: list[str] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        what = "standard input" if str(self.path) == "-" else str(self.path)
        self.table = open_table(self.path)
        check_columns(self.table.names, self.run.columns, what)
        if strangers := [name for name in self.keep if name not in self.table.names]:
            raise InputError(f"--keep {strangers[0]!r} is no column of {what}: it has {self.table.names}")
        if self.least is not None and not hasattr(self.run.estimator, "classes_"):
            raise InputError("--unsure-below needs probabilities, and this run predicts values")
        known = {*self.run.columns, *self.run.settings["target"], *self.keep}
        self.extra = [name for name in self.table.names if name not in known]

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self.table.batches([*dict.fromkeys([*self.run.columns, *self.keep])]):
            if batch.num_rows:
                yield self._predicted(batch)

    def _predicted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        inputs = pa.Table.from_batches([batch]).select(self.run.columns)
        try:
            outputs = self._outputs(inputs)
        except ValueError as error:
            raise InputError(f"{self.path}, rows from {self.rows + 1:,} on: {in_words(error)}") from error
        self._count_strange(inputs)
        self.rows += batch.num_rows
        return pa.RecordBatch.from_pydict({**{name: batch[name] for name in self.keep}, **outputs})

    def _count_strange(self, inputs: pa.Table) -> None:
        columns, frame = self.run.estimator._columns, open_frame(inputs)
        if columns is not None and frame is not None:
            for name, n in columns.count_strange(frame).items():
                self.strange[name] = self.strange.get(name, 0) + n

    def _outputs(self, inputs: pa.Table) -> dict[str, NDArray[Any]]:
        estimator: Any = self.run.estimator
        targets = self.run.settings["target"]
        if not hasattr(estimator, "classes_"):
            return _columns("prediction", targets, estimator.predict(inputs))
        probabilities = estimator.predict_proba(inputs)
        if len(targets) > 1:
            labels = np.asarray(probabilities > 0.5, dtype=np.int64)
            result = _columns("prediction", targets, labels) | _columns("probability", targets, probabilities)
            sure = np.maximum(probabilities, 1 - probabilities).min(axis=1)
        else:
            result = {"prediction": estimator.classes_[probabilities.argmax(axis=1)]}
            result |= {f"probability_{label}": probabilities[:, i] for i, label in enumerate(estimator.classes_)}
            sure = probabilities.max(axis=1)
        if self.least is not None:
            result["unsure"] = sure < self.least
            self.unsure += int(result["unsure"].sum())
        return result


def _columns(what: str, names: list[str], values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    if values.ndim == 1:
        return {what: values}
    return {f"{what}_{name}": np.ascontiguousarray(values[:, i]) for i, name in enumerate(names)}
