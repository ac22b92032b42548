"""Predictions of a run on images or arrays, of files of such, a part at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchnorm.data import ArrayFile, ImageFiles, open_unlabelled
from batchnorm.errors import InputError
from batchnorm.tables.outputs import Columns, check_least, class_columns, label_columns, value_columns
from batchnorm.training import Run


@dataclass
class ExamplePredictions:
    """What a run on images or arrays predicts for files of such.

    Iterating gives record batches: "file", of images, then columns as `Predictions` has them.

    Parameters
    ----------
    run : Run
    files : ImageFiles or ArrayFile
    least : float, optional
        Largest probability below which a row is marked in the column "unsure".
    """

    run: Run
    files: ImageFiles | ArrayFile
    least: float | None = None
    rows: int = field(default=0, init=False)
    unsure: int = field(default=0, init=False)

    @property
    def path(self) -> Path | None:
        """The file, if it is one of arrays."""
        return self.files.path if isinstance(self.files, ArrayFile) else None

    @property
    def expected(self) -> int:
        """How many rows there should be, 0 where that is not known."""
        return 0 if isinstance(self.files, ArrayFile) else len(self.files.paths)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for names, inputs in self.files:
            try:
                columns = outputs_of_examples(self.run, inputs, self.least)
            except InputError as error:
                where = f"{self.path or names}, rows from {self.rows + 1:,} on"
                raise InputError(f"{where}: {error}") from error
            self.rows += len(inputs)
            self.unsure += int(columns["unsure"].sum()) if "unsure" in columns else 0
            yield pa.RecordBatch.from_pydict(({} if names is None else {"file": names}) | columns)

    def notices(self) -> Iterator[str]:
        """Yield what the user should know."""
        if isinstance(self.files, ArrayFile):
            return
        notices = self.files.notices
        yield from (f"passed over: {text}" for text in notices.unreadable)
        if n := len(notices.unreadable):
            yield f"{n:,} of {self.expected:,} files cannot be read as images, and are passed over"
        size = self.files.signature.image_size
        assert size is not None
        yield from notices.changes(size)

    def to_dict(self) -> dict[str, Any]:
        """Return what was done as JSON values."""
        done = {"rows": self.rows, "unsure": None if self.least is None else self.unsure}
        if isinstance(self.files, ArrayFile):
            return {"file": str(self.path), **done}
        notices = self.files.notices
        return {
            "file": None,
            **done,
            "unreadable": notices.unreadable,
            "resized": notices.resized,
            "transparent": notices.transparent,
            "made_grey": notices.coloured,
        }


def open_examples(run: Run, paths: Sequence[Path], least: float | None = None) -> list[ExamplePredictions]:
    """Return what a run is to predict: of arrays one for each file, of images one for all of them.

    Raises
    ------
    InputError
        As `open_unlabelled`; or if the run does not know its inputs.
    """
    check_least(least, has_probabilities=run.task != "regression")
    found = open_unlabelled(paths, run.known_signature())
    files = [found] if isinstance(found, ImageFiles) else found
    return [ExamplePredictions(run, each, least) for each in files]


def outputs_of_examples(run: Run, inputs: NDArray[Any], least: float | None = None) -> Columns:
    """Return what a run predicts for images or arrays, by the names of the columns that are written.

    Parameters
    ----------
    run : Run
    inputs : array, shape (examples, *feature_shape)
        In the unit that the data came in.
    least : float, optional
        Largest probability below which a row is marked in the column "unsure".

    Raises
    ------
    InputError
        As `Run.predict`.
    """
    names = run.known_signature().class_names
    if run.task == "regression":
        return value_columns(names, run.predict(inputs))
    probabilities = run.predict_proba(inputs)
    if run.task == "labels":
        return label_columns(names, probabilities, least)
    return class_columns(np.array(names), probabilities, least)
