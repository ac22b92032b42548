"""Predictions of a run on a table, of files of any length, a part at a time."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchnorm.errors import InputError, in_words
from batchnorm.inputs import open_frame
from batchnorm.tables.files import TableFile, open_table
from batchnorm.tables.outputs import Columns, check_least, class_columns, label_columns, value_columns
from batchnorm.tables.runs import TableRun, check_columns

_SOME = 1000  # rows


def first_rows(run: TableRun, path: Path) -> pa.Table:
    """Return the first rows of a table, the columns that a run was trained on.

    Raises
    ------
    InputError
        If it has none, lacks a column, or one does not hold what it did.
    """
    table = _opened(run, path)
    check_columns(table.names, run.columns, str(path))
    batch = next((batch for batch in table.batches(run.columns) if batch.num_rows), None)
    if batch is None:
        raise InputError(f"{path} has no rows")
    rows = pa.Table.from_batches([batch.slice(0, _SOME)]).select(run.columns)
    try:
        outputs_of(run, rows)
    except ValueError as error:
        raise InputError(f"{path}: {in_words(error)}") from error
    return rows


def _opened(run: TableRun, path: Path) -> TableFile:
    """Open a table; what was read as texts in training is here, too: 007 is not 7, even if all cells are such."""
    return open_table(path, texts=run.text_columns, day_first=run.settings["day_first"])


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
        self.table = _opened(self.run, self.path)
        check_columns(self.table.names, self.run.columns, what)
        if strangers := [name for name in self.keep if name not in self.table.names]:
            raise InputError(f"--keep {strangers[0]!r} is no column of {what}: it has {self.table.names}")
        check_least(self.least, has_probabilities=hasattr(self.run.estimator, "classes_"))
        known = {*self.run.columns, *self.run.settings["target"], *self.keep}
        self.extra = [name for name in self.table.names if name not in known]

    @property
    def expected(self) -> int:
        """How many rows there should be: 0, as that is not known."""
        return 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self.table.batches([*dict.fromkeys([*self.run.columns, *self.keep])]):
            if batch.num_rows:
                yield self._predicted(batch)

    def _predicted(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        inputs = pa.Table.from_batches([batch]).select(self.run.columns)
        try:
            outputs = outputs_of(self.run, inputs, self.least)
        except ValueError as error:
            raise InputError(f"{self.path}, rows from {self.rows + 1:,} on: {in_words(error)}") from error
        if taken := [name for name in self.keep if name in outputs]:
            raise InputError(f"--keep {taken[0]!r} has the name of a column of predictions: give it another one")
        for name, n in strange_values(self.run, inputs).items():
            self.strange[name] = self.strange.get(name, 0) + n
        self.rows += batch.num_rows
        self.unsure += int(outputs["unsure"].sum()) if "unsure" in outputs else 0
        return pa.RecordBatch.from_pydict({**{name: batch[name] for name in self.keep}, **outputs})

    def notices(self) -> Iterator[str]:
        """Yield what the user should know."""
        if self.extra:
            yield f"{self.path}: columns that were not trained on are passed over: {', '.join(self.extra)}"
        for name, n in self.strange.items():
            yield f"{self.path}: values of {name!r} that were rare, or not there, in training: {n:,}"

    def to_dict(self) -> dict[str, Any]:
        """Return what was done as JSON values."""
        return {
            "file": str(self.path),
            "rows": self.rows,
            "columns_passed_over": self.extra,
            "strange_values": self.strange,
            "unsure": None if self.least is None else self.unsure,
        }


def outputs_of(run: TableRun, inputs: pa.Table, least: float | None = None) -> Columns:
    """Return what a run predicts for rows, by the names that `Predictions` has.

    Parameters
    ----------
    run : TableRun
    inputs : pyarrow.Table
        The columns that were trained on, in their order.
    least : float, optional
        As of `Predictions`.

    Raises
    ------
    ValueError
        If a column does not hold what it did.
    """
    estimator: Any = run.estimator
    targets = run.settings["target"]
    if not hasattr(estimator, "classes_"):
        return value_columns(targets, estimator.predict(inputs))
    probabilities = estimator.predict_proba(inputs)
    if len(targets) > 1:
        return label_columns(targets, probabilities, least)
    return class_columns(estimator.classes_, probabilities, least)


def strange_values(run: TableRun, inputs: pa.Table) -> dict[str, int]:
    """Return for columns of texts and categories how many cells hold what was rare, or never there, in training."""
    columns = run.estimator._columns
    if columns is None:
        return {}
    frame = open_frame(inputs)
    assert frame is not None
    return columns.count_strange(frame)
