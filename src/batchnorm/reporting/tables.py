"""The page of a run on a table: what it was trained on, its worst mistakes as rows, what each column is worth."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.config import TrainingConfig, as_option
from batchnorm.errors import BatchnormError
from batchnorm.estimator import parameters_from_json
from batchnorm.printing import printable, without_folders
from batchnorm.reporting.importance import Importance, permutation_importance
from batchnorm.reporting.inside import Inside, sections_on_layers
from batchnorm.reporting.mistakes import YOURS, confusion_drawing, values_drawing
from batchnorm.reporting.pieces import Drawing, Section, Story, Table, listed, number, percent, plural
from batchnorm.reporting.repeating import PRIVATE, configuration_table, environment_table
from batchnorm.reporting.words import sentences_on_layers
from batchnorm.tables import TableFolder, TableRun, rows_tested_on

if TYPE_CHECKING:
    import pyarrow as pa

_NETWORK = "network."  # what the names of its tensors begin with in a checkpoint
_MOST_ROWS = 1000  # that are predicted once more
_COLUMNS, _ROWS, _IMPORTANT = 8, 12, 20  # that are shown
_LONGEST = 60  # characters of a cell
_OPTIONS = {  # of the command line, by the estimators' parameters
    "learning_rate_init": "learning_rate",
    "epsilon": "adam_eps",
    "nesterovs_momentum": "nesterov",
    "random_state": "seed",
    "n_iter_no_change": "early_stopping_patience",
}
_NOT_OF_TABLES = {"normalization", "bn_variance", "weight_decay", "evaluate_every"}  # options that tables do not have


@dataclass(frozen=True, eq=False)
class _Tested:
    """Rows of the test part, and what is predicted for them."""

    inputs: "pa.Table"
    target: NDArray[Any]
    predicted: NDArray[Any]
    probabilities: NDArray[np.float64] | None


def story_of_table(path: Path, data_dir: Path | None, *, with_examples: bool, show_progress: bool) -> Story:
    """Return what the page of a run on a table tells.

    Raises
    ------
    InputError
        If there is none, or its files are not in `data_dir`.
    """
    folder = TableFolder.open(path)
    title = f"{', '.join(folder.settings['target'])}: a training on {folder.settings['files'][0]['name']}"
    if not folder.is_finished:
        return _unfinished(folder, title)
    run = TableRun.load(path)
    tested, without = _tested(run, data_dir, show_progress)
    importance, inside = None, Inside(run.estimator.network_.state_dict(), run.layers, note=_note(run))
    if tested is not None:
        importance = permutation_importance(run.estimator, tested.inputs, tested.target, show_progress=show_progress)
    sections = [
        _course(run.estimator.loss_curve_, run.estimator.validation_scores_),
        _mistakes(run, tested, without, with_examples),
        _columns(run, importance),
        *sections_on_layers(inside),
        _making(folder, run),
    ]
    notices = [] if without is None else [f"The files are not at hand, so that no row can be predicted: {without}."]
    return Story(
        title,
        [*_summary(run, importance), *sentences_on_layers(inside)],
        sections,
        [*notices, *run.results["notices"]],
        run.results["test"],
    )


def _note(run: TableRun) -> str:
    """Return whose the statistics of a trained estimator are."""
    if run.estimator.statistics != "population":
        return "In inference, batch norm computes with the running averages that the training has left."
    return (
        "In inference, batch norm computes with fixed statistics: this estimator has those of all rows that it was "
        "trained on, the population's, which took the place of the running averages after the last step."
    )


def _unfinished(folder: TableFolder, title: str) -> Story:
    tensors, state = folder.load_checkpoint()
    ended = folder.load_sessions()[-1].get("ended")
    why = f" It ended with: {without_folders(ended)}" if ended else ""
    notice = (
        f"This training is not finished: it was saved last after {plural(state['epoch'], 'complete epoch')}. Its rows "
        f"for the test are looked at when it is.{why}"
    )
    network = {name.removeprefix(_NETWORK): tensor for name, tensor in tensors.items() if name.startswith(_NETWORK)}
    inside = Inside(network, folder.load_looks() or [])
    losses, scores = (tensors[f"course.{name}"].tolist() for name in ("losses", "scores"))
    course = [_course(losses, scores)] if losses else []
    sections = [*course, *sections_on_layers(inside), _making(folder, None)]
    return Story(title, list(sentences_on_layers(inside)), sections, [notice])


def _tested(run: TableRun, data_dir: Path | None, show_progress: bool) -> tuple[_Tested | None, str | None]:
    try:
        inputs, target = rows_tested_on(run, _MOST_ROWS, data_dir, verbose=show_progress)
    except BatchnormError as error:
        if data_dir is not None:
            raise
        return None, without_folders(str(error))
    estimator: Any = run.estimator
    probabilities = estimator.predict_proba(inputs) if hasattr(estimator, "classes_") else None
    return _Tested(inputs, target, estimator.predict(inputs), probabilities), None


def _summary(run: TableRun, importance: Importance | None) -> Iterator[str]:
    settings, test = run.settings, run.results["test"]
    n = run.results.get("training_rows")
    trained_on = "" if n is None else f" on {n:,} rows"
    yield (
        f"{type(run.estimator).__name__} was trained for {plural(run.estimator.n_iter_, 'epoch')}{trained_on} to "
        f"predict {listed(settings['target'])} from {plural(len(run.columns), 'column')}."
    )
    if "accuracy" in test:
        what = "have all their labels right" if len(settings["target"]) > 1 else "are predicted correctly"
        yield f"Of the {test['rows']:,} rows that were kept for the test, {percent(test['accuracy'])} {what}."
        if "balanced_accuracy" in test:
            yield f"Averaged over the classes, each counting alike, it is {percent(test['balanced_accuracy'])}."
        if (classes := run.results["profile"].get("classes")) is not None:
            name, often = next(iter(classes.items()))
            share = often / sum(classes.values())
            yield f"The most frequent class, {name}, is that of {percent(share)} of all rows."
    else:
        r2 = "unknown, of a single row" if test["r2"] is None else f"{test['r2']:.4f}"
        yield (
            f"On the {test['rows']:,} rows that were kept for the test R² is {r2} (1 would be perfect, 0 is what the "
            f"mean alone achieves), with a root mean squared error of {number(test['rmse'])}."
        )
    if importance is not None and importance.names and importance.means[0] > 0:
        yield f"Of the columns, {importance.names[0]} matters most to the predictions."


def _course(losses: Sequence[float], scores: Sequence[float] | None) -> Section:
    epochs = range(len(losses))

    def draw_loss() -> Any:
        from batchnorm.figures import Series, draw_lines

        return draw_lines([Series("loss", epochs, losses)], x_label="epoch", y_label="loss of the steps")

    def draw_scores() -> Any:
        from batchnorm.figures import Series, draw_lines

        return draw_lines([Series("score", epochs, scores or [])], x_label="epoch", y_label="score")

    told = f"From {number(losses[0])} to {number(losses[-1])} in {plural(len(losses), 'epoch')}."
    drawings = [Drawing("loss", "Mean loss of an epoch's steps", told, draw_loss)]
    if scores:
        told = f"From {number(scores[0])} to {number(scores[-1])}; at best {number(max(scores))}."
        drawings.append(Drawing("score", "Score on the rows that early stopping looks at", told, draw_scores))
    return Section("learning", "How it learned", drawings=drawings)


def _mistakes(run: TableRun, tested: _Tested | None, without: str | None, with_examples: bool) -> Section:
    test, title = run.results["test"], "What it gets wrong"
    drawings, tables = list[Drawing](), list[Table]()
    if "confusion" in test:
        names = [str(label) for label in run.estimator.classes_]
        drawings.append(confusion_drawing(np.array(test["confusion"], np.int64), names))
    if "accuracy_of_labels" in test:
        rows = [
            [name, percent(share)]
            for name, share in zip(run.settings["target"], test["accuracy_of_labels"], strict=True)
        ]
        tables.append(Table("Each label", ["label", "right"], rows, [1]))
    if tested is None:
        return Section(
            "mistakes", title, [f"Single rows cannot be shown: {without}."], drawings=drawings, tables=tables
        )
    if with_examples and tested.probabilities is None:
        drawings += _value_drawings(run, tested)
    if with_examples and (worst := _worst_rows(run, tested)) is not None:
        tables.append(worst)
    lines = [] if len(tested.target) < _MOST_ROWS else [f"Looked at here: {len(tested.target):,} rows of the test."]
    after = [YOURS] if with_examples else ["Rows were left out of this page, as was asked for."]
    return Section("mistakes", title, lines, drawings=drawings, tables=tables, after=after)


def _value_drawings(run: TableRun, tested: _Tested) -> list[Drawing]:
    true, predicted = (part.reshape(len(part), -1).astype(np.float64) for part in (tested.target, tested.predicted))
    return [
        values_drawing(name, true[:, i], predicted[:, i], i) for i, name in enumerate(run.settings["target"][:_COLUMNS])
    ]


def _worst_rows(run: TableRun, tested: _Tested) -> Table | None:
    """Return the rows that are predicted worst, as far as they are wrong."""
    order, said = _ordered(run, tested)
    if not len(order):
        return None
    columns = tested.inputs.column_names[:_COLUMNS]
    cells = tested.inputs.select(columns).take(order).to_pylist()
    rows = [
        [*said[place], *(_cell(row[name]) for name in columns)]
        for place, row in zip(order.tolist(), cells, strict=True)
    ]
    more = tested.inputs.num_columns - len(columns)
    rest = f"; {plural(more, 'more column is', 'more columns are')} left out" if more > 0 else ""
    heads = ["true", "predicted", *(["probability"] if tested.probabilities is not None else [])]
    return Table(f"The rows that are predicted worst{rest}", [*heads, *columns], rows, range(len(heads)))


def _ordered(run: TableRun, tested: _Tested) -> tuple[NDArray[np.int64], list[list[str]]]:
    """Return the worst rows, and what is said of each row."""
    true, predicted, probabilities = tested.target, tested.predicted, tested.probabilities
    if probabilities is None:
        error = (predicted.astype(np.float64) - true).reshape(len(true), -1)
        size = np.abs(error / (np.std(true.astype(np.float64), axis=0) + 1e-300)).max(1)
        return np.argsort(-size, kind="stable")[:_ROWS], [
            [number(_plain(t)), number(_plain(p))] for t, p in zip(true, predicted, strict=True)
        ]
    if true.ndim > 1:
        wrong = np.abs(probabilities - true).max(1)
        said = [
            [_signs(t), _signs(p), ", ".join(map(percent, q))]
            for t, p, q in zip(true, predicted, probabilities, strict=True)
        ]
        return np.argsort(-wrong, kind="stable")[: min(_ROWS, int((wrong > 0.5).sum()))], said
    sure = probabilities.max(1)
    wrong_rows = np.flatnonzero(true != predicted)
    said = [[_cell(t), _cell(p), percent(q)] for t, p, q in zip(true, predicted, sure, strict=True)]
    return wrong_rows[np.argsort(-sure[wrong_rows], kind="stable")][:_ROWS], said


def _signs(labels: NDArray[Any]) -> str:
    return ", ".join("yes" if label else "no" for label in labels)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else float(value)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "" if value is None else printable(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _columns(run: TableRun, importance: Importance | None) -> Section:
    profile = run.results["profile"]["columns"]
    rows = [[c["name"], c["role"], c["kind"], f"{c['distinct']:,}", f"{c['missing']:,}"] for c in profile]
    table = Table(
        "The columns", ["column", "role", "kind", "different", "missing"], rows, [3, 4], folded=len(rows) > _ROWS
    )
    if importance is None:
        return Section("columns", "The columns", tables=[table])
    shown, score = importance.names[:_IMPORTANT], "R²" if run.settings["task"] == "regression" else "accuracy"

    def draw() -> Any:
        from batchnorm.figures import draw_bars

        return draw_bars(
            shown, importance.means[:_IMPORTANT], importance.deviations[:_IMPORTANT], x_label=f"loss of {score}"
        )

    told = listed(f"{name} {mean:.3g}" for name, mean in zip(shown[:5], importance.means, strict=False))
    left = f" There was no time for {plural(importance.n_left_out, 'column')}." if importance.n_left_out else ""
    lines = [
        f"The bars tell how much {score} falls, from {number(importance.score)} on {importance.n_rows:,} rows of the "
        "test, when the cells of one column change places: the mean over 5 tries, with their standard deviation. "
        f"Columns that say the same as others look unimportant here, each by itself.{left}"
    ]
    drawing = Drawing("importance", "Permutation importance", f"The most important columns: {told}.", draw)
    return Section("columns", "The columns, and what they are worth", lines, drawings=[drawing], tables=[table])


def _making(folder: TableFolder, run: TableRun | None) -> Section:
    settings = folder.settings
    parameters = settings["parameters"] if run is None else run.estimator.get_params()
    tables = [configuration_table(parameters), environment_table(folder.load_sessions())]
    files = [
        [file["name"], f"{file['bytes']:,}", file["sha256"][:16]]
        for file in (*settings["files"], *settings["test_files"])
    ]
    tables.insert(0, Table("Files", ["name", "bytes", "SHA-256 begins with"], files, [1]))
    lines, command = ["This command trains it anew:"], _command(folder)
    if command is None:
        lines = ["It was begun by a program, with parameters that the command line has no options for: run that again."]
    return Section("making", "How it was made", lines, command=command, tables=tables, after=[PRIVATE])


def _command(folder: TableFolder) -> str | None:
    settings, begun = folder.settings, folder.load_sessions()[0]
    given = parameters_from_json(settings["parameters"])
    if given.pop("early_stopping", False) != ("n_iter_no_change" in given):  # on the command line one says the other
        return None
    parameters = {_OPTIONS.get(name, name): value for name, value in given.items() if name != "verbose"}
    options = {field.name for field in fields(TrainingConfig)} - _NOT_OF_TABLES
    if not parameters.keys() <= options or not all(map(_is_option, parameters.values())):
        return None
    split = settings["split"] or {}
    named: list[tuple[str, Any]] = [
        *(("target", name) for name in settings["target"]),
        *([] if settings["task_is_recognized"] else [("task", settings["task"])]),
        *(("test", file["name"]) for file in settings["test_files"]),
        *([("test_share", split["share"])] if split.get("share", 0.2) != 0.2 else []),
        *([("split_seed", split["seed"])] if split.get("seed", 0) != 0 else []),
        *((name, split[name]) for name in ("group", "time") if split.get(name) is not None),
        *([("sample_weight", settings["sample_weight"])] if settings["sample_weight"] is not None else []),
        *(("drop", name) for name in settings["dropped"]),
        *((name, value) for name, value in parameters.items() if (name, value) != ("seed", 0)),
        *([("threads", begun["threads"])] if begun.get("threads") is not None else []),
    ]
    files = [file["name"] for file in settings["files"]]
    return shlex.join(
        ["batchnorm", "train", *files, *(text for name, value in named for text in as_option(name, value))]
    )


def _is_option(value: Any) -> bool:
    """Tell whether the command line can be given a parameter's value: "auto" stands for the number that it becomes."""
    return isinstance(value, bool | int | float | tuple | list) or (isinstance(value, str) and value != "auto")
