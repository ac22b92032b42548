"""A confusion matrix, of two classes or of hundreds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from batchnorm.figures.density import tinted_matrix
from batchnorm.figures.style import add_axes, leave_room, new_figure, room_for, shown, styled

_COUNTED = 12  # classes whose cells have room for a number
_NAMED = 30  # classes whose names have room
_NUMBERS = 0.4  # inches that the numbers of classes take
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
    right, wrong = shares.diagonal() * _STRONGEST, np.sqrt(wrong / (wrong.max() or 1.0))
    with styled():
        figure = new_figure(height=5.0)
        axes = add_axes(figure)
        is_counted = len(counts) <= _COUNTED
        axes.imshow(tinted_matrix(right, wrong * _STRONGEST if is_counted else wrong), interpolation="none")
        if is_counted:
            _write_counts(axes, counts)
        axes.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), aspect="equal")
        _name(figure, axes, names)
    return figure


def _write_counts(axes: Axes, counts: NDArray[np.int64]) -> None:
    size = 9.5 if counts.max() < 10_000 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=size)


def _name(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    axes.grid(visible=False)
    axes.set(xlabel="predicted", ylabel="true", anchor="N")
    longest, is_short = _NUMBERS, True
    if len(names) <= _NAMED:
        labels = [shown(name) for name in names]
        longest = room_for(labels)
        is_short = longest * len(labels) <= figure.get_figwidth() - longest - 0.6
        axes.set_yticks(range(len(names)), labels)
        axes.set_xticks(range(len(names)), labels, rotation=0 if is_short else 90)
    leave_room(figure, left=longest + 0.35, bottom=0.55 if is_short else longest + 0.3)
    if len(names) > _COUNTED:
        axes.tick_params(labelsize=8)
