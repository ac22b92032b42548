"""Figures, from plain numbers to one style that everyone can tell apart, as part of a page or as files.

Nothing of matplotlib's that a user has set is used or changed.
"""

from batchnorm.errors import importing
from batchnorm.figures.silence import silent

with importing("report", "figures need matplotlib"), silent():
    from batchnorm.figures.confusion import draw_confusion
    from batchnorm.figures.distributions import Distribution, draw_boxes, draw_ridges
    from batchnorm.figures.lines import Series, align, draw_bars, draw_layers, draw_lines
    from batchnorm.figures.points import draw_points
    from batchnorm.figures.style import styled
    from batchnorm.figures.svg import inline_svg, save_figure

__all__ = [
    "Distribution",
    "Series",
    "align",
    "draw_bars",
    "draw_boxes",
    "draw_confusion",
    "draw_layers",
    "draw_lines",
    "draw_points",
    "draw_ridges",
    "inline_svg",
    "save_figure",
    "styled",
]
