"""A run on a table: an estimator that was trained on files, in a folder that says what on, and how good it is.

::

    table.json             what was trained on: files with their sizes and sums, target, split, estimator's parameters
    estimator.safetensors  the estimator, with what its columns become
    results.json           figures of the rows that were kept for the test, notices, and the profile of the table
    environment.json       versions, processor, threads, and where the files were

The folder appears when the training is over, all at once. Each file has a checksum inside; nothing is pickled.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchnorm.errors import BatchnormError, InputError, importing
from batchnorm.files import check_format, make_folder, to_json
from batchnorm.results import Result
from batchnorm.scores import score_lines
from batchnorm.training.runs import TABLE_FILE, Seal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor

_FORMAT = 1  # raised with the content of any file
_FIRST, _ESTIMATOR = TABLE_FILE, "estimator.safetensors"
_SEALED = 2  # the format of sealing
_NONE = type(None)
_TASKS = ("classification", "regression")
_SETTINGS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("files", "test_files", "target", "columns", "dropped"), (list,)),
    "task": (str,),
    "sample_weight": (str, _NONE),
    "split": (dict, _NONE),
}


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
        The environment, and where the files were.
    path : Path, optional
        The folder.
    """

    estimator: "BatchNormClassifier | BatchNormRegressor"
    settings: dict[str, Any]
    results: dict[str, Any]
    session: dict[str, Any]
    path: Path | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns that predictions are made from."""
        return list(self.settings["columns"])

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
            If a column is missing, or does not hold what it did.
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

        opened = nw.from_native(frame, eager_only=True, pass_through=True)
        if not isinstance(opened, nw.DataFrame):
            raise InputError(f"predictions are made from a frame with named columns, got a {type(frame).__name__}")
        check_columns(opened.columns, self.columns, "the frame")
        return opened.select(self.columns).to_native()

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {"run": None if self.path is None else str(self.path), **self.settings, **self.results}

    def __str__(self) -> str:
        target, task = ", ".join(self.settings["target"]), self.settings["task"]
        return "\n".join([f"{task} of {target}", *score_lines(self.results["test"], self.settings["target"])])

    def save(self, path: Path) -> None:
        """Write a new folder, at once and wholly."""
        settings = {"format": _FORMAT, **self.settings}
        seal = _seal_of(settings)
        files = {
            _FIRST: Seal(_SEALED).to_json(_FIRST, settings),
            _ESTIMATOR: self.estimator._to_file(),
            "results.json": seal.to_json("results.json", self.results),
            "environment.json": seal.to_json("environment.json", {"session": self.session}),
        }
        make_folder(path, files)

    @classmethod
    def load(cls, path: str | Path) -> "TableRun":
        """Load a run from its folder.

        Raises
        ------
        InputError
            If it is none, is damaged, or was written by a later version.
        """
        path = Path(path)
        if not holds_table(path):
            raise InputError(f"{path} is not the folder of a run on a table: it has no {_FIRST}")
        settings = Seal(_SEALED).read_json(path / _FIRST)
        check_format(path / _FIRST, settings.get("format"), _FORMAT)
        _check(settings, _SETTINGS, path / _FIRST)
        seal = _seal_of(settings)
        with importing("tables", "runs on tables need scikit-learn"):
            from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor
        kinds: dict[str, Any] = {"classification": BatchNormClassifier, "regression": BatchNormRegressor}
        estimator = kinds[settings["task"]].load(path / _ESTIMATOR)
        environment, results = (seal.read_json(path / name) for name in ("environment.json", "results.json"))
        _check(environment, {"session": (dict,)}, path / "environment.json")
        _check(environment["session"], dict.fromkeys(("files", "test_files"), (list,)), path / "environment.json")
        _check(results, {"test": (dict,), "notices": (list,), "profile": (dict,)}, path / "results.json")
        del settings["format"]
        return cls(estimator, settings, results, environment["session"], path)


def holds_table(path: Path) -> bool:
    """Tell whether a folder is that of a run on a table."""
    return os.path.lexists(path / _FIRST)


def _check(values: Mapping[str, Any], kinds: Mapping[str, tuple[type, ...]], path: Path) -> None:
    """Refuse what lacks a value or has one of another kind, whoever gave it a checksum."""
    for name, of in kinds.items():
        if name not in values or not isinstance(values[name], of):
            raise InputError(f"{path} is damaged: {name!r} is {values.get(name)!r}")
    names = [name for key in ("target", "columns", "dropped") for name in values.get(key, ())]
    if values.get("task", "regression") not in _TASKS or any(not isinstance(name, str) for name in names):
        raise InputError(f"{path} is damaged: expected a task of {' or '.join(_TASKS)}, and columns that are texts")


def list_table_runs(path: Path) -> list[dict[str, Any]]:
    """Read and verify the runs on tables of a folder, or the one that it is.

    Returns
    -------
    list of dict
        One per run, in order of their names: "run", "state" ("finished" or "damaged"), "why" it is the latter,
        "dataset" (the first file's name) and "test" (the figures).
    """
    found = [path] if holds_table(path) else sorted(folder for folder in path.iterdir() if holds_table(folder))
    return [_row(folder) for folder in found]


def _row(folder: Path) -> dict[str, Any]:
    row = {"run": str(folder), "state": "damaged", "why": None, "checked": True, "dataset": None, "test": None}
    row |= {"epoch": None, "config": None}
    try:
        run = TableRun.load(folder)
    except BatchnormError as error:
        return row | {"why": str(error)}
    return row | {"state": "finished", "dataset": run.settings["files"][0]["name"], "test": run.results["test"]}


def check_columns(there: Iterable[str], wanted: Sequence[str], what: str) -> None:
    """Refuse a table that lacks a column which was trained on."""
    names = list(there)
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"{what} lacks {_columns(missing)}, of {len(wanted)} that were trained on; it has {names}")


def _columns(names: Sequence[str]) -> str:
    return f"the column{'s' if len(names) > 1 else ''} {', '.join(map(repr, names))}"


def _seal_of(settings: Mapping[str, Any]) -> Seal:
    return Seal(_SEALED, Seal(_SEALED).sum_of(_FIRST, json.loads(to_json(settings))))
