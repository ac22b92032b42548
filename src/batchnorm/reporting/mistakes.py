"""What a trained network gets wrong: confusions, the worst mistakes, the largest errors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.reporting.pictures import picture_of
from batchnorm.reporting.pieces import Drawing, Picture, Section, Table, number, percent, plural
from batchnorm.reporting.predictions import Classified, Labelled, Valued
from batchnorm.reporting.subject import Subject

_PICTURES = 24
_ROWS = 12
_TABULATED = 20  # classes of a confusion that is a table, too
_MATRIX = 1000  # classes whose confusion is drawn: of more, nothing could be told apart, and it would take gigabytes
_SCATTERED = 6  # values
YOURS = "These examples are a part of your data: who has this page has them. --no-examples leaves them out."
_ABOUT_PICTURES = (
    "The worst mistakes, those first whose true class was thought least likely: true class → predicted class, and the "
    "probability that the network gave its answer."
)
_ABOUT_LABELS = "The worst mistakes: whether the label applies, and the probability that the network gave it."
_LEFT_OUT = "Examples were left out of this page, as was asked for."


def section_on_mistakes(
    subject: Subject, found: Classified | Labelled | Valued | None, *, with_examples: bool
) -> Section:
    """Return the section on what is predicted wrongly, on the test part (unfinished runs: the validation part)."""
    if found is None:
        why = subject.without or "the training ended before its first evaluation"
        return Section("mistakes", "What it gets wrong", notices=[f"Nothing can be shown of single examples: {why}."])
    if isinstance(found, Classified):
        section = _of_classes(subject, found, with_examples)
    elif isinstance(found, Labelled):
        section = _of_labels(subject, found, with_examples)
    else:
        section = _of_values(subject, found, with_examples)
    if not with_examples:
        return replace(section, after=[_LEFT_OUT])
    return replace(section, after=[YOURS] if section.pictures or len(section.tables) > 1 else [])


def confusions(found: Classified, names: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return the pairs of a true and a predicted class that are mistaken most often, and how often."""
    wrong = found.true != found.predicted
    pairs = Counter(zip(found.true[wrong].tolist(), found.predicted[wrong].tolist(), strict=True))
    return [(names[true], names[guess], n) for (true, guess), n in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))]


def _of_classes(subject: Subject, found: Classified, with_examples: bool) -> Section:
    names, wrong = subject.names, found.wrong
    lines = [
        f"{plural(len(wrong), 'example')} of {len(found.true):,} in the {subject.part} part "
        f"{'is' if len(wrong) == 1 else 'are'} classified wrongly."
    ]
    drawings, tables = list[Drawing](), [_recall_table(found, names)]
    if len(names) <= _MATRIX:
        counts = found.confusion(len(names))
        drawings = [confusion_drawing(counts, names)]
        tables = [_confusion_table(counts, names)] if len(names) <= _TABULATED else tables
    pairs = [[true, guess, f"{n:,}"] for true, guess, n in confusions(found, names)[:_ROWS]]
    if pairs:
        tables.insert(0, Table("The most frequent mistakes", ["true class", "taken for", "times"], pairs, [2]))
    pictures, rows = list[Picture](), list[list[str]]()
    for place in wrong[:_PICTURES].tolist() if with_examples else []:
        said = [names[found.true[place]], names[found.predicted[place]], percent(found.probability[place])]
        picture = _picture(subject, place, f"A {said[0]}, taken for {said[1]}", [f"{said[0]} → {said[1]}", said[2]])
        if picture is not None:
            pictures.append(picture)
        elif len(rows) < _ROWS:
            rows.append([f"{place:,}", *said, percent(found.of_true[place])])
    if rows:
        columns = ["example", "true class", "taken for", "probability", "of the true class"]
        tables.append(Table("The worst mistakes", columns, rows, [0, 3, 4]))
    return Section(
        "mistakes",
        "What it gets wrong",
        lines,
        drawings=drawings,
        pictures=pictures,
        about_pictures=_ABOUT_PICTURES,
        tables=tables,
    )


def confusion_drawing(counts: NDArray[np.int64], names: Sequence[str]) -> Drawing:
    """Return the drawing of a confusion matrix."""

    def draw() -> Any:
        from batchnorm.figures import draw_confusion

        return draw_confusion(counts, names)

    right, n = int(counts.trace()), int(counts.sum())
    return Drawing(
        "confusion",
        "Confusion matrix",
        f"{right:,} of {n:,} examples are on the diagonal, and right. A table has the largest of the others.",
        draw,
        "Each row is a true class. Blue: the share of it that is right. Orange: what is wrong, the stronger the more "
        "often, compared with the most frequent mistake.",
    )


