"""Examples as a training step reads them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.data import Examples, ExamplesLike, StreamedExamples, Table, row_blocks
from batchnorm.evaluation import BLOCK_SIZE
from batchnorm.functional import Moments
from batchnorm.inputs.scaling import standardizer

COPIED_BYTES = 2**30  # a larger table stays where it is, and is standardised batch by batch


def network_dtype(cells: Any) -> torch.dtype:
    """Return the precision that a table is trained in: float64 for float64 or more, else float32."""
    return torch.float64 if cells.dtype.kind == "f" and cells.dtype.itemsize >= 8 else torch.float32


def values_dtype(cells: Any, trained: torch.dtype) -> torch.dtype:
    """Return the precision of predicted values: float32 if the table has no more and was trained in no more.

    Whole numbers are predicted for in float64, as by scikit-learn's: a date in seconds has more digits than float32.
    """
    is_float32 = cells.dtype.kind == "f" and network_dtype(cells) == torch.float32
    return torch.float32 if is_float32 and trained == torch.float32 else torch.float64


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


def without_weights(examples: ExamplesLike) -> ExamplesLike:
    """Return the same examples, each of which counts once."""
    assert isinstance(examples, Examples | StreamedExamples)
    return replace(examples, weights=None)


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
