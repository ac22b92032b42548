"""Points in the plane, such as predicted against true values."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from batchnorm.figures.density import tinted
from batchnorm.figures.style import MUTED, SERIES, add_axes, leave_room, new_figure, styled

_SINGLE = 300  # points that are drawn one by one
_BINS = 60


def draw_points(x: Sequence[float], y: Sequence[float], *, x_label: str, y_label: str) -> Figure:
    """Draw points against the line on which both values are equal; many of them as their density.

    Those with NaN or infinite values are left out.
    """
    both = np.column_stack([np.asarray(x, float), np.asarray(y, float)])
    both = both[np.isfinite(both).all(1)]
    with styled():
        figure = new_figure(height=4.4)
        axes = add_axes(figure)
        if len(both) > _SINGLE:
            low, high = _ends(both[:, 0]), _ends(both[:, 1])
            counts, _, _ = np.histogram2d(both[:, 0], both[:, 1], _BINS, [low, high])
            opacity = np.where(counts > 0, 0.25 + 0.75 * np.sqrt(counts / (counts.max() or 1.0)), 0)
            axes.imshow(tinted(opacity.T[::-1]), extent=(*low, *high), aspect="auto", interpolation="none")
        elif len(both):
            axes.plot(both[:, 0], both[:, 1], "o", color=SERIES[0], alpha=0.5, markersize=4, markeredgewidth=0)
        if len(both):
            ends = _ends(both)
            axes.plot(ends, ends, color=MUTED, linewidth=0.9, linestyle=(0, (2, 3)), scalex=False, scaley=False)
        axes.set(xlabel=x_label, ylabel=y_label)
        leave_room(figure)
    return figure


def _ends(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if low < high else (low - 0.5, high + 0.5)
