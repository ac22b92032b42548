"""From files to a run: read, split, train, test."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from batchnorm.errors import BatchnormError, InputError, in_words
from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor
from batchnorm.files import check_new_folder
from batchnorm.tables.profile import Profile, profile_of
from batchnorm.tables.reading import open_table, read_tables, table_paths
from batchnorm.tables.runs import TableRun, check_columns
from batchnorm.tables.scores import scores_of
from batchnorm.tables.splitting import Rows, split_rows
from batchnorm.tables.targets import Task, recognized_task, target_array
from batchnorm.training.runs import describe_session

if TYPE_CHECKING:
    Notify = Callable[[str], None]

_FEWEST = 4  # rows


@dataclass(frozen=True)
class Split:
    """Which rows are kept for the test.

    Parameters
    ----------
    share : float, default 0.2
        Of the rows.
    seed : int, default 0
        Draws them; classes have their share on both sides.
    group : str, optional
        A column of which no value is on both sides.
    time : str, optional
        A column: the latest rows are tested on.
    """

    share: float = 0.2
    seed: int = 0
    group: str | None = None
    time: str | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows: the columns that are learnt from, targets, weights."""

    inputs: pa.Table
    target: NDArray[Any]
    weights: NDArray[np.float64] | None

    def __len__(self) -> int:
        return int(self.inputs.num_rows)


def train_table(
    paths: Sequence[Path],
    target: Sequence[str],
    *,
    task: Task | None = None,
    test: Sequence[Path] = (),
    split: Split | None = None,
    sample_weight: str | None = None,
    drop: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    out: Path | None = None,
    tell: "Notify" = lambda _: None,
    show_profile: Callable[[Profile], None] = lambda _: None,
    verbose: bool = False,
) -> TableRun:
    """Train an estimator on files, and test it on rows that it has not seen.

    Parameters
    ----------
    paths : sequence of Path
        Tables of the same columns, or a folder of such.
    target : sequence of str
        The column to predict; several ones of 0 and 1 are labels, others values.
    task : {"classification", "regression"}, optional
        By default as the target's values suggest.
    test : sequence of Path, optional
        Tables to test on, in place of a part of the others.
    split : Split, optional
        Which rows are tested on.
    sample_weight : str, optional
        A column that says how often each row counts, also in the test.
    drop : sequence of str
        Columns to leave out.
    parameters : mapping, optional
        Of the estimator, whose defaults are the others.
    out : Path, optional
        Folder to make.
    tell : callable
        Gets what the user should know, a line at a time.
    show_profile : callable
        Gets the table's profile before the training.
    verbose : bool, default False
        Whether to show a progress bar.

    Raises
    ------
    InputError
        If a file or a column is not what it should be.
    """
    if out is not None:
        check_new_folder(out)
    notices: list[str] = []

    def notify(text: str) -> None:
        notices.append(text)
        tell(text)

    session = describe_session(torch.device("cpu"), "")
    paths, test = table_paths(paths), table_paths(test) if test else []
    session["files"] = [str(path.absolute()) for path in paths]
    session["test_files"] = [str(path.absolute()) for path in test]
    for path in (*paths, *test):
        if note := open_table(path).note:
            notify(f"{path.name}: {note}")
    split = None if test else split or Split()
    roles = _roles(open_table(paths[0]).names, target, sample_weight, split, drop)
    table = read_tables(paths, drop)
    table = _with_targets(table, target, sample_weight, notify)
    if task is None:
        task, why = recognized_task([table[name] for name in target])
        notify(f"{', '.join(target)}: {task}, as it has {why}; --task says otherwise")
    inputs = [name for name in table.column_names if name not in roles]
    if not inputs:
        raise InputError(f"no column is left to learn from: the table has {table.column_names}")
    settings = {
        "files": _fingerprints(paths),
        "test_files": _fingerprints(test),
        "target": list(target),
        "task": task,
        "columns": inputs,
        "dropped": list(drop),
        "sample_weight": sample_weight,
        "split": split and asdict(split),
    }
    whole = _part(table, settings)
    labels = [str(value) for value in whole.target] if task == "classification" and len(target) == 1 else None
    profile = profile_of(table, roles, labels, drop)
    show_profile(profile)
    _check_target(whole.target, target)
    training, testing = _training_and_test(table, whole, test, settings, notify)
    del table, whole  # a split has copied its rows
    if len(training) < _FEWEST:
        raise InputError(f"{len(training)} rows to train on, expected at least {_FEWEST}")
    _check_target(training.target, target)
    with _their_warnings(notify):
        estimator = _fitted(task, parameters or {}, training, verbose)
    scores = {"rows": len(testing), **scores_of(estimator, testing.inputs, testing.target, testing.weights)}
    if n := scores.get("rows_of_unseen_classes"):
        notify(f"{n} rows of the test have a class that no row of the training has: they count as wrong")
    results = {"test": scores, "training_rows": len(training), "notices": notices, "profile": profile.to_dict()}
    run = TableRun(estimator, settings, results, session, out)
    if out is not None:
        run.save(out)
    return run


