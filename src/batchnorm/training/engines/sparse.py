"""The first layer of the fused engine where inputs are mostly zero: a step costs what the batch's non-zeros cost."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from batchnorm.data import Table
from batchnorm.training.engines.optimizers import UpdateRule

_STEPS = 1024  # that there is room for at the beginning


class SparseLayer:
    """Weight and optimiser of a linear layer, of which a step touches the columns in which its batch has something.

    In all others the gradient is 0, and what a step does there depends on nothing but its number: decay shrinks the
    weight, momentum moves it on. So they wait. When a batch next has something there, what they missed is made up for
    first, by one product of matrices, and the same at the end for all: each step is the dense one's, to rounding and,
    with AdamW, up to what eps does beside a square that fades meanwhile.

    TensorFlow Addons' ``LazyAdam`` and torch's ``SparseAdam`` touch the same columns and leave out what was missed,
    which is another optimiser: momentum stops, and rare columns forget nothing. On text it was the less accurate one.

    Parameters
    ----------
    weight : Tensor, shape (out, in)
        Of the network. It is trained as a transposed copy, as a column's weights then lie side by side.
    table : Table
        One that keeps its zeros.
    rule : UpdateRule
    decay : float
    capacity : int
        Examples of the largest batch.
    """

    def __init__(self, weight: Tensor, table: Table, rule: UpdateRule, decay: float, capacity: int):
        from batchnorm.kernels import cpu, sparse

        assert rule.missed is not None
        self._kernels, self._missed_by, self._arguments = sparse, rule.missed, rule.arguments
        self._update, self._take = getattr(cpu, rule.kernel), getattr(sparse, f"take_{rule.kernel}")
        self._decay, self._network_weight = decay, weight
        self._weight = weight.t().contiguous().numpy()  # (in, out)
        kept = [torch.zeros_like(weight.t(), memory_format=torch.contiguous_format) for _ in rule.states]
        self._states = [state.numpy() for state in kept]  # (in, out)
        self.states = {name: state.t() for name, state in zip(rule.states, kept, strict=True)}  # (out, in)

        rows = table.read_sparse(slice(None), weight.dtype)
        self._starts, self._columns, self._values = rows.indptr, rows.indices, rows.data
        n_cells = int(np.sort(np.diff(rows.indptr))[-capacity:].sum())  # of the fullest batch
        n_found = min(n_cells, rows.shape[1])
        self._numbers = np.full(rows.shape[1], -1)
        self._found, self._places = np.empty(1 + n_found, np.int64), np.empty(n_cells, np.int64)
        # Of the columns of a batch: weight and states, and the gradient.
        self._rows, self._gradient, *self._state_rows = (
            np.empty((n_found, self._weight.shape[1]), self._weight.dtype) for _ in range(2 + len(kept))
        )
        self._seen = np.zeros(rows.shape[1], np.int64)
        self._n_before, self._n_steps = 0, 0
        self._steps, self._missed = np.empty((_STEPS, 4)), np.empty((_STEPS, 4))

    def product(self, indices: NDArray[np.int64], z: NDArray[Any], now: NDArray[np.float64]) -> None:
        """Multiply a batch (batch, in) with the weight into z (batch, out)."""
        kernels = self._kernels
        self._n_before = int(now[1]) - 1 - self._n_steps
        kernels.find_columns(self._starts, self._columns, indices, self._numbers, self._found, self._places)
        columns = self._batch_columns()
        self._catch_up(columns, self._rows, self._state_rows)
        kernels.product(self._starts, self._values, indices, self._places, self._rows, z)

    def descend(self, indices: NDArray[np.int64], dz: NDArray[Any], now: NDArray[np.float64]) -> None:
        """Take a step on the batch whose product was the last, given ∂loss/∂z (batch, out)."""
        columns = self._batch_columns()
        n = len(columns)
        gradient, rows, states = self._gradient[:n], self._rows[:n], [state[:n] for state in self._state_rows]
        self._kernels.gradient_of_rows(self._starts, self._values, indices, self._places, dz, gradient)
        flat = [array.reshape(-1) for array in (rows, gradient, *states)]
        self._update(*flat, now, self._decay, *self._arguments)
        self._kernels.put(columns, rows, self._weight)
        for state, kept in zip(states, self._states, strict=True):
            self._kernels.put(columns, state, kept)
        self._n_steps += 1
        self._seen[columns] = self._n_steps
        if self._n_steps == len(self._steps):
            self._steps, self._missed = (np.concatenate([array, array]) for array in (self._steps, self._missed))
        self._steps[self._n_steps] = self._missed_by(now[0], now[1], self._decay)

    def write_back(self) -> None:
        """Make up for what all columns missed, and give the network its weight."""
        self._catch_up(np.arange(len(self._seen)), self._weight, self._states)
        self._seen[:] = self._n_steps
        self._network_weight.copy_(torch.from_numpy(self._weight.T))

    def _batch_columns(self) -> NDArray[np.int64]:
        return self._found[1 : 1 + self._found[0]]

    def _catch_up(self, columns: NDArray[np.int64], rows: NDArray[Any], states: list[NDArray[Any]]) -> None:
        """Bring what columns have missed up to date, into `rows` and `states`."""
        if not len(columns):
            return
        self._kernels.multiply_missed(self._steps, self._seen[columns].min(), self._n_steps, self._missed)
        pairs = [array for pair in zip(self._states, states, strict=True) for array in pair]
        when = (self._seen, self._n_steps, self._n_before, self._missed)
        self._take(columns, *when, self._weight, rows, *pairs, *self._arguments)
