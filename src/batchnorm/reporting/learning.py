"""How a training went: its curves."""

from collections.abc import Sequence
from typing import Any

from batchnorm.config import Task
from batchnorm.reporting.pieces import Drawing, Section, Table, number

_PARTS = ("train", "validation")
_MEASURES: dict[Task, list[tuple[str, str, str]]] = {  # in a record, at an axis, in words
    "classification": [("accuracy", "accuracy", "Accuracy"), ("loss", "loss", "Loss (cross-entropy)")],
    "labels": [
        ("accuracy", "accuracy", "Share of examples with all labels right"),
        ("loss", "loss", "Loss (binary cross-entropy)"),
    ],
    "regression": [
        ("r2", "R²", "R²"),
        ("rmse", "root mean squared error", "Root mean squared error"),
        ("loss", "loss", "Loss (half the squared error of standardised values)"),
    ],
}
_TABLE = ("epoch", "learning_rate", "step_loss")


def section_on_learning(task: Task, history: Sequence[dict[str, Any]]) -> Section:
    """Return the section with the curves of a run's evaluations."""
    if not history:
        return Section("learning", "How it learned", notices=["The training ended before its first evaluation."])
    drawings = [_curves(history, *measure) for measure in _MEASURES[task] if _is_drawable(history, measure[0])]
    lines = ["There is but one evaluation: a training of more epochs would show a course."] if len(history) == 1 else []
    return Section("learning", "How it learned", lines, drawings=drawings, tables=[_table(task, history)])


def _is_drawable(history: Sequence[dict[str, Any]], measure: str) -> bool:
    """Tell whether there is one number per evaluation: errors of several values are lists."""
    return not isinstance(history[0][f"train_{measure}"], list)


def _curves(history: Sequence[dict[str, Any]], measure: str, label: str, words: str) -> Drawing:
    def draw() -> Any:
        from batchnorm.figures import Series, draw_lines

        epochs = [record["epoch"] for record in history]
        names = {"train": "training part", "validation": "validation part"}
        series = [Series(names[part], epochs, [record[f"{part}_{measure}"] for record in history]) for part in _PARTS]
        return draw_lines(series, x_label="epoch", y_label=label)

    first, last = history[0], history[-1]
    told = ", ".join(
        f"on the {name} part from {number(first[f'{part}_{measure}'])} to {number(last[f'{part}_{measure}'])}"
        for part, name in (("train", "training"), ("validation", "validation"))
    )
    title = f"{words} over the epochs"
    return Drawing(measure.replace("_", "-"), title, f"From epoch {first['epoch']} to {last['epoch']}: {told}.", draw)


def _table(task: Task, history: Sequence[dict[str, Any]]) -> Table:
    names = [*_TABLE, *(f"{part}_{measure}" for measure, *_ in _MEASURES[task] for part in _PARTS)]
    rows = [[number(record[name]) for name in names] for record in history]
    return Table(
        "The evaluations in numbers", [name.replace("_", " ") for name in names], rows, range(len(names)), folded=True
    )
