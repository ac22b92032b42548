"""Examples as a training step reads them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn

from batchnorm.data import Examples, ExamplesLike, StreamedExamples, Table, row_blocks
from batchnorm.evaluation import BLOCK_SIZE
from batchnorm.functional import Moments
from batchnorm.inputs import standardizer
from batchnorm.network import DenseNetwork

_SIZES = (1e-30, 1e30)  # of targets whose predictions float32 holds with all its digits, far from the mean as well
COPIED_BYTES = 2**30  # a larger table stays where it is, and is standardised batch by batch


def network_dtype(cells: Any) -> torch.dtype:
    """Return the precision that a table is trained in: float64 for float64 or more, else float32."""
    return torch.float64 if cells.dtype.kind == "f" and cells.dtype.itemsize >= 8 else torch.float32


def values_dtype(cells: Any, trained: torch.dtype, targets: Moments) -> torch.dtype:
    """Return the precision of predicted values: float32 if the table has no more and was trained in no more.

    Whole numbers are predicted for in float64, as by scikit-learn's: a date in seconds has more digits than float32.
    So are values for which float32 is too small or too coarse: of targets of such a size.
    """
    is_float32 = cells.dtype.kind == "f" and network_dtype(cells) == trained == torch.float32
    sizes = torch.maximum(targets.mean.abs(), targets.var.sqrt())
    low, high = _SIZES
    fits = ((sizes == 0) | ((sizes > low) & (sizes < high))).all()
    return torch.float32 if is_float32 and fits else torch.float64


def standardized(values: NDArray[np.float64], moments: Moments) -> Tensor:
    """Return standardised values (examples, outputs), in float64."""
    return torch.from_numpy(standardizer(values, moments).read(slice(None), np.empty(values.shape)))


def make_examples(
    table: Table, labels: Tensor, weights: NDArray[np.float64] | None, dtype: torch.dtype, device: torch.device
) -> ExamplesLike:
    """Return what an engine trains on: a standardised copy of the table, or itself if it is sparse or large."""
    counts = None if weights is None else torch.from_numpy(weights).to(device)
    labels = labels.to(device)
    if table.keeps_zeros or math.prod(table.cells.shape) * dtype.itemsize > COPIED_BYTES:
        return StreamedExamples(table, labels, counts)
    copy = torch.empty(table.cells.shape, dtype=dtype)
    for rows in row_blocks(*table.cells.shape):
        table.read(rows, copy[rows].numpy())
    return Examples(copy.to(device), labels, weights=counts)


def without_weights(examples: ExamplesLike) -> ExamplesLike:
    """Return the same examples, each of which counts once."""
    assert isinstance(examples, Examples | StreamedExamples)
    return replace(examples, weights=None)


def is_sparse(examples: ExamplesLike) -> bool:
    """Tell whether inputs are multiplied without their zeros."""
    return isinstance(examples, StreamedExamples) and examples.table.keeps_zeros


def multiply_adds(network: DenseNetwork, n_rows: int, sparse_inputs: bool) -> float:
    """Return how much torch multiplies in a forward pass: with the first weight only where inputs are dense."""
    widths: list[int] = [network.in_features, *network.architecture["hidden_layer_sizes"], network.n_classes]
    sizes = [fan_in * fan_out for fan_in, fan_out in pairwise(widths)]
    return n_rows * sum(sizes[1:] if sparse_inputs else sizes)


@torch.no_grad()
def forget_empty_columns_(network: DenseNetwork, cells: Any) -> None:
    """Give a new network weight 0 for columns that hold nothing: none would be learnt for a word that comes later."""
    empty = np.bincount(cells.indices, minlength=cells.shape[1]) == 0
    first = network[0]
    assert isinstance(first, nn.Linear)
    first.weight[:, torch.from_numpy(empty)] = 0


def split_first(form: nn.Module, table: Table) -> tuple[nn.Linear | None, nn.Module]:
    """Return the first layer if it is to be multiplied with a table's non-zeros alone, else None, and what is left."""
    if not table.keeps_zeros or (isinstance(form, DenseNetwork) and form.alteration() is not None):
        return None, form
    first, *rest = (layer for layer in form.children() if not isinstance(layer, nn.Flatten))
    assert isinstance(first, nn.Linear)
    return first, nn.Sequential(*rest).train(form.training)


@torch.no_grad()
def sparse_product(table: Table, rows: NDArray[np.int64] | slice, first: nn.Linear) -> Tensor:
    """Return what a first layer makes of rows of a table that keeps its zeros (rows, out), on the CPU."""
    cells = table.read_sparse(rows, first.weight.dtype)
    columns, places = np.unique(cells.indices, return_inverse=True)  # of a wide weight only these are read
    weight = first.weight[:, torch.from_numpy(columns).to(first.weight.device)].cpu()
    local = sparse.csr_array((cells.data, places, cells.indptr), (cells.shape[0], len(columns)))
    product = torch.from_numpy(local @ weight.numpy().T)
    return product if first.bias is None else product.add_(first.bias.cpu())


class Rows:
    """Some of the examples, in blocks, as often as one likes.

    Parameters
    ----------
    examples : ExamplesLike
    rows : array, shape (rows,)
    dtype : torch.dtype
        Of the inputs.
    first : nn.Linear, optional
        A layer whose outputs take the place of the inputs.
    """

    def __init__(
        self, examples: ExamplesLike, rows: NDArray[np.int64], dtype: torch.dtype, first: nn.Linear | None = None
    ):
        self.examples, self.dtype, self.first = examples, dtype, first
        self.rows = torch.from_numpy(rows).to(examples.labels.device)

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, form: nn.Module) -> tuple["Rows", nn.Module]:
        """Return rows, and what makes of them the outputs that a network has for these: see `split_first`."""
        if not isinstance(self.examples, StreamedExamples):
            return self, form
        first, rest = split_first(form, self.examples.table)
        return Rows(self.examples, self.rows.cpu().numpy(), self.dtype, first), rest

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield inputs (block, features), labels and weights (block,)."""
        width = self.examples.n_features if self.first is None else self.first.out_features
        for block in row_blocks(len(self.rows), width, most=BLOCK_SIZE):
            rows = self.rows[block]
            weights = None if self.examples.weights is None else self.examples.weights[rows]
            yield *self._batch(rows), weights

    def _batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        if self.first is None:
            return self.examples.batch(rows, self.dtype)
        assert isinstance(self.examples, StreamedExamples)
        outputs = sparse_product(self.examples.table, rows.cpu().numpy(), self.first)
        return outputs.to(rows.device), self.examples.labels[rows]
