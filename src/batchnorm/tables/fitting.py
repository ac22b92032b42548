"""From files to a run: read, split, train, test."""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from batchnorm.errors import BatchnormError, InputError, in_words
from batchnorm.estimator import BatchNormClassifier, BatchNormRegressor, parameters_to_json
from batchnorm.files import check_new_folder
from batchnorm.inputs import StoredFrame
from batchnorm.tables.checkpoints import Recorder, recorded
from batchnorm.tables.files import day_first_of, open_table, table_paths
from batchnorm.tables.finding import find_files, fingerprints
from batchnorm.tables.folder import TableFolder
from batchnorm.tables.keeping import Reading
from batchnorm.tables.parts import (
    KnownRows,
    Notify,
    Part,
    Split,
    check_predictable,
    known_rows,
    roles_of,
    training_and_test,
)
from batchnorm.tables.profile import Profile, profile_of
from batchnorm.tables.runs import TableRun
from batchnorm.tables.scores import scores_of
from batchnorm.tables.targets import Task, recognized_task
from batchnorm.training.runs import describe_session

_FEWEST = 4  # rows


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
    begun: TableFolder | None = None,
    tell: Notify = lambda _: None,
    show_profile: Callable[[Profile], None] = lambda _: None,
    interrupted: Callable[[], None] = lambda: None,
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
        Of the estimator, whose defaults are the others; without a `random_state` one is drawn.
    out : Path, optional
        Folder to make, when the training begins.
    begun : TableFolder, optional
        In place of `out`: that of a run to go on with, whose settings the other arguments are. The caller has locked
        it.
    tell : callable
        Gets what the user should know, a line at a time.
    show_profile : callable
        Gets the table's profile before the training.
    interrupted : callable
        Is called at once when a signal asks to stop.
    verbose : bool, default False
        Whether to show bars of the progress of reading and training.

    Raises
    ------
    InputError
        If a file or a column is not what it should be.
    TrainingInterrupted
        If there is a folder, on Ctrl-C, SIGTERM or SIGHUP, after the step was finished and the state saved.
    """
    folder = out if begun is None else begun.path
    if out is not None:
        check_new_folder(out)
    notices: list[str] = []

    def notify(text: str) -> None:
        notices.append(text)
        tell(text)

    paths, test = table_paths(paths), table_paths(test) if test else []
    session = _session_on(paths, test)
    day_first = day_first_of([*paths, *test])
    for path in (*paths, *test):
        if note := open_table(path, day_first=day_first).note:
            notify(f"{path.name}: {note}")
    parameters = _with_random_state(parameters or {})
    asked = {
        "target": list(target),
        "task": task,
        "dropped": list(drop),
        "sample_weight": sample_weight,
        "split": None if test else asdict(split or Split()),
        "task_is_recognized": task is None,
        "parameters": _as_json(parameters),
        "day_first": day_first,
    }
    how = Reading(_folder_for_scratch(folder), tell, day_first, show_progress=verbose)
    prepared = _prepared(paths, test, asked, how, notify, show_profile)
    with recorded(folder, prepared.settings, session, begun, interrupted) as recorder:
        with _their_warnings(notify):
            estimator = _fitted(prepared.settings["task"], parameters, prepared.training, verbose, recorder)
        results = {
            "test": _scores_on(estimator, prepared.testing, notify),
            "training_rows": len(prepared.training),
            "notices": notices,
            "profile": prepared.profile.to_dict(),
        }
        if recorder is not None:
            recorder.finish(estimator._to_file(), results)
        looks = (recorder and recorder.load_looks()) or []
    return TableRun(estimator, prepared.settings, results, session, folder, looks)


def evaluate_table(
    run: TableRun, part: str = "test", data_dir: Path | None = None, *, verbose: bool = False
) -> dict[str, Any]:
    """Return the figures of a run on the rows that it was trained on, or on those that it was not.

    Parameters
    ----------
    run : TableRun
    part : {"test", "train"}, default "test"
    data_dir : Path, optional
        Where its files are now; by default where they were.
    verbose : bool, default False
        Whether to show a bar for each long file that is read.

    Raises
    ------
    InputError
        If a file is not there any more, or is another one now.
    """
    training, testing = _parts_of(run, data_dir, verbose=verbose)
    return _scores_on(run.estimator, training if part == "train" else testing, lambda _: None)


def rows_tested_on(
    run: TableRun, most: int, data_dir: Path | None = None, *, verbose: bool = False
) -> tuple[pa.Table, NDArray[Any]]:
    """Return some of the rows that a run was tested on, evenly over all of them, and their targets.

    Parameters
    ----------
    run : TableRun
    most : int
        How many rows at most; of a table larger than memory they are the first ones.
    data_dir, verbose
        As for `evaluate_table`, and so is what is raised.
    """
    _, testing = _parts_of(run, data_dir, verbose=verbose)
    if isinstance(testing.inputs, StoredFrame):
        first = next(iter(testing.inputs.store.blocks())).slice(0, most)
        return first, testing.target[: first.num_rows]
    if len(testing) <= most:
        return testing.inputs, testing.target
    chosen = np.linspace(0, len(testing) - 1, most).astype(np.int64)
    return testing.inputs.take(pa.array(chosen)), testing.target[chosen]


def _parts_of(run: TableRun, data_dir: Path | None, *, verbose: bool) -> tuple[Part, Part]:
    """Return the rows that a run was trained on, and those that it was not, read anew."""
    settings = run.settings
    paths, test = find_files(settings, run.session, data_dir)
    how = Reading(_folder_for_scratch(run.path), day_first=settings["day_first"], show_progress=verbose)
    known = known_rows(paths, settings["dropped"], settings["target"], how, lambda _: None)
    return training_and_test(known, known.targets(settings), test, settings, how, lambda _: None)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A table, ready to train on."""

    settings: dict[str, Any]
    profile: Profile
    training: Part
    testing: Part


