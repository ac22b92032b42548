"""A pair of axes with its labels, and how the panels and the legend of a figure share its area.

A page has a dozen figures, most of whose time matplotlib's own marks and its constrained layout would take: a mark is
five artists, and each of them is measured twice. Here a label is one text, the whole grid one line, and what stands
beside a panel is measured once, by the metrics of the font.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import text_to_path

from batchnorm.figures.marks import Mark, marks_between
from batchnorm.figures.style import GRID, INK, MUTED

_GAP, _EDGE = 0.07, 0.06  # inches: between labels and what they name, and around everything
_LINE = 1.35  # of a font's size: what a line of text takes
_HANDLE, _BETWEEN = 0.26, 0.2  # inches of a legend's sample, and between its entries
BAR = 0.55  # opacity of a bar that stands beside others
_TITLE = 11.0  # points
_LABEL, _LEGEND = 11.0, 10.0
_PLAIN = FontProperties(family="DejaVu Sans", size=10)
_WIDTH, _WIDE, _HEIGHT = 5.0, 9.2, 3.3  # inches: the narrow ones are readable on a phone without scrolling
_SMALL = 0.03  # inches of a small mark
_SLOPE = math.sqrt(0.5)  # of what is turned by 45 degrees
_LEAST = 0.5  # inches that are left of a panel, however long the names


@dataclass
class Scale:
    """How an axis of a panel is labelled.

    Parameters
    ----------
    kind : {"linear", "whole", "percent", "log"}
    places, names : sequence, optional
        Labels that are given; otherwise they are chosen.
    rotation : {0, 45, 90}
    has_grid : bool
    size : float
        Of the labels, in points.
    """

    kind: Literal["linear", "whole", "percent", "log"] = "linear"
    places: Sequence[float] | None = None
    names: Sequence[str] = ()
    rotation: int = 0
    has_grid: bool = True
    size: float = _LABEL

    def name(self, places: Sequence[float], names: Sequence[str], rotation: int = 0) -> None:
        """Give it labels."""
        self.places, self.names, self.rotation, self.has_grid = places, names, rotation, False

    def marks(self, ends: tuple[float, float], room: float) -> list[Mark]:
        """Return the marks of an axis between two ends, which has room for so many."""
        if self.places is None:
            return marks_between(self.kind, ends, max(2, int(room)))
        return [Mark(place, name) for place, name in zip(self.places, self.names, strict=True)]


class Panel(Axes):
    """Axes whose marks, labels and title are drawn by the layout of their figure.

    Parameters
    ----------
    figure : Figure
    title : str, default ""
    is_square : bool, default False
        Whether both directions have the same unit.
    """

    def __init__(self, figure: Figure, *, title: str = "", is_square: bool = False):
        self.heading, self.is_square = title, is_square
        self.scales = {"x": Scale(), "y": Scale()}
        super().__init__(figure, (0.1, 0.1, 0.8, 0.8))
        self.set_axis_off()
        figure.add_axes(self)

    def grid(self, *arguments: Any, **options: Any) -> None:
        """Make no marks, which setting the axes up would."""


@dataclass
class Entry:
    """A name in a legend, and how its line, or its bar, looks."""

    name: str
    color: str
    dash: Any = "solid"
    is_bar: bool = False


class Sheet(Figure):
    """A figure that lays itself out each time it is drawn: its panels side by side, below the names of their lines."""

    def __init__(self, width: float, height: float):
        super().__init__(figsize=(width, height), layout=None)
        self.entries: list[list[Entry]] = []  # lines of the legend
        self._surroundings: list[Artist] = []

    def draw(self, renderer: Any) -> None:
        """Draw it, with panels, legend and labels where there is room for them."""
        while self._surroundings:  # those drawn before: limits may have changed
            self._surroundings.pop().remove()
        panels = [cast(Panel, axes) for axes in self.axes]
        width, height = self.get_size_inches()
        top = height - _EDGE - self._draw_legend()
        titled = any(panel.heading for panel in panels)
        names = [panel.scales["y"].names for panel in panels]
        sides = [max((width_of(name, _LABEL) for name in of), default=0.0) for of in names]
        share, left = (width - sum(sides)) / max(1, len(panels)), 0.0
        for panel, side in zip(panels, sides, strict=True):
            right = left + side + share
            self._surroundings += _Frame(self, panel, left, right, top - titled * _line_of(_TITLE)).artists()
            left = right
        super().draw(renderer)

    def _draw_legend(self) -> float:
        """Return how high it is."""
        width, height = self.get_size_inches()
        for row, entries in enumerate(self.entries):
            x, y = _EDGE, height - _EDGE - (row + 0.5) * _line_of(_LEGEND)
            for entry in entries:
                ends = np.array([x, x + _HANDLE]) / width
                look: dict[str, Any] = {"linestyle": entry.dash}
                if entry.is_bar:
                    look = {"linewidth": 7, "alpha": BAR, "solid_capstyle": "butt"}
                self._surroundings.append(_line(self, ends, [y / height] * 2, color=entry.color, **look))
                at = (x + _HANDLE + _GAP, y)
                self._surroundings.append(_text(self, at, entry.name, fontsize=_LEGEND, va="center_baseline"))
                x += width_of_entry(entry.name)
        return height_of_legend(len(self.entries)) + (0.04 if self.entries else 0.0)


_Segment = tuple[tuple[float, float], tuple[float, float]]  # both x and both y, in inches
_LOOKS: dict[tuple[str, int], dict[str, Any]] = {  # of labels, by axis and rotation
    ("x", 0): {"ha": "center", "va": "top"},
    ("x", 45): {"ha": "right", "va": "top", "rotation": 45, "rotation_mode": "anchor"},
    ("x", 90): {"ha": "center", "va": "top", "rotation": 90},
    ("y", 0): {"ha": "right", "va": "center"},
}


class _Frame:
    """The area of a panel, in inches, and what stands around it."""

    def __init__(self, figure: Figure, panel: Panel, left: float, right: float, top: float):
        self.figure, self.panel, self.start = figure, panel, left
        self.x_label, self.y_label = panel.get_xlabel(), panel.get_ylabel()
        self.ends = {"x": panel.get_xlim(), "y": panel.get_ylim()}
        bottom = _EDGE + bool(self.x_label) * _line_of(_LABEL) + _GAP
        self.marks = {"y": panel.scales["y"].marks(_sorted(self.ends["y"]), (top - bottom) / 0.36)}
        left += _EDGE + bool(self.y_label) * _line_of(_LABEL) + _GAP + self._reach("y")
        self.marks["x"] = panel.scales["x"].marks(_sorted(self.ends["x"]), (right - left) / 0.5)
        left = max(left, self._left_of_slanted(right - _EDGE))
        bottom += self._reach("x")
        right -= _EDGE + self._overhang(right - left)
        self.left, self.right = min(left, right - _LEAST), right
        self.bottom, self.top = min(bottom, top - _LEAST), top
        if panel.is_square:
            side = min(self.right - self.left, self.top - self.bottom)
            self.right, self.bottom = self.left + side, self.top - side
        width, height = figure.get_size_inches()
        panel.set_position(
            (
                self.left / width,
                self.bottom / height,
                (self.right - self.left) / width,
                (self.top - self.bottom) / height,
            )
        )

    def artists(self) -> list[Artist]:
        """Draw the frame, the grid and all texts."""
        drawn = [*self._lines(), *self._labels()]
        middle = (self.left + self.right) / 2, (self.bottom + self.top) / 2
        if self.x_label:
            y = self.bottom - 2 * _GAP - self._reach("x")
            drawn.append(_text(self.figure, (middle[0], y), self.x_label, ha="center", va="top"))
        if self.y_label:
            at = (self.start + _EDGE, middle[1])
            drawn.append(_text(self.figure, at, self.y_label, ha="left", va="center", rotation="vertical"))
        if self.panel.heading:
            drawn.append(_text(self.figure, (self.left, self.top + _GAP), self.panel.heading, va="baseline"))
        return drawn

    def _reach(self, axis: str) -> float:
        """Return how far the labels of an axis reach from it."""
        scale = self.panel.scales[axis]
        names = [mark.name for mark in self.marks[axis] if mark.name]
        if not names:
            return 0.0
        if axis == "x" and not scale.rotation:
            return _line_of(scale.size)
        longest = max(width_of(name, scale.size) for name in names)
        if axis == "y" or scale.rotation == 90:
            return longest
        return (longest + _line_of(scale.size) / 2) * _SLOPE

    def _left_of_slanted(self, right: float) -> float:
        """Return where the panel has to begin so that the first of its turned labels begins on the figure."""
        scale, marks = self.panel.scales["x"], self.marks["x"]
        if scale.rotation != 45 or not marks:
            return 0.0
        reach = (width_of(marks[0].name, scale.size) + _line_of(scale.size) / 2) * _SLOPE
        half = 1 / (2 * len(marks))  # of the panel's width, on which the label ends
        return (self.start + _EDGE + reach - half * right) / (1 - half)

    def _overhang(self, width: float) -> float:
        """Return what the last label reaches beyond the right end."""
        scale, named = self.panel.scales["x"], [mark for mark in self.marks["x"] if mark.name]
        if not named or scale.rotation:
            return 0.04
        low, high = _sorted(self.ends["x"])
        beside = 0.0 if scale.kind == "log" else (high - named[-1].place) / (high - low)
        return max(0.04, width_of(named[-1].name, scale.size) / 2 - beside * width)

    def _at(self, axis: str, marks: Sequence[Mark]) -> list[float]:
        """Return where marks of an axis are on the figure, in inches."""
        if not marks:
            return []
        points = np.full((len(marks), 2), (self.ends["x"][0], self.ends["y"][0]), float)
        points[:, "xy".index(axis)] = [mark.place for mark in marks]
        shares = (self.panel.transScale + self.panel.transLimits).transform(points)[:, "xy".index(axis)]
        low, high = (self.left, self.right) if axis == "x" else (self.bottom, self.top)
        return [low + (high - low) * share for share in shares.tolist()]

    def _lines(self) -> list[Artist]:
        grid = list[_Segment]()
        frame = [((self.left, self.left), (self.bottom, self.top)), ((self.left, self.right), (self.bottom,) * 2)]
        for axis, marks in self.marks.items():
            for place, mark in zip(self._at(axis, marks), marks, strict=True):
                start, end = (self.left, self.right) if axis == "y" else (self.bottom, self.top)
                if mark.is_small:
                    start, end = start - _SMALL, start
                across, along = (start, end), (place, place)
                segment = (across, along) if axis == "y" else (along, across)
                if mark.is_small:
                    frame.append(segment)
                elif self.panel.scales[axis].has_grid:
                    grid.append(segment)
        return [*([self._joined(grid, GRID, 0.7)] if grid else []), self._joined(frame, MUTED, 0.8)]

    def _joined(self, segments: "Sequence[_Segment]", color: str, width: float) -> Artist:
        """Draw lines as one, with gaps."""
        ends = np.array([[*zip(*segment, strict=True), (math.nan, math.nan)] for segment in segments])
        x, y = (ends.reshape(-1, 2) / self.figure.get_size_inches()).T
        return _line(self.figure, x, y, color=color, linewidth=width, zorder=-1)

    def _labels(self) -> Iterator[Artist]:
        for axis, marks in self.marks.items():
            scale, named = self.panel.scales[axis], [mark for mark in marks if mark.name]
            look = _LOOKS[axis, scale.rotation]
            for place, mark in zip(self._at(axis, named), named, strict=True):
                at = (place, self.bottom - _GAP) if axis == "x" else (self.left - _GAP, place)
                yield _text(self.figure, at, mark.name, fontsize=scale.size, **look)


def new_sheet(*, wide: bool = False, height: float = _HEIGHT) -> Sheet:
    """Return an empty figure, to be used while the style is set; a wide one scrolls on a phone."""
    return Sheet(_WIDE if wide else _WIDTH, height)


def width_of(text: str, size: float) -> float:
    """Return how wide a text is, in inches."""
    _PLAIN.set_size(size)
    width, _, _ = text_to_path.get_text_width_height_descent(text, _PLAIN, ismath=False)
    return float(width) / 72


def width_of_entry(name: str) -> float:
    """Return how much of a legend's line an entry takes, in inches."""
    return _HANDLE + _GAP + width_of(name, _LEGEND) + _BETWEEN


def height_of_legend(rows: int) -> float:
    """Return what so many lines of a legend take, in inches."""
    return rows * _line_of(_LEGEND)


def _line_of(size: float) -> float:
    return size / 72 * _LINE


def _sorted(ends: tuple[float, float]) -> tuple[float, float]:
    return min(ends), max(ends)


def _line(figure: Figure, x: Any, y: Any, **look: Any) -> Line2D:
    line = Line2D(x, y, transform=figure.transFigure, **look)
    figure.add_artist(line)
    return line


def _text(figure: Figure, at: tuple[float, float], text: str, **look: Any) -> Artist:
    width, height = figure.get_size_inches()
    return figure.text(at[0] / width, at[1] / height, text, color=INK, **look)
