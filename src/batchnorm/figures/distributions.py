"""Distributions: how they move over epochs, and how they lie side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from batchnorm.figures.lines import add_legend, name_layers
from batchnorm.figures.style import (
    INK,
    MUTED,
    SERIES,
    add_axes,
    leave_room,
    new_figure,
    room_for,
    shown,
    styled,
)

# "low", "high" and the "counts" of equal bins between them; "quantiles": 5 numbers, .05 .25 .5 .75 .95
Distribution = Mapping[str, Any]
_OVERLAP = 1.5  # heights of a row that the highest bin reaches
_MARGIN = 0.5  # of the range from .05 to .95, that is shown on either side of it
_MANY = 12


def draw_ridges(
    columns: Mapping[str, Sequence[Distribution | None]], rows: Sequence[str], *, x_label: str, color: int = 0
) -> Figure:
    """Draw histograms below each other, a row for each moment, in columns to compare.

    Parameters
    ----------
    columns : mapping of str to sequence
        By the column's title a distribution for each row, or None.
    rows : sequence of str
        The rows' names, from the top.
    x_label : str
    color : int, default 0
    """
    with styled():
        figure = new_figure(height=1.3 + 0.3 * len(rows))
        for place, (title, distributions) in enumerate(columns.items()):
            axes = add_axes(figure, place + 1, len(columns))
            _draw_ridges(axes, distributions, SERIES[(color + place) % len(SERIES)])
            axes.set_title(title)
            axes.set_xlabel(x_label)
            axes.set_ylim(-0.2, len(rows) - 1 + _OVERLAP + 0.1)
            names = [shown(row) for row in reversed(rows)] if place == 0 else [""] * len(rows)
            axes.set_yticks(range(len(rows)), names)
            axes.grid(visible=False, axis="y")
            axes.tick_params(axis="y", length=0)
        leave_room(figure, left=room_for([shown(row) for row in rows]), top=0.25, wspace=0.08)
    return figure


def _draw_ridges(axes: Axes, distributions: Sequence[Distribution | None], color: str) -> None:
    n = len(distributions)
    for place, found in enumerate(distributions):
        if found is None or not _is_finite(found):
            continue
        baseline = n - 1 - place
        counts = np.pad(np.asarray(found["counts"], float), 1)
        half = (found["high"] - found["low"]) / len(found["counts"]) / 2
        middles = np.linspace(found["low"] - half, found["high"] + half, len(counts))
        heights = baseline + counts / (counts.max() or 1.0) * _OVERLAP
        opacity = 0.25 + 0.35 * (place + 1) / n  # later moments lie in front, stronger
        axes.fill(middles, heights, facecolor=(color, opacity), edgecolor=color, linewidth=1, zorder=2 + place)
    _limit(axes, [found for found in distributions if found is not None and _is_finite(found)])


def _limit(axes: Axes, distributions: Sequence[Distribution]) -> None:
    """Show where nearly all values are, rather than a few far outside."""
    if not distributions:
        axes.set_xticks([])
        return
    first = min(found["quantiles"][0] for found in distributions)
    last = max(found["quantiles"][-1] for found in distributions)
    margin = (last - first) * _MARGIN
    low = max(first - margin, min(found["low"] for found in distributions))
    high = min(last + margin, max(found["high"] for found in distributions))
    if low < high:
        axes.set_xlim(low, high)


def _is_finite(found: Distribution) -> bool:
    numbers = (found["low"], found["high"], *found["quantiles"])
    return all(number is not None and np.isfinite(number) for number in numbers) and found["low"] < found["high"]


def draw_boxes(
    groups: Mapping[str, Sequence[Sequence[float | None] | None]],
    layers: Sequence[str],
    *,
    y_label: str,
    reference: float | None = None,
) -> Figure:
    """Draw for each layer from the least to the greatest value a line, and a box between the quartiles.

    Parameters
    ----------
    groups : mapping of str to sequence
        By name, for each layer the least value, the quartiles and the greatest value, or None.
    layers : sequence of str
    y_label : str
    reference : float, optional
        A value to compare with: a thin line across.
    """
    with styled():
        figure = new_figure(wide=len(layers) > _MANY)
        axes = add_axes(figure)
        width = 0.7 / len(groups)
        for group, (name, rows) in enumerate(groups.items()):
            known = [(place, row) for place, row in enumerate(rows) if row is not None and None not in row]
            at = np.array([place for place, _ in known]) + (group - (len(groups) - 1) / 2) * width
            values = np.array([row for _, row in known], float).reshape(len(known), 5)
            color = SERIES[group % len(SERIES)]
            axes.vlines(at, values[:, 0], values[:, 4], color=color, linewidth=1.2)
            axes.bar(at, values[:, 3] - values[:, 1], width * 0.7, values[:, 1], color=color, alpha=0.55, label=name)
            axes.hlines(values[:, 2], at - width * 0.35, at + width * 0.35, color=INK, linewidth=1.4)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set(ylabel=y_label, xlim=(-0.5, len(layers) - 0.5))
        below = name_layers(axes, layers)
        leave_room(figure, bottom=below, top=add_legend(figure, axes, list(groups)))
    return figure
