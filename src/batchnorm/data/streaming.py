"""Tables that stay where they are, on disk or sparse: their rows are standardised as a batch is gathered."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Of a block: 8 MB in float64. Blocks of some 32 MB leave holes in malloc's heap that are filled with no later one.
_CELLS_AT_A_TIME = 2**20
FAR = 1e6  # a number that has come as near to its bound as float32 can tell


@dataclass(frozen=True, eq=False)
class Table:
    """A table whose columns are standardised as its rows are read: (x − mean) / deviation.

    With a bound b, what comes of it, z, is drawn in: z / √(1 + (z/b)²), which is nearly z for a small one, and never
    more than b.

    Parameters
    ----------
    cells : numpy array, MappedRows or scipy CSR array, shape (examples, features)
        Also one in a file that is mapped into memory, or one that cannot be written to. It is never copied as a whole.
    mean, deviation : array, shape (features,)
    bound : float, optional
    """

    cells: Any
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    bound: float | None = None

    def __len__(self) -> int:
        return int(self.cells.shape[0])

    @property
    def keeps_zeros(self) -> bool:
        """Whether the table is sparse, and so is what is read of it."""
        return hasattr(self.cells, "indptr") and not self.mean.any()

    def read_sparse(self, which: NDArray[np.int64] | slice, dtype: torch.dtype) -> Any:
        """Return standardised rows of a table that keeps its zeros as a CSR array, each cell once, in their order."""
        rows = self.cells[which].copy()
        rows.sum_duplicates()
        out = np.empty((1, len(rows.data)), dtype=torch.empty(0, dtype=dtype).numpy().dtype)
        with np.errstate(over="ignore"):
            np.divide(rows.data, self.deviation[rows.indices], out=out[0], casting="same_kind")
        rows.data = out[0] if self.bound is None else _draw_in(out, self.bound)[0]
        return rows

    def read(self, which: NDArray[np.int64] | slice, out: NDArray[Any]) -> NDArray[Any]:
        """Write standardised rows into `out` (rows, features), rounded to its type, and return it."""
        with np.errstate(over="ignore"):  # of the largest numbers, which a bound then makes finite
            np.subtract(dense(self.cells[which]), self.mean, out=out, casting="same_kind")
            np.divide(out, self.deviation, out=out, casting="same_kind")
        return out if self.bound is None else _draw_in(out, self.bound)


def _draw_in(values: NDArray[Any], bound: float) -> NDArray[Any]:
    values.clip(-FAR, FAR, out=values)  # so that its square is a number
    roots = np.square(values / bound)
    roots += 1
    values /= np.sqrt(roots, out=roots)
    return values


@dataclass(frozen=True, eq=False)
class StreamedExamples:
    """What `Examples` are, with inputs that are read from a table as they are needed.

    Parameters
    ----------
    table : Table
    labels : Tensor
    weights : Tensor, shape (examples,), optional
        As those of `Examples`, on the device that is trained on.
    """

    table: Table
    labels: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_features(self) -> int:
        """Number of features of one example."""
        return int(self.table.cells.shape[1])

    def batch(self, indices: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Gather a batch: inputs (batch, features), standardised, and their labels."""
        inputs = torch.empty(len(indices), self.n_features, dtype=dtype)
        self.table.read(indices.cpu().numpy(), inputs.numpy())
        return inputs.to(self.labels.device), self.labels[indices]


def row_blocks(n_rows: int, n_columns: int, most: int | None = None) -> Iterator[slice]:
    """Yield slices that together are all rows, each of a bounded number of cells, and of at most `most` rows."""
    size = max(1, _CELLS_AT_A_TIME // max(1, n_columns))
    size = size if most is None else min(size, most)
    for start in range(0, n_rows, size):
        yield slice(start, min(start + size, n_rows))


def dense(rows: Any) -> NDArray[Any]:
    """Return some rows of a table as a numpy array."""
    return np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)
