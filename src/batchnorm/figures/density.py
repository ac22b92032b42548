"""Many numbers as one small picture, whose one colour shows on light and on dark ground."""

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

_RIGHT, _WRONG = "#2a86bd", "#e0651a"  # a picture cannot change with the page


def tinted(opacity: NDArray[np.float64], color: str = _RIGHT) -> NDArray[np.uint8]:
    """Return a picture (rows, columns, 4) of one colour, more or less of it."""
    picture = np.zeros((*opacity.shape, 4))
    picture[..., :3] = to_rgb(color)
    picture[..., 3] = opacity
    return np.asarray((picture * 255).round(), np.uint8)


def tinted_matrix(right: NDArray[np.float64], wrong: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a picture of a square matrix whose diagonal has one colour, and the rest another."""
    picture = tinted(wrong, _WRONG)
    diagonal = np.arange(len(right))
    picture[diagonal, diagonal] = tinted(right[:, None], _RIGHT)[:, 0]
    return picture
