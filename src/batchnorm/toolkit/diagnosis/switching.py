"""Layers switched from one set of statistics to another, and what that does to outputs or to the loss."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.functional import Moments, batch_moments
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    State,
    TrackingLayer,
    inputs_seen,
    normalize_with,
    statistics_in,
    tensors_in,
)

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

    @functools.cached_property
    def are_alike(self) -> bool:
        """Whether all layers' running statistics are those of the population, to the bit."""
        return all(all(map(torch.equal, self.population[name], self.running[name])) for name in self.layers)

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

        try:
            with inputs_seen(self.layers, lend):
                yield
        finally:
            self._use(self.population)

    def _use(self, statistics: Mapping[str, Statistics]) -> None:
        for name, (mean, var) in statistics.items():
            normalize_with(self.layers[name], Moments(1, mean, var))


def runs(feed: Feed, layers: Iterable[NormLayer]) -> Iterator[tuple[Any, Callable[[], Any]]]:
    """Yield each batch, and what runs the model on it, as often as it is called.

    A model that keeps something from one batch for the next begins each run on a batch with what the batch finds; the
    next batch finds what the first run has left.
    """
    statistics = [statistic for layer in layers for statistic in statistics_in(layer)]
    keeps_state = True  # as far as is known
    for batch in feed:
        course = _Course(feed.model, statistics) if keeps_state else nullcontext()
        yield batch, functools.partial(_run, feed, batch, course)
        if isinstance(course, _Course):
            keeps_state = course.go_on()


def _run(feed: Feed, batch: Any, course: AbstractContextManager[Any]) -> Any:
    with course:
        return feed.run(batch)


class _Course:
    """The state that a batch finds, to begin each run with it, and the one that the first run leaves."""

    def __init__(self, model: nn.Module, statistics: list[Tensor]):
        self._model, self._statistics = model, statistics
        self._found = State(model, statistics)
        self._left: State | None = None

    def __enter__(self) -> None:
        if self._left is not None:
            self._found.restore()

    def __exit__(self, *of_error: object) -> None:
        if self._left is None and self._found.changed:
            self._left = State(self._model, self._statistics)

    def go_on(self) -> bool:
        """Go on as the first run left it; return whether the model keeps state."""
        if self._left is not None:
            self._left.restore()
        return self._left is not None


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