def _prepared(
    paths: Sequence[Path],
    test: Sequence[Path],
    asked: Mapping[str, Any],
    how: Reading,
    notify: Notify,
    show_profile: Callable[[Profile], None],
) -> _Prepared:
    """Read tables, say what is in them, complete what was asked for to a run's settings, and split the rows."""
    target, drop = asked["target"], asked["dropped"]
    roles = roles_of(open_table(paths[0]).names, asked)
    known = known_rows(paths, drop, target, how, notify)
    inputs = [name for name in known.kept.names if name not in roles]
    task = asked["task"] or _recognized(known, target, notify)
    if not inputs:
        raise InputError(f"no column is left to learn from: the table has {known.kept.names}")
    files = {"files": fingerprints(paths), "test_files": fingerprints(test)}
    settings = {**asked, **files, "task": task, "columns": inputs}
    for text in _alike(settings):
        notify(text)
    targets = known.targets(settings)
    profile = profile_of(known.kept.names, known.column, roles, targets if task == "classification" else None, drop)
    show_profile(profile)
    for text in profile.notices():
        notify(text)
    _check_target(targets, target)
    training, testing = training_and_test(known, targets, test, settings, how, notify)
    if len(training) < _FEWEST:
        raise InputError(f"{len(training)} rows to train on, expected at least {_FEWEST}")
    _check_target(training.target, target)
    check_predictable(testing, training, {column.name: column.kind for column in profile.columns})
    return _Prepared(settings, profile, training, testing)


def _session_on(paths: Sequence[Path], test: Sequence[Path]) -> dict[str, Any]:
    """Return the environment of this session, and where its files are."""
    session = describe_session(torch.device("cpu"), "", packages=("pyarrow", "scikit-learn"))
    session["files"] = [str(path.absolute()) for path in paths]
    session["test_files"] = [str(path.absolute()) for path in test]
    return session


def _recognized(known: KnownRows, target: Sequence[str], notify: Notify) -> Task:
    task, why = recognized_task([known.column(name) for name in target])
    notify(f"{', '.join(target)}: {task}, as it has {why}; --task says otherwise")
    return task


def _with_random_state(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return an estimator's parameters with a `random_state`, drawn if none is given."""
    given = parameters.get("random_state")
    return {**parameters, "random_state": int(check_random_state(None).randint(2**31 - 1)) if given is None else given}


def _scores_on(estimator: BatchNormClassifier | BatchNormRegressor, rows: Part, notify: Notify) -> dict[str, Any]:
    scores = {"rows": len(rows), **scores_of(estimator, rows.inputs, rows.target, rows.weights)}
    if n := scores.get("rows_of_unseen_classes"):
        notify(f"{n} rows of the test have a class that no row of the training has: they count as wrong")
    return scores


def _folder_for_scratch(run: Path | None) -> Path:
    """Return where a table is kept that is larger than memory: beside its run, where there is a disk in any case."""
    if run is None:
        return Path(tempfile.gettempdir())
    return next(folder for folder in run.absolute().parents if folder.is_dir())


def _alike(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield what to know of files that hold the same: what is trained on is then tested on, too."""
    names: dict[str, str] = {}
    for file in (*settings["files"], *settings["test_files"]):
        first = names.get(file["sha256"])
        if first is not None:
            yield f"{first} and {file['name']} hold the same rows: leave one out, as the test has some of the training"
        names[file["sha256"]] = file["name"]


def _check_target(y: NDArray[Any], target: Sequence[str]) -> None:
    if (y == y[0]).all():
        where = f"the target {', '.join(target)} is {y[0]!s} in each of the {len(y)} rows that are trained on"
        raise InputError(f"{where}: there is nothing to learn")


def _as_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return parameters_to_json(parameters)
    except ValueError as error:
        raise InputError(in_words(error)) from error


def _fitted(
    task: Task, parameters: Mapping[str, Any], training: Part, verbose: bool, recorder: Recorder | None
) -> BatchNormClassifier | BatchNormRegressor:
    kinds: dict[str, Any] = {"classification": BatchNormClassifier, "regression": BatchNormRegressor}
    try:
        estimator: BatchNormClassifier | BatchNormRegressor = kinds[task](**parameters, verbose=verbose)
    except TypeError as error:
        raise InputError(in_words(error)) from error
    try:
        estimator._train(training.inputs, training.target, training.weights, checkpoints=recorder)
    except BatchnormError:
        raise
    except ValueError as error:  # scikit-learn's way to say what is wrong with a table
        raise InputError(in_words(error)) from error
    estimator.set_params(verbose=False)
    return estimator


@contextmanager
def _their_warnings(notify: Notify) -> Iterator[None]:
    """Hand on what the estimator warns of, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for text in dict.fromkeys(str(warning.message) for warning in caught if warning.category is UserWarning):
        notify(text)
