"""What is kept of many numbers: a histogram and a few figures, as JSON knows them."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

N_BINS = 40
_FINE = 100  # finer bins in each of them, out of which the quantiles are read
_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FIVE = np.array([0, 0.25, 0.5, 0.75, 1])
_MOST = 2**22  # numbers that are counted; of more, every second, third, …
_DIGITS = 6


def distribution(values: Tensor) -> dict[str, Any]:
    """Return how numbers are distributed, those that are NaN or infinite left out.

    Parameters
    ----------
    values : Tensor
        Floating point, any shape and device.

    Returns
    -------
    dict
        "low" and "high", between which there are 40 equal bins; "counts" of the numbers in each; "mean" and "sd" of
        all, None if any is NaN or infinite; "quantiles", the five at 0.05, 0.25, 0.5, 0.75 and 0.95, to a four
        thousandth of the range. Where all are equal, the bins reach from half below to half above.
    """
    x = values.detach().flatten()
    x = x[:: max(1, math.ceil(len(x) / _MOST))].cpu()  # where counting is the same each time
    x = x if x.dtype == torch.float64 else x.float()
    finite, (low, high) = x, _ends(x)
    if not (math.isfinite(low) and math.isfinite(high)):
        finite = x[x.isfinite()]
        low, high = _ends(finite)
    if not len(finite):
        return {"low": None, "high": None, "counts": [0] * N_BINS, "mean": None, "sd": None, "quantiles": [None] * 5}
    # In shares of the largest: its square, or the range, might be more, or less, than the type holds.
    unit = max(abs(low), abs(high)) or 1.0
    shares = finite / unit
    is_whole = finite is x
    mean = shares.mean()
    deviations = shares - mean  # torch.var takes three times as long
    var = torch.dot(deviations, deviations) / len(shares)
    counts, low, high = _counted(shares, low / unit, high / unit, unit)
    return {
        "low": rounded(low),
        "high": rounded(high),
        "counts": [int(n) for n in counts.reshape(N_BINS, _FINE).sum(1)],
        "mean": rounded(float(mean) * unit) if is_whole else None,
        "sd": rounded(float(var) ** 0.5 * unit) if is_whole else None,
        "quantiles": [rounded(q) for q in _read_off(counts, low, high)],
    }


def spread(values: Tensor) -> list[float | None]:
    """Return minimum, lower quartile, median, upper quartile and maximum, those that are NaN or infinite left out."""
    numbers = values.detach().double().flatten().cpu().numpy()
    finite = np.sort(numbers[np.isfinite(numbers)])
    if not len(finite):
        return [None] * 5
    # As np.quantile, which takes ten times as long for so few.
    return [rounded(float(q)) for q in np.interp(_FIVE * (len(finite) - 1), np.arange(len(finite)), finite)]


def norm(values: Tensor) -> float | None:
    """Return the root of the sum of squares; None if it is NaN or infinite."""
    x = values.detach()
    return rounded(float(torch.linalg.vector_norm(x if x.dtype == torch.float64 else x.float())))


def rounded(number: float) -> float | None:
    """Return a number to as many digits as are worth keeping; None for one that JSON does not know."""
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None


def _ends(x: Tensor) -> tuple[float, float]:
    if not len(x):
        return math.nan, math.nan
    low, high = torch.aminmax(x)
    return float(low), float(high)


def _counted(shares: Tensor, low: float, high: float, unit: float) -> tuple[NDArray[np.float64], float, float]:
    """Return the counts in fine bins, and the ends of these in the unit of the numbers."""
    n = N_BINS * _FINE
    if low == high:
        counts = np.zeros(n)
        counts[n // 2] = len(shares)
        return counts, low * unit - 0.5, low * unit + 0.5
    # torch.histc takes five times as long.
    places = shares.sub(low).div_(high - low).mul_(n).int().clamp_(0, n - 1)
    return torch.bincount(places, minlength=n).double().numpy(), low * unit, high * unit


def _read_off(counts: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Return quantiles, as if the numbers of a bin were spread over it evenly."""
    below = np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum()
    edges = np.linspace(low, high, len(counts) + 1)
    return np.interp(_QUANTILES, below, edges)
