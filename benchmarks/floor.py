"""The floor under a training step: its own matrix products, and nothing else."""

import itertools
import statistics
import time
from collections.abc import Callable, Sequence

import torch


class Floor:
    """The matrix products of one training step of a dense network, through torch, into buffers allocated before.

    For each layer z = x Wᵀ; then, last layer first, ∂x = ∂z W but for the first layer, and ∂zᵀ x, which is added to W
    in place, as plain SGD does: torch is faster at this than at writing the gradient into a buffer of its own.

    Parameters
    ----------
    sizes : sequence of int
        Inputs, hidden units of each layer, outputs.
    batch_size : int
    """

    def __init__(self, sizes: Sequence[int], batch_size: int):
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.x = [random(batch_size, size) for size in sizes]
        self.z = [torch.empty(batch_size, size) for size in sizes]
        self.dz = [random(batch_size, size) for size in sizes]
        self.dx = [torch.empty(batch_size, size) for size in sizes]
        self.weights = [random(n_out, n_in) for n_in, n_out in itertools.pairwise(sizes)]
        self.multiply_adds = batch_size * (3 * sum(weight.numel() for weight in self.weights) - self.weights[0].numel())

    def step(self) -> None:
        """Compute the products."""
        self.forward()
        for k in reversed(range(len(self.weights))):
            if k:
                torch.mm(self.dz[k + 1], self.weights[k], out=self.dx[k])
            self.weights[k].addmm_(self.dz[k + 1].t(), self.x[k], alpha=-1e-9)

    def forward(self) -> None:
        """Compute the products of the forward pass alone: those of an evaluation."""
        for k, weight in enumerate(self.weights):
            torch.mm(self.x[k], weight.t(), out=self.z[k + 1])


def microseconds(call: Callable[[], object], n: int) -> float:
    """Return the mean time of `n` calls."""
    begun = time.perf_counter()
    for _ in range(n):
        call()
    return (time.perf_counter() - begun) / n * 1e6


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return median and range of the rounds."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"
