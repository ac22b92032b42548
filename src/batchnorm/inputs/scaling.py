"""What columns are brought to a common scale with, in spite of outlying cells.

A column is centred at its median and divided by its deviation, that of a normal distribution with the same quartiles:
what stands in less than a quarter of the rows does not move it. What is far out is then drawn in, smoothly, towards
`BOUND` (`batchnorm.data.Table`). A sparse table keeps its zeros, so nothing is subtracted, and the relative scale of
its columns, so all are divided by one number.
"""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from batchnorm.data import Table, dense, row_blocks
from batchnorm.functional import Moments, batch_moments, merge_moments

BOUND = 5.0  # deviations from the median that no scaled cell passes
SAMPLE = 20_000  # rows that quantiles are taken of: of more, so many are drawn
MEMORY = 1000.0  # rows that a stream's moments remember

_QUARTILES = (0.25, 0.5, 0.75)
NORMAL_RANGE = 1.3489795003921634  # between the quartiles of the standard normal
_ROUNDING = 100 * np.finfo(np.float64).eps  # of a mean over millions, relative to it
_LARGEST = 1e150  # deviation: its square is finite
_FEW = 20  # rows, of which quartiles say little
_FAR = 10.0  # deviations, beyond which a cell of a few rows moves their moments no further


def robust_moments(cells: Any, weights: NDArray[np.float64] | None) -> Moments:
    """Return as mean the median of a table's columns, and as variance the square of their robust deviation, in float64.

    Where the quartiles are one number, as in a column that is mostly zero, the deviation is the median distance of all
    other cells from it.

    Parameters
    ----------
    cells : numpy array or scipy CSR array, shape (examples, columns)
    weights : array, shape (examples,), optional
        How often each example counts; 0 for one that does not.
    """
    rows = np.arange(cells.shape[0]) if weights is None else np.flatnonzero(weights)
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))
    counts = None if weights is None else weights[rows]
    n = float(len(rows) if counts is None else counts.sum())
    whole = len(rows) == cells.shape[0]
    if sparse.issparse(cells):
        return _sparse_moments(cells if whole else cells[rows], counts, n)
    taken = np.asarray(cells) if whole else np.asarray(cells[rows])
    center, deviation = np.empty(taken.shape[1]), np.empty(taken.shape[1])
    for columns in row_blocks(taken.shape[1], len(taken)):
        block = np.array(taken[:, columns].T, dtype=np.float64, order="C")
        center[columns], deviation[columns] = _robust(block, counts)
    return _moments(n, center, deviation)


