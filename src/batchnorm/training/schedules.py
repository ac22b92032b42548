"""The learning rate as a function of the step: no state, so a resumed run needs none."""

import math

from batchnorm.config import Schedule

_WARM_UP = 0.3  # share of the steps in which the one-cycle schedule rises
_START = 1 / 25  # where it starts, as a share of the peak


def learning_rate(schedule: Schedule, peak: float, step: int, n_steps: int) -> float:
    """Return the learning rate of one step.

    With t = step / n_steps, which stays below 1::

        constant    peak
        cosine      peak · (1 + cos πt) / 2
        one-cycle   from peak / 25 up to the peak while t < 0.3, linearly, then down to 0 along a cosine

    Parameters
    ----------
    schedule : {"constant", "one-cycle", "cosine"}
    peak : float
    step : int
        From 0.
    n_steps : int
        Of the whole run.

    References
    ----------
    L. N. Smith and N. Topin, "Super-Convergence", 2017, arXiv:1708.07120 (one-cycle).
    I. Loshchilov and F. Hutter, "SGDR", 2016, arXiv:1608.03983, section 3 (cosine).

    Examples
    --------
    >>> [round(learning_rate("one-cycle", 1.0, step, 10), 2) for step in range(10)]
    [0.04, 0.36, 0.68, 1.0, 0.95, 0.81, 0.61, 0.39, 0.19, 0.05]
    """
    if schedule == "constant":
        return peak
    t = step / n_steps
    if schedule == "cosine":
        return peak * _cosine(t)
    if t < _WARM_UP:
        return peak * (_START + (1 - _START) * t / _WARM_UP)
    return peak * _cosine((t - _WARM_UP) / (1 - _WARM_UP))


def _cosine(t: float) -> float:
    """Go from 1 at t = 0 to 0 at t = 1."""
    return (1 + math.cos(math.pi * t)) / 2
