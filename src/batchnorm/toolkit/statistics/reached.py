"""What has reached one batch-norm layer: counted batch by batch, and what comes of it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.functional import Moments, batch_moments, merge_moments
from batchnorm.toolkit.model import NormLayer, Workers


@dataclass(eq=False)
class Reached:
    """What has reached one layer.

    Parameters
    ----------
    moments : Moments
        Over all batches and workers.
    calls : list of Moments
        Over this worker's batches: of the layer's first call in each forward pass, of its second, and so on.
    batches : list of (int, int)
        Examples, and elements per channel, of each call on this worker.
    scatter : tuple of Moments or None
        Of the means and of the variances of these calls, each counted once: how much they differ from batch to batch.
        None if there were none on this worker.
    circular : bool
        Whether the layer depends on itself and was measured while normalising with batch statistics.
    """

    moments: Moments
    calls: list[Moments]
    batches: list[tuple[int, int]]
    scatter: tuple[Moments, Moments] | None
    circular: bool = False


class Tally:
    """Counts what reaches one layer on this worker. The attributes are those of `Reached`."""

    def __init__(self) -> None:
        self.calls: list[Moments] = []
        self.batches: list[tuple[int, int]] = []
        self.scatter: tuple[Moments, Moments] | None = None

    @property
    def moments(self) -> Moments | None:
        """Of all calls together; None before the first."""
        return functools.reduce(merge_moments, self.calls) if self.calls else None

    def count(self, x: Tensor) -> None:
        """Count a batch that reaches the layer, without its values."""
        self.batches.append((len(x), x[:, 0].numel()))

    def take_up(self, x: Tensor, weights: Tensor | None, call: int) -> Moments:
        """Take up the values of a batch in the layer's call of this number in its forward pass; return its moments."""
        moments = batch_moments(x.double(), weights)
        if call < len(self.calls):
            self.calls[call] = merge_moments(self.calls[call], moments)
        else:
            self.calls.append(moments)
        here = [Moments(1, value, torch.zeros_like(value)) for value in (moments.mean, moments.var)]
        mean, var = here if self.scatter is None else map(merge_moments, self.scatter, here)
        self.scatter = mean, var
        return moments

    def reached(self, moments: Moments, *, circular: bool = False) -> Reached:
        """Return what has reached the layer, given the moments of all workers."""
        return Reached(moments, self.calls, self.batches, self.scatter, circular)


def merged(tallies: Mapping[str, Tally], layers: Mapping[str, NormLayer], workers: Workers) -> dict[str, Moments]:
    """Return the moments of all workers together, of those layers that any of them has seen values of."""
    own = {name: moments for name, tally in tallies.items() if (moments := tally.moments) is not None}
    return workers.merged(own, {name: layers[name].num_features for name in tallies})