def _robust(columns: NDArray[np.float64], counts: NDArray[np.float64] | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return center and deviation of each row of `columns` (columns, examples)."""
    low, center, high = quantiles(columns, counts, _QUARTILES)
    deviation = (high / NORMAL_RANGE) - (low / NORMAL_RANGE)  # divided first: their difference may overflow
    for i in np.flatnonzero(deviation == 0):
        other = columns[i] != center[i]
        if other.any():
            distances = np.abs(columns[i][other] / 2 - center[i] / 2)[None]
            deviation[i] = 2 * quantiles(distances, None if counts is None else counts[other], (0.5,))[0, 0]
    return center, deviation


def quantiles(
    columns: NDArray[np.float64], counts: NDArray[np.float64] | None, shares: tuple[float, ...]
) -> NDArray[np.float64]:
    """Return the smallest value up to which that share of the examples lies, for each share and row of `columns`.

    That is an example's value, the same whether one counts twice or stands there twice.
    """
    n = columns.shape[1]
    if counts is None:
        places = [math.ceil(share * n) - 1 for share in shares]
        return np.partition(columns, places, axis=1)[:, places].T
    order = np.argsort(columns, axis=1)
    sums = counts[order].cumsum(1)
    result = np.empty((len(shares), len(columns)))
    for i, share in enumerate(shares):  # with equality in spite of rounding
        place = (sums >= share * sums[:, -1:] * (1 - 1e-12)).argmax(1)
        result[i] = np.take_along_axis(columns, np.take_along_axis(order, place[:, None], 1), 1)[:, 0]
    return result


def _sparse_moments(cells: Any, counts: NDArray[np.float64] | None, n: float) -> Moments:
    """Return no mean, and for every column one deviation: the median size of what is not zero."""
    if not cells.has_canonical_format:  # a cell may stand there in parts
        cells = cells.copy()
        cells.sum_duplicates()
    sizes = np.abs(np.asarray(cells.data, dtype=np.float64))[None]
    of = None if counts is None else np.repeat(counts, np.diff(cells.indptr))
    stored = sizes[0] > 0
    sizes, of = sizes[:, stored], None if of is None else of[stored]
    deviation = quantiles(sizes, of, (0.5,))[0, 0] if sizes.size else 0.0
    return _moments(n, np.zeros(cells.shape[1]), np.full(cells.shape[1], deviation))


def _moments(n: float, center: NDArray[np.float64], deviation: NDArray[np.float64]) -> Moments:
    return Moments(n, torch.from_numpy(center), torch.from_numpy(np.minimum(deviation, _LARGEST)).square())


def table_moments(cells: Any, weights: NDArray[np.float64] | None) -> Moments:
    """Return mean and variance of a table's columns, in float64, read some megabytes at a time.

    Parameters
    ----------
    cells : numpy array or scipy CSR array, shape (examples, columns)
    weights : array, shape (examples,), optional
        How often each example counts; 0 for one that does not.
    """
    total: Moments | None = None
    for rows in row_blocks(*cells.shape):
        counts = None if weights is None else torch.from_numpy(weights[rows])
        if counts is not None and not counts.any():
            continue
        # Writable, as torch warns of what it could write to but must not; nothing does write to it.
        block = torch.from_numpy(np.require(dense(cells[rows]), np.float64, "W"))
        seen = batch_moments(block) if counts is None else _weighted_moments(block, counts)
        total = seen if total is None else merge_moments(total, seen)
    assert total is not None  # there are examples that count
    return total


def _weighted_moments(block: Tensor, counts: Tensor) -> Moments:
    """Return `batch_moments(block, counts)`, to the bit, in one array of the block's size where that takes three."""
    n, counts = counts.sum().item(), counts[:, None]
    products = counts * block  # (rows, columns)
    mean = products.sum(0) / n
    torch.sub(block, mean, out=products).square_().mul_(counts)
    return Moments(n, mean, products.sum(0) / n)


def moments_with(known: Moments, cells: Any, weights: NDArray[np.float64] | None) -> Moments:
    """Return the moments of a stream's columns, robust ones, after it has brought `cells`; see `followed`.

    The quartiles of a few more rows say little: theirs are plain moments, of cells drawn to at most `_FAR` known
    deviations. A sparse stream keeps the scale of what it began with.
    """
    if known.n and sparse.issparse(cells):
        return known
    if not known.n or cells.shape[0] >= _FEW:
        return followed(known, robust_moments(cells, weights))
    if known.n >= _FEW:
        deviation, constant = deviations(known)
        reach = torch.where(constant, math.inf, _FAR * deviation)
        cells = np.clip(np.asarray(cells, np.float64), (known.mean - reach).numpy(), (known.mean + reach).numpy())
    return followed(known, table_moments(cells, weights))


def followed(known: Moments, seen: Moments) -> Moments:
    """Return a stream's moments after it has brought more: those of the last `MEMORY` rows weigh most."""
    if known.n == 0 or seen.n == 0:
        return seen if known.n == 0 else known
    return merge_moments(known._replace(n=min(known.n, MEMORY)), seen)


def deviations(moments: Moments) -> tuple[Tensor, Tensor]:
    """Return the columns' standard deviations, and which of them are no more than the rounding errors of the mean."""
    deviation = moments.var.sqrt()
    return deviation, deviation <= _ROUNDING * moments.mean.abs()


def deviation_of(moments: Moments) -> Tensor:
    """Return what columns are divided by: their standard deviation, or 1 for those that are constant."""
    deviation, constant = deviations(moments)
    return deviation.masked_fill_(constant, 1.0)


def scale_of(moments: Moments) -> Tensor:
    """Return what standardised values are multiplied by: their standard deviation, or 0 for constant ones."""
    deviation, constant = deviations(moments)
    return deviation.masked_fill_(constant, 0.0)


def unscaled(n_columns: int) -> Moments:
    """Return the moments of no rows, which leave a table as it is."""
    zeros = torch.zeros(n_columns, dtype=torch.float64, device="cpu")  # whatever the default device is
    return Moments(0, zeros, torch.ones_like(zeros))


def standardizer(cells: Any, moments: Moments, bound: float | None = None) -> Table:
    """Return a table whose columns are standardised with these moments as it is read."""
    return Table(cells, moments.mean.numpy(), deviation_of(moments).numpy(), bound)
