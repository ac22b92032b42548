"""A confusion matrix, of two classes or of hundreds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from batchnorm.figures.density import tinted_matrix
from batchnorm.figures.style import INK, SERIES, new_figure, shown, styled

_COUNTED = 12  # classes whose cells have room for a number
_NAMED = 30  # classes whose names have room
_STRONGEST = 0.6  # opacity: numbers stay legible in it


def draw_confusion(counts: NDArray[np.int64], names: Sequence[str]) -> Figure:
    """Draw how often each class (rows) is taken for each (columns).

    What is right has one colour, by its share of the row; what is wrong another, by its share of the row too, compared
    with the largest such share: otherwise nobody would see a good network's mistakes.

    Parameters
    ----------
    counts : array, shape (classes, classes)
    names : sequence of str
    """
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(len(counts)))
    right, wrong = shares.diagonal() * _STRONGEST, np.sqrt(wrong / (wrong.max() or 1.0)) * _STRONGEST
    with styled():
        figure = new_figure(height=5.0)
        axes = figure.add_subplot()
        if len(counts) <= _COUNTED:
            _draw_cells(axes, counts, right, wrong)
        else:
            axes.imshow(tinted_matrix(right, wrong / _STRONGEST), interpolation="none")
        axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), aspect="equal")
        _name(axes, names)
    return figure


def _draw_cells(axes: Axes, counts: NDArray[np.int64], right: NDArray[np.float64], wrong: NDArray[np.float64]) -> None:
    size = 9.5 if counts.max() < 10_000 else 7
    for (row, column), count in np.ndenumerate(counts):
        if not count:
            continue
        color, opacity = (SERIES[0], right[row]) if row == column else (SERIES[1], wrong[row, column])
        cell = Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, alpha=float(opacity), linewidth=0)
        axes.add_patch(cell)
        axes.text(column, row, f"{count}", ha="center", va="center", color=INK, fontsize=size)


def _name(axes: Axes, names: Sequence[str]) -> None:
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="true")
    if len(names) <= _NAMED:
        labels = [shown(name) for name in names]
        is_short = max(map(len, labels)) * len(labels) < 45
        axes.set_yticks(range(len(names)), labels)
        axes.set_xticks(range(len(names)), labels, rotation=0 if is_short else 90)
    if len(names) > _COUNTED:
        axes.tick_params(labelsize=8)
