"""Layers switched from one set of statistics to another, and what that does to outputs or to the loss."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import Moments, batch_moments
from batchnorm.toolkit.model import TrackingLayer, inputs_seen, normalize_with, tensors_in

Loss = Callable[[Any, Any], Tensor]
Statistics = tuple[Tensor, Tensor]  # mean, var


class Switches:
    """Layers that have their population statistics, and can have others for a while.

    Parameters
    ----------
    layers : mapping of str to layer
    running : mapping of str to (mean, var)
        The running statistics of those to switch.
    """

    def __init__(self, layers: Mapping[str, TrackingLayer], running: Mapping[str, Statistics]):
        self.layers = {name: layers[name] for name in running}
        self.population = {
            name: (layer.running_mean.clone(), layer.running_var.clone()) for name, layer in self.layers.items()
        }
        self.running = {  # as the layer's buffers hold them
            name: (mean.to(self.population[name][0].dtype), var.to(self.population[name][1].dtype))
            for name, (mean, var) in running.items()
        }

    @contextmanager
    def using(self, statistics: Mapping[str, Statistics]) -> Iterator[None]:
        """Have some layers use these."""
        self._use(statistics)
        try:
            yield
        finally:
            self._use({name: self.population[name] for name in statistics})

    @contextmanager
    def of_the_batch(self) -> Iterator[None]:
        """Have all of them normalise each batch with its own statistics."""

        def lend(_: str, layer: TrackingLayer, x: Tensor) -> None:
            if x.numel():
                normalize_with(layer, batch_moments(x.to(torch.promote_types(x.dtype, torch.float32))))

        with self.using(self.population), inputs_seen(self.layers, lend):
            yield

    def _use(self, statistics: Mapping[str, Statistics]) -> None:
        for name, (mean, var) in statistics.items():
            normalize_with(self.layers[name], Moments(1, mean, var))


class OtherShapeError(Exception):
    """Two outputs for the same batch cannot be compared."""


def comparison(loss: Loss | None, yardstick: Any, batch: Any) -> tuple[Callable[[Any], Tensor], float]:
    """Return what turns an output for a batch into a summand, and what the sum is to be divided by for this batch.

    Without a loss the summand is the squared distance from the output with population statistics, the `yardstick`.
    """
    if loss is not None:
        n = next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)
        return lambda output: torch.as_tensor(loss(output, batch)) * n, float(n)
    expected = _numbers(yardstick)

    def squared_distance(output: Any) -> Tensor:
        got = _numbers(output)
        if [tensor.shape for tensor in got] != [tensor.shape for tensor in expected]:
            raise OtherShapeError
        parts = [(a - b).abs().square().sum() for a, b in zip(got, expected, strict=True)]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    return squared_distance, sum(float(tensor.abs().square().sum()) for tensor in expected)


def finite_or_infinite(summand: Tensor) -> float:
    """Return a summand as a number; what is NaN counts as infinite."""
    value = float(summand)
    return value if math.isfinite(value) else math.inf


def _numbers(output: Any) -> list[Tensor]:
    """Return the tensors of an output that hold more than whole numbers, in double precision."""
    return [
        tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        for tensor in tensors_in(output)
        if tensor.is_floating_point() or tensor.is_complex()
    ]
