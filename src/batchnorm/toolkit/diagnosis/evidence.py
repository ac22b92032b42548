"""What is known of one batch-norm layer, and how far its running statistics are from those of the population."""

import math
import statistics
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from batchnorm.functional import stored_variance
from batchnorm.toolkit.model import NormLayer, variance_convention
from batchnorm.toolkit.statistics import Reached

Severity = Literal["error", "warning"]

# A mean further off than this many standard deviations, or a variance by more than this factor, is a fault: in a
# typical channel, or in any channel by more than what a sample of this size explains.
_TYPICAL_SHIFT, _LARGEST_SHIFT, _GRAVE_SHIFT = 0.3, 0.5, 1.0
_TYPICAL_FACTOR, _LARGEST_FACTOR, _GRAVE_FACTOR = 1.5, 2.0, 4.0
_STANDARD_ERRORS = 4.0
_BATCHES_THAT_TELL = 4  # how much batches differ
_CLOSE_SHIFT, _CLOSE_FACTOR = 0.05, 1.1


@dataclass(eq=False)
class Evidence:
    """What is known of one layer.

    Parameters
    ----------
    name : str
    layer : torch.nn.Module
    running : tuple of Tensor of float64, shape (channels,), or None
        The running mean and variance.
    seen : Reached or None
        What has reached it; None if nothing did.
    model_training, training : bool
        The modes that the model and the layer were in.
    expected_training : bool or None
        The mode that the caller says it should be in.
    keeps_statistics : bool
        Whether they are meant to stay (`keeps_statistics`).
    recomputed : bool
        Whether a training step updates its statistics again during the backward pass.
    code : str
        The expression by which the user reaches the layer, for a model in a wrapper too.
    """

    name: str
    layer: NormLayer
    running: tuple[Tensor, Tensor] | None
    seen: Reached | None
    model_training: bool
    training: bool
    expected_training: bool | None
    keeps_statistics: bool
    recomputed: bool
    code: str

    @property
    def finite(self) -> bool:
        """Whether what reaches the layer has finite moments."""
        return self.seen is not None and bool(
            self.seen.moments.mean.isfinite().all() and self.seen.moments.var.isfinite().all()
        )

    @property
    def comparison(self) -> "Comparison | None":
        """Running against population statistics, where there are both."""
        if self.running is None or self.seen is None or not self.finite:
            return None
        mean, var = self.running
        moments, eps = self.seen.moments, self.layer.eps
        population = stored_variance(moments, variance_convention(self.layer)) if moments.n > 1 else moments.var
        errors = self._errors_of_channels(self.seen)
        return Comparison(
            shift=(mean - moments.mean).abs() / (moments.var + eps).sqrt(),
            ratio=(var + eps) / (population + eps),
            noise=self.noise,
            errors=errors,
            initial=not mean.any() and bool((var == 1).all()),
        )

    @property
    def noise(self) -> float:
        """Standard error of a mean, in standard deviations: of the population's and the running average's together.

        Counted in examples: positions of one image are not independent.
        """
        assert self.seen is not None
        n = sum(examples for examples, _ in self.seen.batches)
        batch = statistics.median(examples for examples, _ in self.seen.batches)
        return math.sqrt(1 / n + 1 / (batch * self._batches_that_count))

    @property
    def _batches_that_count(self) -> float:
        """How many batches a running average is as good as."""
        momentum = self.layer.momentum
        if momentum is None:
            return self.updates or 1
        return float((2 - momentum) / momentum) if momentum > 0 else 1.0

    def _errors_of_channels(self, seen: Reached) -> tuple[Tensor, Tensor]:
        """Return standard errors of each channel's mean, in standard deviations, and of its variance, relative.

        From how they differ between batches: a channel that is nearly always 0 has a variance that is hard to tell.
        """
        spread = seen.moments.var + self.layer.eps
        mean, var = torch.full_like(spread, self.noise), torch.full_like(spread, 2 * self.noise)
        batches = len(seen.batches)
        if seen.scatter is None or batches < _BATCHES_THAT_TELL:
            return mean, var
        factor = math.sqrt(batches / (batches - 1) * (1 / batches + 1 / self._batches_that_count))
        of_mean, of_var = (scatter.var.sqrt() * factor for scatter in seen.scatter)
        return torch.maximum(mean, of_mean / spread.sqrt()), torch.maximum(var, of_var / spread)

    @property
    def updates(self) -> int:
        """How many batches have gone into the running statistics; 0 if that is not known."""
        tracked = self.layer.num_batches_tracked
        return 0 if tracked is None else int(tracked)


@dataclass(eq=False)
class Comparison:
    """Running statistics against those of the population.

    Parameters
    ----------
    shift : Tensor, shape (channels,)
        Distance of the means in standard deviations √(var + ε) of the population.
    ratio : Tensor, shape (channels,)
        Running var + ε divided by the population's.
    noise : float
        What a sample of this size explains of `shift`.
    errors : tuple of Tensor, shape (channels,)
        Standard errors of each channel's shift, and of its ratio.
    initial : bool
        Whether the running statistics are exactly those that a layer begins with, which no data gives.
    """

    shift: Tensor
    ratio: Tensor
    noise: float
    errors: tuple[Tensor, Tensor]
    initial: bool

    @property
    def typical_shift(self) -> float:
        """Root mean square over the channels."""
        return float(self.shift.square().mean().sqrt())

    @property
    def largest_shift(self) -> float:
        """Maximum over the channels."""
        return float(self.shift.max())

    @property
    def typical_factor(self) -> float:
        """Median over the channels of the factor, in whichever direction, that variances are off by."""
        return float(self._factors().median())

    @property
    def largest_factor(self) -> float:
        """Maximum over the channels."""
        return float(self._factors().max())

    @property
    def deviates(self) -> bool:
        """Whether the two differ by more than chance and the lag of a running average explain."""
        of_mean, of_var = (_STANDARD_ERRORS * error for error in self.errors)
        # A running variance that is larger than the data's may come of rare values, of which these data have none.
        shift = self.shift / self.ratio.clamp(min=1).sqrt()
        return not bool(
            self.typical_shift <= _TYPICAL_SHIFT + self.noise
            and self.typical_factor <= _TYPICAL_FACTOR * (1 + self.noise)
            and (shift <= _LARGEST_SHIFT + of_mean).all()
            and (-self.ratio.log() <= math.log(_LARGEST_FACTOR) + of_var).all()
        )

    @property
    def fits_closely(self) -> bool:
        """Whether the two are so close that it does not matter where they come from."""
        return self.typical_shift < _CLOSE_SHIFT and self.typical_factor < _CLOSE_FACTOR

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        grave = not (self.typical_shift < _GRAVE_SHIFT and self.typical_factor < _GRAVE_FACTOR)
        return "error" if grave else "warning"

    def __str__(self) -> str:
        return (
            f"means are off by {self.typical_shift:.2g} standard deviations (at most {self.largest_shift:.2g}), "
            f"variances by a factor of {self.typical_factor:.2g} (at most {self.largest_factor:.2g})"
        )

    def _factors(self) -> Tensor:
        return torch.maximum(self.ratio, 1 / self.ratio)
