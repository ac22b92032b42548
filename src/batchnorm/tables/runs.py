"""A run on a table: an estimator that was trained on files, what on, and how good it is."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm.errors import BatchnormError, InputError, importing
from batchnorm.results import Result
from batchnorm.scores import score_lines
from batchnorm.tables.folder import CHECKPOINT, ESTIMATOR, TableFolder, holds_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor

_TEXTUAL = ("text", "category")  # kinds of columns


@dataclass(frozen=True, eq=False)
class TableRun(Result):
    """A finished run on a table.

    Parameters
    ----------
    estimator : BatchNormClassifier or BatchNormRegressor
    settings : dict
        What was trained on: "files", "target", "task", "split" and so on.
    results : dict
        "test" has the figures of the rows that were kept for it, "notices" what the user should know, "profile" the
        table before the training.
    session : dict
        The environment of the last session, and where the files were.
    path : Path, optional
        The folder.
    layers : list of dict
        Looks into the layers on the way, as those of `batchnorm.Run`: after every epoch of the first eight, every
        second of the next eight, every fourth of the next sixteen, …. Empty without a folder.
    """

    estimator: "BatchNormClassifier | BatchNormRegressor"
    settings: dict[str, Any]
    results: dict[str, Any]
    session: dict[str, Any]
    path: Path | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """Names of the columns that predictions are made from."""
        return list(self.settings["columns"])

    @property
    def text_columns(self) -> list[str]:
        """Names of the columns, the target among them, that held texts or categories."""
        return [column["name"] for column in self.results["profile"]["columns"] if column["kind"] in _TEXTUAL]

    def predict(self, frame: Any) -> "NDArray[Any]":
        """Predict the class, the labels or the values of each row.

        Parameters
        ----------
        frame : pandas, polars or pyarrow frame
            Columns in any order; those that were not trained on are passed over.

        Returns
        -------
        array, shape (rows,) or (rows, targets)

        Raises
        ------
        InputError
            If a column is missing.
        ValueError
            If one does not hold what it did.
        """
        return self.estimator.predict(self.inputs(frame))

    def predict_proba(self, frame: Any) -> "NDArray[np.floating[Any]]":
        """Predict the probability of each class, in the order of ``estimator.classes_``, or of each label."""
        if not hasattr(self.estimator, "predict_proba"):
            raise InputError("this run predicts values, which have no probabilities: use predict")
        return self.estimator.predict_proba(self.inputs(frame))

    def inputs(self, frame: Any) -> Any:
        """Return the columns of a frame that were trained on, in their order."""
        import narwhals as nw

        try:
            opened = nw.from_native(frame, eager_only=True, pass_through=True)
        except nw.exceptions.DuplicateError as error:
            raise InputError("a column name is there more than once: give each column a name of its own") from error
        if not isinstance(opened, nw.DataFrame):
            raise InputError(f"predictions are made from a frame with named columns, got a {type(frame).__name__}")
        check_columns(opened.columns, self.columns, "the frame")
        return opened.select(self.columns).to_native()

    def to_dict(self) -> dict[str, Any]:
        """Return all but `layers` as what JSON knows."""
        return {"run": None if self.path is None else str(self.path), **self.settings, **self.results}

    def __str__(self) -> str:
        target, task = ", ".join(self.settings["target"]), self.settings["task"]
        return "\n".join([f"{task} of {target}", *score_lines(self.results["test"], self.settings["target"])])

    @classmethod
    def load(cls, path: str | Path) -> "TableRun":
        """Load a run from its folder.

        Raises
        ------
        InputError
            If it is none, is not finished, is damaged, or was written by a later version.
        """
        folder = TableFolder.open(Path(path))
        folder.check_finished()
        with importing("tables", "runs on tables need scikit-learn"):
            from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor
        kinds: dict[str, Any] = {"classification": BatchNormClassifier, "regression": BatchNormRegressor}
        estimator = kinds[folder.settings["task"]].load(folder.path / ESTIMATOR)
        session = folder.load_sessions()[-1]
        looks = folder.load_looks() or []
        return cls(estimator, folder.settings, folder.load_results(), session, folder.path, looks)


def list_table_runs(path: Path) -> list[dict[str, Any]]:
    """Read and verify the runs on tables of a folder, or the one that it is.

    Returns
    -------
    list of dict
        One per run, in order of their names: "run", "state" ("finished", "running", "stopped" or "damaged"), "why" it
        is the last, how the last session of a stopped one "ended" if it could say so, "dataset" (the first file's
        name), "epoch" (how many are complete) and "test" (the figures).
    """
    found = [path] if holds_table(path) else sorted(folder for folder in path.iterdir() if holds_table(folder))
    return [_row(folder) for folder in found]


def _row(path: Path) -> dict[str, Any]:
    row = {"run": str(path), "state": "damaged", "why": None, "checked": True, "dataset": None, "test": None}
    row |= {"epoch": None, "config": None, "ended": None}
    before = _stamp(path)
    try:
        folder = TableFolder.open(path)
        row["dataset"] = folder.settings["files"][0]["name"]
        if folder.is_finished:
            run = TableRun.load(path)
            return row | {"state": "finished", "epoch": run.estimator.n_iter_, "test": run.results["test"]}
        last = folder.load_sessions()[-1]
        row["epoch"] = folder.load_checkpoint()[1]["epoch"]
        folder.load_looks()
        return row | ({"state": "running"} if folder.is_in_use else {"state": "stopped", "ended": last.get("ended")})
    except BatchnormError as error:
        if _stamp(path) != before:  # two checkpoints were read as one, or the last one was gone
            return _row(path)
        return row | {"why": str(error)}


def _stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes with each checkpoint of a run."""
    try:
        found = (path / CHECKPOINT).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def check_columns(there: Iterable[str], wanted: Sequence[str], what: str) -> None:
    """Refuse a table that lacks a column which was trained on."""
    names = list(there)
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"{what} lacks {_columns(missing)}, of {len(wanted)} that were trained on; it has {names}")


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"
