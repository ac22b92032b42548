"""How much of the gap between the two functions of a batch-normalised network each layer causes."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from batchnorm.functional import batch_moments
from batchnorm.progress import Bar
from batchnorm.toolkit.model import Feed, TrackingLayer, inputs_seen, normalize_with, tensors_in

Statistics = tuple[Tensor, Tensor]  # mean, var
_NEGLIGIBLE = 0.01  # a relative change of outputs or loss that rounding and the noise of running averages explain
_HINT = "; give loss="  # which compares any outputs


@dataclass(frozen=True)
class Gap:
    """How well a model does with population statistics, with running statistics, and normalising by the batch.

    Told by the loss or, without one, by how far outputs are from those with population statistics: √(Σ(a − b)² / Σb²)
    over all outputs. What is NaN counts as infinite.

    Parameters
    ----------
    kind : {"loss", "distance"}
    population, running, batch : float
        With population statistics, with running statistics, and normalising with each batch's own as in training
        (without dropout).
    damage : dict of str to float
        By how much it grows above `population` when this layer alone uses its running statistics.
    """

    kind: Literal["loss", "distance"]
    population: float
    running: float
    batch: float
    damage: dict[str, float]

    @property
    def gap(self) -> float:
        """How much worse running statistics are than those of the population."""
        return self.running - self.population

    @property
    def matters(self) -> bool:
        """Whether there is a gap beyond rounding and the noise of a running average."""
        return not abs(self.gap) <= _NEGLIGIBLE * (abs(self.population) if self.kind == "loss" else 1.0)

    def share(self, name: str) -> float | None:
        """Return a layer's part of all damage that layers do alone; None if there is no gap, or it was not switched.

        The shares add up to 1, whatever the layers do to each other. A layer that does good has none.
        """
        if name not in self.damage or not self.matters:
            return None
        infinite = [math.isinf(damage) for damage in self.damage.values()]
        if any(infinite):
            return float(math.isinf(self.damage[name])) / sum(infinite)
        total = sum(max(damage, 0.0) for damage in self.damage.values())
        return max(self.damage[name], 0.0) / total if total else 0.0


@torch.no_grad()
def measure_gap(
    feed: Feed,
    layers: Mapping[str, TrackingLayer],
    running: Mapping[str, Statistics],
    loss: Callable[[Any, Any], Tensor] | None,
    bar: Bar,
) -> tuple[Gap | None, str | None]:
    """Switch one layer at a time from the population statistics, which all have, to its running statistics.

    Parameters
    ----------
    feed : Feed
        Its model must be in inference mode.
    layers : mapping of str to layer
    running : mapping of str to (mean, var)
        Of the layers to switch: those that in training normalise with the batch.
    loss : callable, optional
    bar : Bar

    Returns
    -------
    Gap or None
    str or None
        Why outputs could not be compared, if so.
    """
    population = {name: (layers[name].running_mean.clone(), layers[name].running_var.clone()) for name in running}
    modes = {"population": 0.0, "running": 0.0, "batch": 0.0}
    alone = dict.fromkeys(running, 0.0)
    weight = 0.0

    def use(statistics: Mapping[str, Statistics]) -> None:
        for name, (mean, var) in statistics.items():
            layers[name].running_mean.copy_(mean)
            layers[name].running_var.copy_(var)

    def run(batch: Any) -> Any:
        bar.advance()
        return feed.run(batch)

    bar.expect((len(modes) + len(alone)) * feed.length)  # known by now: there have been passes
    for batch in feed:
        yardstick = run(batch)
        measure, weight_of_batch = _measure_of(loss, yardstick, batch)
        if not weight_of_batch:  # an empty batch, or outputs that are all 0
            continue
        weight += weight_of_batch
        modes["population"] += measure(yardstick)
        if not math.isfinite(weight + modes["population"]):
            found = "the loss is NaN or infinite" if loss else "they hold NaN or infinite values"
            return None, f"outputs were not compared: {found} with population statistics too{'' if loss else _HINT}"
        try:
            use(running)
            modes["running"] += measure(run(batch))
            use(population)
            with _batch_statistics({name: layers[name] for name in running}):
                modes["batch"] += measure(run(batch))
            use(population)
            for name in running:
                use({name: running[name]})
                alone[name] += measure(run(batch))
                use({name: population[name]})
        except _OtherShapeError:
            return None, f"outputs were not compared: their shape depends on the statistics{_HINT}"
    if not weight:
        return None, f"outputs were not compared: there are no numbers in them, or all are 0{_HINT}"

    def mean(total: float) -> float:
        return total / weight if loss else math.sqrt(total / weight)

    yardstick_value = mean(modes["population"])
    gap = Gap(
        "loss" if loss else "distance",
        **{mode: mean(total) for mode, total in modes.items()},
        damage={name: mean(total) - yardstick_value for name, total in alone.items()},
    )
    return gap, None


class _OtherShapeError(Exception):
    """Two outputs for the same batch cannot be compared."""


def _measure_of(
    loss: Callable[[Any, Any], Tensor] | None, yardstick: Any, batch: Any
) -> tuple[Callable[[Any], float], float]:
    """Return what turns an output for a batch into a summand, and what the sum is to be divided by for this batch."""
    if loss is not None:
        n = next((len(tensor) for tensor in tensors_in(batch) if tensor.dim()), 1)
        return lambda output: _finite_or_infinite(float(loss(output, batch)) * n), float(n)
    expected = _numbers(yardstick)

    def squared_distance(output: Any) -> float:
        got = _numbers(output)
        if [tensor.shape for tensor in got] != [tensor.shape for tensor in expected]:
            raise _OtherShapeError
        return _finite_or_infinite(sum(float((a - b).abs().square().sum()) for a, b in zip(got, expected, strict=True)))

    return squared_distance, sum(float(tensor.abs().square().sum()) for tensor in expected)


def _numbers(output: Any) -> list[Tensor]:
    """Return the tensors of an output that hold more than whole numbers, in double precision."""
    return [
        tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
        for tensor in tensors_in(output)
        if tensor.is_floating_point() or tensor.is_complex()
    ]


def _finite_or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _batch_statistics(layers: Mapping[str, TrackingLayer]) -> AbstractContextManager[None]:
    """Have layers in inference mode normalise each batch with its own statistics."""

    def lend(_: str, layer: TrackingLayer, x: Tensor) -> None:
        if x.numel():
            normalize_with(layer, batch_moments(x.double()))

    return inputs_seen(layers, lend)