def evaluate_table(run: TableRun, part: str = "test", data_dir: Path | None = None) -> dict[str, Any]:
    """Return the figures of a run on the rows that it was trained on, or on those that it was not.

    Parameters
    ----------
    run : TableRun
    part : {"test", "train"}, default "test"
    data_dir : Path, optional
        Where its files are now; by default where they were.

    Raises
    ------
    InputError
        If a file is not there any more, or is another one now.
    """
    settings = run.settings
    paths, test = (_found(settings[kind], run.session[kind], data_dir) for kind in ("files", "test_files"))
    table = read_tables(paths, settings["dropped"])
    table = _with_targets(table, settings["target"], settings["sample_weight"], lambda _: None)
    parts = _training_and_test(table, _part(table, settings), test, settings, lambda _: None)
    rows = parts[0] if part == "train" else parts[1]
    return {"rows": len(rows), **scores_of(run.estimator, rows.inputs, rows.target, rows.weights)}


def _fingerprints(paths: Sequence[Path]) -> list[dict[str, Any]]:
    return [open_table(path).fingerprint() for path in paths]


def _found(described: Sequence[dict[str, Any]], places: Sequence[str], data_dir: Path | None) -> list[Path]:
    """Return where files are now that a run was trained on, each the same to the byte."""
    paths = [Path(place) for place in places]
    if data_dir is not None:
        paths = [data_dir / path.name for path in paths]
    for path in paths:
        if not path.exists():
            raise InputError(f"the run was trained on {path}, which is not there now: say by --data-dir where it is")
    for file, was in zip(_fingerprints(paths), described, strict=True):
        if file != was:
            raise InputError(f"{file['name']} has changed since the run was trained on it: its sum is another one")
    return paths


def _training_and_test(
    table: pa.Table, whole: Part, test: Sequence[Path], settings: Mapping[str, Any], notify: "Notify"
) -> tuple[Part, Part]:
    if not test:
        training, testing = _rows(table, whole, settings)
        return _taken(whole, training), _taken(whole, testing)
    there = read_tables(test, settings["dropped"])
    there = _with_targets(there, settings["target"], settings["sample_weight"], notify)
    check_columns(there.column_names, settings["columns"], "the table to test on")
    return whole, _part(there, settings)


def _roles(
    there: Sequence[str], target: Sequence[str], sample_weight: str | None, split: Split | None, drop: Sequence[str]
) -> dict[str, str]:
    """Return which columns are no inputs, and why."""
    group, time = (None, None) if split is None else (split.group, split.time)
    named = {
        "--target": target, "--sample-weight": [sample_weight], "--drop": drop, "--group": [group], "--time": [time],
    }  # fmt: skip
    for option, names in named.items():
        for name in names:
            if name is not None and name not in there:
                raise InputError(f"{option} {name!r} is no column of the table: it has {list(there)}")
    if len(set(target)) < len(target):
        raise InputError(f"--target names a column twice: {list(target)}")
    roles: dict[str, str] = dict.fromkeys(drop, "dropped")
    roles |= {} if group is None else {group: "group"}
    roles |= {} if sample_weight is None else {sample_weight: "weight"}
    if taken := [name for name in target if name in roles or name == time]:
        raise InputError(f"{taken[0]!r} cannot be the target and something else as well")
    if taken := [name for name in drop if name in (group, time, sample_weight)]:
        raise InputError(f"{taken[0]!r} cannot be dropped and be something else as well")
    return roles | dict.fromkeys(target, "target")


