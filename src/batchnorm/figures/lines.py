"""Lines over time or over layers, with bands around them; bars."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from batchnorm.figures.panel import Entry, Panel, Sheet, height_of_legend, new_sheet, width_of, width_of_entry
from batchnorm.figures.style import DASHES, INK, MUTED, SERIES, shown, styled

Numbers = Sequence[float | None]
_MARKED = 24  # points of a line that are marked one by one
_LEAST_SHARE = 0.02  # that an axis of shares reaches to
_BAND = 0.2  # opacity
_NAMED_LAYERS = 12  # of a figure that a phone shows whole
_BETWEEN = 0.15  # inches between the names of layers


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
    percent: bool = False,
    log_x: bool = False,
    reference: float | None = None,
) -> Figure:
    """Draw lines over epochs, or over whatever else.

    Parameters
    ----------
    series : sequence of Series
    x_label, y_label : str
    log, percent : bool, default False
        Whether the values are shown on a logarithmic scale, or as percentages of 1.
    log_x : bool, default False
        Whether what they are drawn over is above 0, and shown on a logarithmic scale.
    reference : float, optional
        A value to compare with: a thin line across.
    """
    with styled():
        sheet = new_sheet()
        panel = Panel(sheet)
        _draw_all(panel, series, log=log, percent=percent)
        if reference is not None:
            panel.axhline(reference, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)))
        panel.set(xlabel=x_label, ylabel=y_label)
        panel.scales["x"].kind = "whole"
        if log_x and np.isfinite(panel.dataLim.minposx):  # there is a point
            panel.set_xscale("log")
            panel.scales["x"].kind = "log"
        add_legend(sheet, [entry_of(line, place) for place, line in enumerate(series)])
    return sheet


def draw_layers(
    series: Sequence[Series], layers: Sequence[str], *, y_label: str, log: bool = False, percent: bool = False
) -> Figure:
    """Draw lines over the layers of a network, from the first to the last; the x of a series are places in `layers`.

    Parameters are those of `draw_lines`, and the layers' names.
    """
    with styled():
        sheet = new_sheet(wide=len(layers) > _NAMED_LAYERS)
        panel = Panel(sheet)
        _draw_all(panel, series, log=log, percent=percent)
        panel.set(ylabel=y_label, xlim=(-0.4, len(layers) - 0.6))
        name_layers(sheet, panel, layers)
        add_legend(sheet, [entry_of(line, place) for place, line in enumerate(series)])
    return sheet


def draw_bars(names: Sequence[str], values: Sequence[float], spreads: Sequence[float], *, x_label: str) -> Figure:
    """Draw a bar per name, from top to bottom, with what its value spreads by."""
    with styled():
        sheet = new_sheet(height=0.9 + 0.3 * len(names))
        panel = Panel(sheet)
        places, widths = np.arange(len(names)), np.array([values, spreads], float)
        panel.barh(places, widths[0], height=0.65, color=SERIES[0])
        panel.hlines(places, widths[0] - widths[1], widths[0] + widths[1], color=INK, linewidth=1.2)
        panel.scales["y"].name(places.tolist(), [shown(name) for name in names])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.axvline(0, color=MUTED, linewidth=0.9)
        panel.set_xlabel(x_label)
    return sheet


def align(figures: Sequence[Figure]) -> None:
    """Give figures that stand side by side the same axis of values."""
    every = [axes for figure in figures for axes in figure.axes]
    ends = [end for axes in every for end in axes.get_ylim()]
    for axes in every:
        axes.set_ylim(min(ends), max(ends))


def name_layers(sheet: Sheet, panel: Panel, layers: Sequence[str]) -> None:
    """Label the places of an axis with the layers' names, as many as there is room for."""
    names, step = [shown(name) for name in layers], -(-len(layers) // (2 * _NAMED_LAYERS))
    scale = panel.scales["x"]
    longest = max(width_of(name, scale.size) for name in names[::step])
    turned = (longest + _BETWEEN) * len(names[::step]) > sheet.get_figwidth() - 1
    if turned:
        _make_higher(sheet, longest * 0.7)
    scale.name(range(0, len(layers), step), names[::step], 45 if turned else 0)


def add_legend(sheet: Sheet, entries: Sequence[Entry]) -> None:
    """Name the lines above the axes, where they cover nothing; one line needs no name."""
    if len(entries) < 2:
        return
    width, left = sheet.get_figwidth(), 0.0
    for entry in entries:
        needed = width_of_entry(entry.name)
        if needed > left:
            sheet.entries.append([])
            left = width
        sheet.entries[-1].append(entry)
        left -= needed
    _make_higher(sheet, height_of_legend(len(sheet.entries) - 1))


def entry_of(line: Series, place: int) -> Entry:
    """Return the entry of a line, the so manieth, in a legend."""
    return Entry(shown(line.name), _color_of(line, place), DASHES[line.dash % len(DASHES)])


def _color_of(line: Series, place: int) -> str:
    return SERIES[(place if line.color is None else line.color) % len(SERIES)]


def make_logarithmic(panel: Panel) -> None:
    """Give the axis of values a logarithmic scale, if there is a value for it."""
    if np.isfinite(panel.dataLim.minposy):
        panel.set_yscale("log")
        panel.scales["y"].kind = "log"


def _make_higher(sheet: Sheet, inches: float) -> None:
    sheet.set_figheight(sheet.get_figheight() + inches)


def _draw_all(panel: Panel, series: Sequence[Series], *, log: bool, percent: bool) -> None:
    for place, line in enumerate(series):
        _draw(panel, line, _color_of(line, place), log=log)
    if log:
        make_logarithmic(panel)
    if percent:
        panel.scales["y"].kind = "percent"
        panel.set_ylim(bottom=0, top=max(1.05 * panel.get_ylim()[1], _LEAST_SHARE))


def _draw(panel: Panel, line: Series, color: str, *, log: bool) -> None:
    x, y = np.asarray(line.x, float), _drawable(line.y, log=log)
    style: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(x) <= _MARKED else {}
    panel.plot(x, y, color=color, linestyle=DASHES[line.dash % len(DASHES)], **style)
    if line.low is not None and line.high is not None:
        low, high = np.asarray(line.low, float), _drawable(line.high, log=log)
        if log:
            low = np.maximum(low, y / 10)  # a band that reaches below 0 has no end there
        panel.fill_between(x, low, high, color=color, alpha=_BAND, linewidth=0)


def _drawable(values: Numbers, *, log: bool) -> NDArray[np.float64]:
    numbers = np.asarray(values, float)  # None is NaN
    return np.where(np.isfinite(numbers) & ((numbers > 0) | (not log)), numbers, np.nan)
