"""One style for all figures: colours that differ for colour-blind eyes too (after Okabe and Ito), in light and dark."""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, FuncFormatter, Locator, MaxNLocator

from batchnorm.figures.silence import silent
from batchnorm.printing import printable

# By colour the variable of the page that it becomes; each is drawn with nothing else.
VARIABLES = {
    "#1c2126": "--ink",
    "#59636e": "--muted",
    "#d5dbe1": "--grid",
    "#ffffff": "--page",
    "#0072b2": "--series-1",
    "#c44e00": "--series-2",
    "#00805d": "--series-3",
    "#a8487f": "--series-4",
    "#9a6b00": "--series-5",
    "#2a86bd": "--series-6",
    "#444b53": "--series-7",
    "#7a7414": "--series-8",
}
INK, MUTED, GRID, PAGE, *SERIES = VARIABLES
DASHES: tuple[Any, ...] = ("solid", (0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_PANEL = (5.0, 3.3)  # inches: readable on a phone without scrolling
_WIDE = 9.2
_FEW = 30.0  # the greatest value of a logarithmic axis by the least, with labels between the powers of ten
_LETTER = 0.0088  # inches by point of a font's size: few letters are wider
_WIDER = 2.0  # letters that a letter is wide that East Asia writes
_NARROW = frozenset(".·⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LABEL = 0.35  # inches of an axis' label
_DIGITS = 7  # of a number of an axis, and what is between them
_MARKS = 6  # of an axis, and one more
_MOST = 0.7  # of a figure, that is left for labels
_LONGEST = 24  # letters of a name in a figure
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "image.composite_image": False,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.8,
    "path.simplify": True,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "batchnorm",
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False,
    "xtick.bottom": False,  # grid lines tell where; each mark takes time
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.left": False,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


_is_set = ContextVar("_is_set", default=False)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of ours in the block, whatever the user has set; in blocks inside of it that costs nothing."""
    if _is_set.get():
        yield
        return
    token = _is_set.set(True)
    try:
        with silent(), matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(_STYLE)
            yield
    finally:
        _is_set.reset(token)


def new_figure(*, wide: bool = False, height: float = _PANEL[1]) -> Figure:
    """Return an empty figure, to be used while the style is set; a wide one scrolls on a phone."""
    return Figure(figsize=(_WIDE if wide else _PANEL[0], height))


def add_axes(figure: Figure, place: int = 1, of: int = 1) -> Axes:
    """Add axes with few marks, each of which takes time, to others beside them."""
    axes = figure.add_subplot(1, of, place)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(_MARKS))
        axis.set_major_formatter(Numbers())
    return axes


def leave_room(figure: Figure, *, left: float = 0.0, bottom: float = 0.55, top: float = 0.0) -> None:
    """Leave inches around the axes for their labels: matplotlib's layouts measure each of them twice, and take long.

    On the left there is room for numbers and a label at least.
    """
    width, height = figure.get_size_inches()
    edge = 0.12
    left = max(left, *map(_room_beside, figure.axes))
    figure.subplots_adjust(
        left=min(left / width, _MOST),
        right=1 - 2 * edge / width,
        bottom=min(bottom / height, _MOST),
        top=max(1 - (top + edge) / height, min(bottom / height, _MOST) + 0.1),
        wspace=0.1,
    )
    for place, axes in enumerate(figure.axes):
        box = axes.get_position()
        axes.yaxis.set_label_coords(0.2 / width, box.y0 + box.height / 2, figure.transFigure)
        is_last = place == len(figure.axes) - 1
        end = 1.0 if is_last else (box.x1 + figure.axes[place + 1].get_position().x0) / 2
        _mark(axes, box.width * width, (end - box.x1) * width)


def _mark(axes: Axes, inches: float, beside: float) -> None:
    """Mark an axis below the axes, so wide, with as many labels as there is room for, and for what is beside."""
    locator = axes.xaxis.get_major_locator()
    if not isinstance(locator, MaxNLocator):  # names, or powers of ten
        return
    low, high = axes.get_xlim()
    best: list[tuple[float, str]] = []
    for n in range(_MARKS, 1, -1):
        locator.set_params(nbins=n)
        inside = []
        for mark, label in _labelled(locator, axes.xaxis.get_major_formatter(), (low, high)):
            place = (mark - low) / (high - low) * inches
            if room_for([label]) / 2 <= min(place, inches - place) + beside:
                inside.append((mark, label))
        for some in (inside, inside[1::2], inside[::2]):
            apart = (some[1][0] - some[0][0]) / (high - low) * inches if len(some) > 1 else inches
            if len(some) > len(best) and room_for([label for _, label in some]) <= apart:
                best = some
    axes.set_xticks([mark for mark, _ in best], [label for _, label in best])
    axes.set_xlim(low, high)


def _labelled(locator: Locator, formatter: Formatter, ends: tuple[float, float]) -> list[tuple[float, str]]:
    """Return the marks of an axis between its ends, with their labels."""
    low, high = min(ends), max(ends)
    marks = [mark for mark in locator.tick_values(low, high) if low <= mark <= high]
    return list(zip(marks, formatter.format_ticks(marks), strict=True))


def _room_beside(axes: Axes) -> float:
    """Return the inches that the labels of the axis of values take."""
    axis, ends = axes.yaxis, axes.get_ylim()
    major = _labelled(axis.get_major_locator(), axis.get_major_formatter(), ends)
    minor = _labelled(axis.get_minor_locator(), axis.get_minor_formatter(), ends)
    return room_for([label for _, label in (*major, *minor)]) + _LABEL


def room_for(names: Sequence[str], size: float = 11) -> float:
    """Return the inches that the longest of some names takes."""
    return max(map(n_letters, names), default=0) * _LETTER * size + 0.1


def n_letters(text: str) -> float:
    """Return the width of a text in usual letters: those of Chinese, Japanese and Korean are wider."""
    wider = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    narrower = sum(letter in _NARROW for letter in text)
    return len(text) + wider * (_WIDER - 1) - narrower * 0.4


def shown(name: object) -> str:
    """Return a name as it stands in a figure: on one line, and not too long."""
    text = printable(name)
    if n_letters(text) <= _LONGEST:
        return text
    while n_letters(text) > _LONGEST - 1:
        text = text[:-1]
    return f"{text}…"


class Numbers(Formatter):
    """The numbers of an axis: each says all of its value, in decimals or, where these are long, by a power of ten."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """Return them, all alike."""
        decimals = [f"{value:.10g}" for value in values]
        texts, largest = decimals, max(map(abs, values), default=0.0)
        if any("e" in text or len(text) > _DIGITS for text in decimals) and largest > 0:
            exponent = math.floor(math.log10(largest))
            power = str(exponent).translate(_SUPERSCRIPTS)
            powers = [f"{value / 10.0**exponent:.6g}·10{power}" if value else "0" for value in values]
            is_shorter = max(map(len, powers)) < max(map(len, decimals))
            texts = powers if is_shorter or any("e" in text for text in decimals) else decimals
        return [text.replace("-", "−") for text in texts]

    def __call__(self, value: float, pos: int | None = None) -> str:
        """Return one alone."""
        return self.format_ticks([value])[0]


def power_of_ten(value: float, _: object = None) -> str:
    """Return a number of a logarithmic axis; nothing between powers of ten."""
    exponent = math.log10(value) if value > 0 else math.nan
    if not math.isclose(exponent, round(exponent), abs_tol=1e-6):
        return ""
    return f"{value:g}" if -3 < exponent < 4 else f"10{str(round(exponent)).translate(_SUPERSCRIPTS)}"


def make_logarithmic(axes: Axes) -> None:
    """Give the axis of values a logarithmic scale, labelled at powers of ten, if there is a value for it."""
    if not math.isfinite(axes.dataLim.minposy):
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    axes.tick_params(axis="y", which="minor", left=True)
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_formatter(FuncFormatter(_between_powers if high / low < _FEW else lambda *_: ""))


def _between_powers(value: float, _: object) -> str:
    """Return 2 and 5 times a power of ten, where few of these themselves are on the axis."""
    exponent = math.floor(math.log10(value))
    digit = value / 10.0**exponent
    if not (math.isclose(digit, 2, rel_tol=1e-6) or math.isclose(digit, 5, rel_tol=1e-6)):
        return ""
    return f"{value:g}" if -3 < exponent < 4 else f"{digit:.0f}·{power_of_ten(10.0**exponent)}"


def whole_numbers(axes: Axes) -> None:
    """Have an axis of epochs and the like show whole numbers alone."""
    first, last = axes.dataLim.intervalx
    if first == last:  # nothing is left and right of a single one
        axes.set_xticks([first], [f"{first:g}"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(_MARKS, integer=True))
