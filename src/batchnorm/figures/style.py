"""One style for all figures: colours that differ for colour-blind eyes too (after Okabe and Ito), in light and dark."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib

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
_LONGEST = 24  # characters of a name in a figure
_STYLE: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "image.composite_image": False,
    "lines.linewidth": 1.8,
    "path.simplify": True,
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "batchnorm",
    "text.color": INK,
    "text.parse_math": False,  # a $ in a name is a $
    "text.usetex": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of ours in the block, whatever the user has set."""
    with silent(), matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def shown(name: object) -> str:
    """Return a name as it stands in a figure: on one line, and not too long."""
    text = printable(name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