def _with_targets(table: pa.Table, target: Sequence[str], weight: str | None, notify: "Notify") -> pa.Table:
    """Return the rows whose target is there, and refuse weights that are not."""
    check_columns(table.column_names, [*target, *([weight] if weight else [])], "the table")
    keep = np.ones(table.num_rows, dtype=bool)
    for name in target:
        keep &= _is_there(table[name])
    if missing := int((~keep).sum()):
        notify(f"{missing:,} of {table.num_rows:,} rows have no {' and '.join(target)}: they are left out")
        table = table.filter(pa.array(keep))
    if weight is not None and not _is_there(table[weight]).all():
        raise InputError(f"the weights in {weight!r} are missing in {(~_is_there(table[weight])).sum():,} rows")
    if not table.num_rows:
        raise InputError(f"no row has a {' and '.join(target)}")
    return table


def _is_there(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return ~np.asarray(column.is_null(nan_is_null=True), dtype=bool)


def _part(table: pa.Table, settings: Mapping[str, Any]) -> Part:
    target, sample_weight = settings["target"], settings["sample_weight"]
    y = target_array([table[name] for name in target], target, settings["task"])
    weights = None
    if sample_weight is not None:
        kind = table[sample_weight].type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise InputError(f"the weights in {sample_weight!r} are {kind} values, expected numbers")
        weights = np.asarray(table[sample_weight].cast(pa.float64()).to_numpy())
        if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise InputError(f"the weights in {sample_weight!r} are not all finite, not negative, and some above 0")
    return Part(table.select(settings["columns"]), y, weights)


def _taken(part: Part, rows: Rows) -> Part:
    weights = None if part.weights is None else part.weights[rows]
    return Part(part.inputs.take(pa.array(rows)), part.target[rows], weights)


def _rows(table: pa.Table, part: Part, settings: Mapping[str, Any]) -> tuple[Rows, Rows]:
    """Return the rows to train on and those to test on."""
    split = Split(**settings["split"])
    groups = None if split.group is None else _as_texts(table[split.group])
    times = None
    if split.time is not None:
        column = table[split.time]
        if not _is_there(column).all():
            raise InputError(f"--time {split.time!r} is missing in some rows: leave them out")
        if pa.types.is_string(column.type):
            raise InputError(f"--time {split.time!r} holds texts, expected dates, times or numbers")
        times = column.to_numpy()
    classes = part.target if settings["task"] == "classification" and part.target.ndim == 1 else None
    return split_rows(len(part), split.share, split.seed, classes=classes, groups=groups, times=times)


def _as_texts(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.array([str(value) for value in column.to_pylist()])


def _check_target(y: NDArray[Any], target: Sequence[str]) -> None:
    if (y == y[0]).all():
        where = f"the target {', '.join(target)} is {y[0]!s} in each of the {len(y)} rows that are trained on"
        raise InputError(f"{where}: there is nothing to learn")


def _fitted(
    task: Task, parameters: Mapping[str, Any], training: Part, verbose: bool
) -> BatchNormClassifier | BatchNormRegressor:
    kinds: dict[str, Any] = {"classification": BatchNormClassifier, "regression": BatchNormRegressor}
    estimator: BatchNormClassifier | BatchNormRegressor = kinds[task](**parameters, verbose=verbose)
    try:
        estimator.fit(training.inputs, training.target, sample_weight=training.weights)
    except BatchnormError:
        raise
    except ValueError as error:  # scikit-learn's way to say what is wrong with a table
        raise InputError(in_words(error)) from error
    estimator.set_params(verbose=False)
    return estimator


@contextmanager
def _their_warnings(notify: "Notify") -> Iterator[None]:
    """Hand on what the estimator warns of, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning):
        notify(text)
