"""What has reached one batch-norm layer: counted batch by batch, and what comes of it."""

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


_AT_ONCE = 64  # moments that wait to be merged: together that costs little more than two


class _Growing:
    """Moments of sets of elements that come one after the other."""

    def __init__(self) -> None:
        self._sets: list[Moments] = []

    def add(self, moments: Moments) -> None:
        self._sets.append(moments)
        if len(self._sets) == _AT_ONCE:
            self._sets = [merge_moments(*self._sets)]

    @property
    def moments(self) -> Moments:
        """Of all sets together, in float64."""
        if len(self._sets) > 1:
            self._sets = [merge_moments(*self._sets)]
        return self._sets[0]


class Tally:
    """Counts what reaches one layer on this worker."""

    def __init__(self) -> None:
        self._calls: list[_Growing] = []
        self._batches: list[tuple[int, int]] = []
        self._scatter = _Growing()  # of means and variances, one behind the other

    @property
    def moments(self) -> Moments | None:
        """Of all calls together; None before the first."""
        calls = [call.moments for call in self._calls]
        return merge_moments(*calls) if len(calls) > 1 else next(iter(calls), None)

    def count(self, x: Tensor) -> None:
        """Count a batch that reaches the layer, without its values."""
        self._batches.append((len(x), x[:, 0].numel()))

    def take_up(self, x: Tensor, weights: Tensor | None, call: int) -> Moments:
        """Take up the values of a batch in the layer's call of this number in its forward pass; return its moments."""
        moments = batch_moments(x.double(), weights)
        if call >= len(self._calls):
            self._calls.append(_Growing())
        self._calls[min(call, len(self._calls) - 1)].add(moments)
        both = torch.cat([moments.mean, moments.var])
        self._scatter.add(Moments(1, both, torch.zeros_like(both)))
        return moments

    def reached(self, moments: Moments, *, circular: bool = False) -> Reached:
        """Return what has reached the layer, given the moments of all workers."""
        scatter = None
        if self._calls:
            n, mean, var = self._scatter.moments
            of_mean, of_var = (Moments(n, *part) for part in zip(mean.chunk(2), var.chunk(2), strict=True))
            scatter = of_mean, of_var
        return Reached(moments, [call.moments for call in self._calls], self._batches, scatter, circular)


def merged(tallies: Mapping[str, Tally], layers: Mapping[str, NormLayer], workers: Workers) -> dict[str, Moments]:
    """Return the moments of all workers together, of those layers that any of them has seen values of."""
    own = {name: moments for name, tally in tallies.items() if (moments := tally.moments) is not None}
    return workers.merged(own, {name: layers[name].num_features for name in tallies})
