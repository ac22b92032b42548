"""A confusion matrix, of two classes or of hundreds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from batchnorm.figures.density import tinted_matrix
from batchnorm.figures.panel import Panel, new_sheet
from batchnorm.figures.style import shown, styled

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
    is_counted = len(counts) <= _COUNTED
    right, strength = shares.diagonal() * _STRONGEST, np.sqrt(wrong / (wrong.max() or 1.0))
    with styled():
        sheet = new_sheet(height=5.0)
        panel = Panel(sheet, is_square=True)
        panel.imshow(
            tinted_matrix(right, strength * _STRONGEST if is_counted else strength), aspect="auto", interpolation="none"
        )
        panel.set(xlim=(-0.5, len(counts) - 0.5), ylim=(len(counts) - 0.5, -0.5), xlabel="predicted", ylabel="true")
        _name(panel, names)
        if is_counted:
            _write(panel, counts)
    return sheet


def _write(panel: Panel, counts: NDArray[np.int64]) -> None:
    size = 9.5 if counts.max() < 10_000 else 7
    for (row, column), count in np.ndenumerate(counts):
        if count:
            panel.text(column, row, f"{count}", ha="center", va="center", fontsize=size)


def _name(panel: Panel, names: Sequence[str]) -> None:
    for scale in panel.scales.values():
        scale.kind, scale.has_grid = "whole", False
        if len(names) > _COUNTED:
            scale.size = 8
    if len(names) <= _NAMED:
        labels = [shown(name) for name in names]
        is_short = max(map(len, labels)) * len(labels) < 45
        panel.scales["y"].name(range(len(names)), labels)
        panel.scales["x"].name(range(len(names)), labels, 0 if is_short else 90)
