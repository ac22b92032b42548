"""The gap between the two functions of a batch-normalised network, and how much of it each layer causes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from batchnorm.progress import Bar
from batchnorm.toolkit.diagnosis.blame import damage_of_layers
from batchnorm.toolkit.diagnosis.switching import (
    Loss,
    OtherShapeError,
    Statistics,
    Switches,
    comparison,
    finite_or_infinite,
    runs,
)
from batchnorm.toolkit.model import Feed, TrackingLayer

_NEGLIGIBLE = 0.01  # a relative change of outputs or loss that rounding and the noise of running averages explain
_GRAVE = 0.1  # relative to the loss or the outputs
_TIMES_THE_BATCH = 2.0  # the loss that the batch's own statistics give, from which on a model lives on them
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
        By how much it grows above `population` when this layer alone uses its running statistics; of layers whose
        statistics differ by more than rounding, where the gap matters.
    estimated : frozenset of str
        Of which layers that is an estimate to first order: the others were switched.
    """

    kind: Literal["loss", "distance"]
    population: float
    running: float
    batch: float
    damage: dict[str, float]
    estimated: frozenset[str]

    @property
    def gap(self) -> float:
        """How much worse running statistics are than those of the population."""
        return self.running - self.population

    @property
    def matters(self) -> bool:
        """Whether there is a gap beyond rounding and the noise of a running average."""
        return not abs(self.gap) <= _NEGLIGIBLE * (abs(self.population) if self.kind == "loss" else 1.0)

    @property
    def is_grave(self) -> bool:
        """Whether it cannot be overlooked: a tenth or more, and beyond the noise of batches in training."""
        if self.kind == "distance":
            return self.running >= _GRAVE and self.running > self.batch
        usual = max(self.population, self.batch)
        return self.running - usual >= _GRAVE * abs(usual)

    def unexplained(self) -> str | None:
        """Say that the gap is large, for a model in which no layer is at fault by itself; None if it is not."""
        if self.is_grave and self.matters:
            return (
                "no layer's running statistics are far off, but all together they make a difference: "
                "batchnorm.recalibrate(model, batches) gives the exact ones"
            )
        if self.kind == "loss" and self.population > _TIMES_THE_BATCH * self.batch:
            return (
                "the model does much better when it normalises by the batch, as it does in training, than with any "
                "fixed statistics: it has learnt from what the examples of a batch have in common"
            )
        return None

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
    loss: Loss | None,
    bar: Bar,
) -> tuple[Gap | None, str | None]:
    """Compare population statistics, which all layers have, with running and batch statistics; blame layers for it.

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
    switches = Switches(layers, running)
    totals = {"population": 0.0, "running": 0.0, "batch": 0.0}
    weight = 0.0
    bar.expect(len(totals) * feed.length)  # known by now: there have been passes
    for batch, run in runs(feed, layers.values()):
        yardstick = run()
        compare, weight_of_batch = comparison(loss, yardstick, batch)
        if not weight_of_batch:  # an empty batch, or outputs that are all 0
            continue
        weight += weight_of_batch
        totals["population"] += finite_or_infinite(compare(yardstick))
        if not math.isfinite(weight + totals["population"]):
            found = "the loss is NaN or infinite" if loss else "they hold NaN or infinite values"
            return None, f"outputs were not compared: {found} with population statistics too{'' if loss else _HINT}"
        try:
            if switches.are_alike:
                totals["running"] += finite_or_infinite(compare(yardstick))
            else:
                with switches.using(switches.running):
                    totals["running"] += finite_or_infinite(compare(run()))
            with switches.of_the_batch():
                totals["batch"] += finite_or_infinite(compare(run()))
        except OtherShapeError:
            return None, f"outputs were not compared: their shape depends on the statistics{_HINT}"
        for _ in totals:
            bar.advance()
    if not weight:
        return None, f"outputs were not compared: there are no numbers in them, or all are 0{_HINT}"
    modes = {mode: total / weight if loss else math.sqrt(total / weight) for mode, total in totals.items()}
    gap = Gap("loss" if loss else "distance", damage={}, estimated=frozenset(), **modes)
    if not gap.matters:
        return gap, None
    damage, estimated = damage_of_layers(feed, switches, loss, modes["population"], bar)
    return replace(gap, damage=damage, estimated=estimated), None
