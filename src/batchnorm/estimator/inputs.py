"""What comes in: tables, their moments, and examples as a training step reads them."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.data import Examples, ExamplesLike, StreamedExamples, Table, dense, row_blocks
from batchnorm.evaluation import BLOCK_SIZE
from batchnorm.functional import Moments, batch_moments, merge_moments

COPIED_BYTES = 2**30  # a larger table stays where it is, and is standardised batch by batch
_ROUNDING = 100 * np.finfo(np.float64).eps  # of a mean over millions, relative to it


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


def merged(a: Moments, b: Moments) -> Moments:
    """Return the moments of two tables together; those of none at all change nothing."""
    return b if a.n == 0 else a if b.n == 0 else merge_moments(a, b)


def is_constant(moments: Moments) -> Tensor:
    """Tell which columns vary by no more than the rounding errors of their mean."""
    return moments.var.sqrt() <= _ROUNDING * moments.mean.abs()


def deviation_of(moments: Moments) -> Tensor:
    """Return what columns are divided by: their standard deviation, or 1 for those that are constant."""
    return torch.where(is_constant(moments), 1.0, moments.var.sqrt())


def scale_of(moments: Moments) -> Tensor:
    """Return what standardised values are multiplied by: their standard deviation, or 0 for constant ones."""
    return torch.where(is_constant(moments), 0.0, moments.var.sqrt())


def unscaled(n_columns: int) -> Moments:
    """Return the moments of no rows, which leave a table as it is."""
    return Moments(0, torch.zeros(n_columns, dtype=torch.float64), torch.ones(n_columns, dtype=torch.float64))


def standardizer(cells: Any, moments: Moments) -> Table:
    """Return a table whose columns are standardised with these moments as it is read."""
    return Table(cells, moments.mean.numpy(), deviation_of(moments).numpy())


def network_dtype(cells: Any) -> torch.dtype:
    """Return the precision that a table is trained in: float64 for float64 or more, else float32."""
    return torch.float64 if cells.dtype.kind == "f" and cells.dtype.itemsize >= 8 else torch.float32


def standardized(values: NDArray[np.float64], moments: Moments) -> Tensor:
    """Return standardised values (examples, outputs), in float64."""
    return torch.from_numpy(standardizer(values, moments).read(slice(None), np.empty(values.shape)))


def make_examples(
    table: Table, labels: Tensor, weights: NDArray[np.float64] | None, dtype: torch.dtype, device: torch.device
) -> ExamplesLike:
    """Return what an engine trains on: a standardised copy of the table, or the table itself if it is large."""
    counts = None if weights is None else torch.from_numpy(weights).to(device)
    labels = labels.to(device)
    if math.prod(table.cells.shape) * dtype.itemsize > COPIED_BYTES:
        return StreamedExamples(table, labels, counts)
    copy = torch.empty(table.cells.shape, dtype=dtype)
    for rows in row_blocks(*table.cells.shape):
        table.read(rows, copy[rows].numpy())
    return Examples(copy.to(device), labels, weights=counts)


class Rows:
    """Some of the examples, in blocks, as often as one likes.

    Parameters
    ----------
    examples : ExamplesLike
    rows : array, shape (rows,)
    dtype : torch.dtype
        Of the inputs.
    """

    def __init__(self, examples: ExamplesLike, rows: NDArray[np.int64], dtype: torch.dtype):
        self.examples, self.dtype = examples, dtype
        self.rows = torch.from_numpy(rows).to(examples.labels.device)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield inputs (block, features), labels and weights (block,)."""
        for block in row_blocks(len(self.rows), self.examples.n_features, most=BLOCK_SIZE):
            rows = self.rows[block]
            weights = None if self.examples.weights is None else self.examples.weights[rows]
            yield *self.examples.batch(rows, self.dtype), weights