def _confusion_table(counts: NDArray[np.int64], names: Sequence[str]) -> Table:
    rows = [[name, *(f"{n:,}" if n else "·" for n in row)] for name, row in zip(names, counts.tolist(), strict=True)]
    caption = "The confusion matrix in numbers: true classes by row, predicted ones by column"
    return Table(caption, ["", *names], rows, range(1, len(names) + 1), folded=True)


def _recall_table(found: Classified, names: Sequence[str]) -> Table:
    of_class = np.bincount(found.true, minlength=len(names))
    recall = np.bincount(found.true[found.true == found.predicted], minlength=len(names)) / np.maximum(of_class, 1)
    worst = [i for i in np.argsort(recall, kind="stable").tolist() if of_class[i]][:_ROWS]
    rows = [[names[i], f"{of_class[i]:,}", percent(recall[i])] for i in worst]
    return Table("The classes that are recognised least", ["class", "examples", "right"], rows, [1, 2])


def _of_labels(subject: Subject, found: Labelled, with_examples: bool) -> Section:
    names, right = subject.names, (found.probability > 0.5) == found.true
    shares, present = right.mean(0), found.true.mean(0)
    order = np.argsort(shares, kind="stable").tolist()
    each = [[names[i], percent(present[i]), percent(shares[i])] for i in order[: 2 * _ROWS]]
    tables = [Table("Each label", ["label", "examples that have it", "right"], each, [1, 2])]
    lines = [f"Of {percent(right.all(1).mean())} of the {len(right):,} examples all labels are right."]
    pictures, rows = list[Picture](), list[list[str]]()
    for place, label in found.worst[:_PICTURES].tolist() if with_examples else []:
        truth, probability = "yes" if found.true[place, label] else "no", percent(found.probability[place, label])
        said = f"{names[label]}: {truth}"
        picture = _picture(subject, place, f"{said}, predicted with {probability}", [said, f"predicted {probability}"])
        if picture is not None:
            pictures.append(picture)
        elif len(rows) < _ROWS:
            rows.append([f"{place:,}", names[label], truth, probability])
    if rows:
        tables.append(Table("The worst mistakes", ["example", "label", "true", "probability of yes"], rows, [0, 3]))
    return Section(
        "mistakes", "What it gets wrong", lines, pictures=pictures, about_pictures=_ABOUT_LABELS, tables=tables
    )


def _of_values(subject: Subject, found: Valued, with_examples: bool) -> Section:
    error = found.predicted - found.true
    names = ["value"] if subject.names == ["0"] else subject.names  # of one that has no name
    rows = [[name, number(float(np.sqrt((error[:, i] ** 2).mean()))), number(float(np.abs(error[:, i]).mean())),
             number(float(error[:, i].mean()))] for i, name in enumerate(names)]  # fmt: skip
    columns = ["value", "root mean squared error", "mean absolute error", "mean error"]
    tables = [Table("Errors, in the unit of the values", columns, rows, [1, 2, 3])]
    if not with_examples:  # each point of a scatter is one, too
        return Section("mistakes", "What it gets wrong", tables=tables)
    lines = ["Each point is an example: on the line the prediction is right, above it too large."]
    if len(names) > _SCATTERED:
        lines.append(f"The first {_SCATTERED} of {len(names)} values are drawn.")
    shown = names[:_SCATTERED]
    drawings = [values_drawing(name, found.true[:, i], found.predicted[:, i], i) for i, name in enumerate(shown)]
    worst = [
        [f"{place:,}", *(text for i in range(len(shown)) for text in
                         (number(float(found.true[place, i])), number(float(found.predicted[place, i]))))]
        for place in found.worst[:_ROWS].tolist()
    ]  # fmt: skip
    columns = ["example", *(f"{name}, {what}" for name in shown for what in ("true", "predicted"))]
    tables.append(Table("The largest errors", columns, worst, range(len(columns))))
    return Section("mistakes", "What it gets wrong", lines, drawings=drawings, tables=tables)


def values_drawing(name: str, true: NDArray[np.float64], predicted: NDArray[np.float64], place: int) -> Drawing:
    """Return the drawing of a value, predicted against true."""

    def draw() -> Any:
        from batchnorm.figures import draw_points

        return draw_points(true.tolist(), predicted.tolist(), x_label="true", y_label="predicted")

    return Drawing(
        f"predicted-{place}",
        f"{name}: predicted against true",
        f"{len(true):,} examples; true values from {number(float(true.min()))} to {number(float(true.max()))}, "
        f"predicted ones from {number(float(predicted.min()))} to {number(float(predicted.max()))}.",
        draw,
        name,
    )


def _picture(subject: Subject, place: int, alternative: str, lines: list[str]) -> Picture | None:
    examples, signature = subject.examples, subject.signature
    assert examples is not None
    assert signature is not None
    return picture_of(signature, examples.inputs[place], alternative, lines)
