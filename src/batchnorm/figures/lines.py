"""Lines over time or over layers, with bands around them; bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from batchnorm.figures.style import (
    DASHES,
    INK,
    MUTED,
    SERIES,
    add_axes,
    leave_room,
    make_logarithmic,
    new_figure,
    power_of_ten,
    room_for,
    shown,
    styled,
    whole_numbers,
)

Numbers = Sequence[float | None]
_MARKED = 24  # points of a line that are marked one by one
_LEAST_SHARE = 0.02  # that an axis of shares reaches to
_BAND = 0.2  # opacity
_NAMED_LAYERS = 12  # of a figure that a phone shows whole
_ROW, _TURNED = 0.2, 0.06  # inches of a legend's line, and of a letter of a name that is turned
_SLOPE = 0.71  # of a name at 45 degrees
_LETTERS = 50  # of a legend's line


@dataclass(frozen=True)
class Series:
    """A line of a figure.

    Parameters
    ----------
    name : str
        Whatever it is, it is shown as it is.
    x, y : sequence of float
        None, NaN and infinite values of y leave a gap; so do those that a logarithmic axis has no place for.
    low, high : sequence of float, optional
        The band around it, such as mean ± standard deviation.
    color : int, optional
        The number of its colour; by default its place among the lines.
    dash : int, default 0
        Solid, dashed, dotted, or dashed and dotted.
    """

    name: str
    x: Sequence[float]
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    color: int | None = None
    dash: int = 0


def draw_lines(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    log: bool = False,
    log_x: bool = False,
    reference: float | None = None,
) -> Figure:
    """Draw lines over epochs, or over whatever else.

    Parameters
    ----------
    series : sequence of Series
    x_label, y_label : str
    log : bool, default False
        Whether the values are shown on a logarithmic scale.
    log_x : bool, default False
        Whether what they are drawn over is above 0, and shown on a logarithmic scale.
    reference : float, optional
        A value to compare with: a thin line across.
    """
    with styled():
        figure = new_figure()
        axes = add_axes(figure)
        _draw_all(axes, series, log=log)
        if reference is not None:
            axes.axhline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        axes.set(xlabel=x_label, ylabel=y_label)
        if log_x and np.isfinite(axes.dataLim.minposx):  # there is a point
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FuncFormatter(power_of_ten))
            axes.xaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        else:
            whole_numbers(axes)
        leave_room(figure, top=add_legend(figure, axes, [line.name for line in series]))
    return figure


def draw_layers(
    series: Sequence[Series], layers: Sequence[str], *, y_label: str, log: bool = False, percent: bool = False
) -> Figure:
    """Draw lines over the layers of a network, from the first to the last; the x of a series are places in `layers`.

    Parameters are those of `draw_lines`, the layers' names, and whether the values are shown as percentages of 1.
    """
    with styled():
        figure = new_figure(wide=len(layers) > _NAMED_LAYERS)
        axes = add_axes(figure)
        _draw_all(axes, series, log=log)
        if percent:
            _make_percent(axes)
        axes.set(ylabel=y_label, xlim=(-0.4, len(layers) - 0.6))
        below = name_layers(axes, layers)
        leave_room(figure, bottom=below, top=add_legend(figure, axes, [line.name for line in series]))
    return figure


def draw_bars(names: Sequence[str], values: Sequence[float], spreads: Sequence[float], *, x_label: str) -> Figure:
    """Draw a bar per name, from top to bottom, with what its value spreads by."""
    with styled():
        figure = new_figure(height=0.9 + 0.3 * len(names))
        axes = add_axes(figure)
        places = range(len(names))
        axes.barh(places, values, height=0.65, color=SERIES[0])
        axes.errorbar(values, places, xerr=spreads, fmt="none", ecolor=INK, elinewidth=1.2)
        labels = [shown(name) for name in names]
        axes.set_yticks(places, labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.axvline(0, color=MUTED, linewidth=0.9)
        axes.set_xlabel(x_label)
        leave_room(figure, left=room_for(labels))
    return figure


def align(figures: Sequence[Figure]) -> None:
    """Give figures that stand side by side the same axis of values."""
    every = [axes for figure in figures for axes in figure.axes]
    ends = [end for axes in every for end in axes.get_ylim()]
    for axes in every:
        axes.set_ylim(min(ends), max(ends))
        if axes.get_yscale() == "log":
            make_logarithmic(axes)  # whose labels depend on where it ends


def name_layers(axes: Axes, layers: Sequence[str]) -> float:
    """Label the places of an axis with the layers' names, as many as there is room for; return the inches they take."""
    names, step = [shown(name) for name in layers], -(-len(layers) // (2 * _NAMED_LAYERS))
    turned = sum(len(name) + 2 for name in names[::step]) > _LETTERS
    if turned:
        _make_higher(axes, _TURNED * max(map(len, names)))
    axes.set_xticks(
        range(0, len(layers), step),
        names[::step],
        rotation=45 if turned else 0,
        ha="right" if turned else "center",
        rotation_mode="anchor" if turned else "default",
    )
    axes.grid(visible=False, axis="x")
    return room_for(names[::step]) * _SLOPE + 0.1 if turned else 0.35


def add_legend(figure: Figure, axes: Axes, names: Sequence[str]) -> float:
    """Name the lines above the axes, where they cover nothing; one line needs no name. Return the inches it takes."""
    if len(names) < 2:
        return 0.0
    longest = max(len(shown(name)) for name in names)
    room = _LETTERS * figure.get_figwidth() / 5
    columns = max(1, min(len(names), int(room // (longest + 7))))
    rows = -(-len(names) // columns)
    _make_higher(axes, _ROW * (rows - 1))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.4)
    return _ROW * rows + 0.05


def _make_higher(axes: Axes, inches: float) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_figheight(figure.get_figheight() + inches)


def _draw_all(axes: Axes, series: Sequence[Series], *, log: bool) -> None:
    for place, line in enumerate(series):
        _draw(axes, line, SERIES[(place if line.color is None else line.color) % len(SERIES)], log=log)
    if log:
        make_logarithmic(axes)


def _make_percent(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    axes.set_ylim(bottom=0, top=max(1.05 * axes.get_ylim()[1], _LEAST_SHARE))


def _draw(axes: Axes, line: Series, color: str, *, log: bool) -> None:
    x, y = np.asarray(line.x, float), _drawable(line.y, log=log)
    style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(x) <= _MARKED else {}
    # A legend leaves out names that begin with an underscore: no character of no width before it, but a space.
    name = f" {shown(line.name)}" if line.name.startswith("_") else shown(line.name)
    axes.plot(x, y, color=color, linestyle=DASHES[line.dash % len(DASHES)], label=name, **style)
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, float), _drawable(line.high, log=log)
        if log:
            low = np.maximum(low, y / 10)  # a band that reaches below 0 has no end there
        axes.fill_between(x, low, high, color=color, alpha=_BAND, linewidth=0)


def _drawable(values: Numbers, *, log: bool) -> NDArray[np.float64]:
    numbers = np.asarray(values, float)  # None is NaN
    return np.where(np.isfinite(numbers) & ((numbers > 0) | (not log)), numbers, np.nan)
