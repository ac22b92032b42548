"""What is measured of one batch-norm layer, and how far its running statistics are from those of the population.

Nothing is judged here: what counts as a fault, and from which size on, is said by the `rules`.
"""

import functools
import math
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from batchnorm.functional import Moments, stored_variance
from batchnorm.toolkit.diagnosis.gap import Gap
from batchnorm.toolkit.model import NormLayer, variance_convention
from batchnorm.toolkit.statistics import Reached

_EXAMPLES_THAT_TELL = 32  # from so many on in each of two uses, one odd example does not make them differ
_BATCHES_THAT_TELL = 4  # from so many on, how much batches differ is an estimate worth having


@dataclass(eq=False)
class Evidence:
    """What is known of one layer.

    Parameters
    ----------
    name : str
    code : str
        The expression by which the user reaches the layer from their model, such as ``model.get_submodule('1')``.
    layer : torch.nn.Module
    running : tuple of Tensor of float64, shape (channels,), or None
        The running mean and variance.
    reached : Reached or None
        What has reached it; None if nothing did.
    model_training, training : bool
        The modes that the model and the layer were in.
    expected_training : bool or None
        The mode that the caller says it should be in.
    keeps_statistics : bool
        Whether they are meant to stay (`keeps_statistics`).
    weight_of_a_step : float or None
        Of the newest batch in the running mean after a training step whose backward pass updates it again; NaN if that
        cannot be told. None where it does not.
    gap : Gap or None
        Between running and population statistics in the model's output or loss.
    with_dropout : Moments or None
        Of what reaches it in training, dropout being on and all layers normalising by the batch, if the model draws
        random numbers then.
    is_added : bool
        Whether what the layer returns is added to something, as at the end of a residual branch. Known of layers whose
        γ are all 0.
    """

    name: str
    code: str
    layer: NormLayer
    running: tuple[Tensor, Tensor] | None
    reached: Reached | None
    model_training: bool
    training: bool
    expected_training: bool | None
    keeps_statistics: bool
    weight_of_a_step: float | None
    gap: Gap | None
    with_dropout: Moments | None
    is_added: bool

    @functools.cached_property
    def population(self) -> Moments | None:
        """Moments of all that has reached the layer, where they are finite."""
        if self.reached is None:
            return None
        moments = self.reached.moments
        return moments if moments.mean.isfinite().all() and moments.var.isfinite().all() else None

    @property
    def channels(self) -> int:
        """How many there really are: whoever prunes a layer may leave `num_features` as it was."""
        if self.reached is not None:
            return len(self.reached.moments.mean)
        return self.layer.num_features if self.running is None else len(self.running[0])

    @functools.cached_property
    def comparison(self) -> "Comparison | None":
        """Running against population statistics, where there are both; of a single element there are none."""
        return None if self.running is None else self._compared(*self.running, self.population)

    @functools.cached_property
    def comparison_without_initial(self) -> "Comparison | None":
        """The same, for running statistics without what is left in them of the initial mean 0 and variance 1."""
        if self.running is None:
            return None
        (mean, var), initial = self.running, self.initial_weight
        return self._compared(mean / (1 - initial), (var - initial).clamp(min=0) / (1 - initial), self.population)

    @functools.cached_property
    def comparison_with_dropout(self) -> "Comparison | None":
        """Running statistics against what reaches the layer in training, dropout being on."""
        return None if self.running is None else self._compared(*self.running, self.with_dropout)

    def comparisons_of_calls(self) -> "Iterator[Comparison]":
        """Yield what reaches the layer in the second, third, … call of a forward pass against that of the first.

        Of uses that few examples have gone through, none.
        """
        if self.reached is None or self.population is None or not self.reached.calls:
            return
        first, *others = self.reached.calls
        eps, elements_of_an_example = self.layer.eps, self.typical_batch[1] / max(self.typical_batch[0], 1)
        for other in others:
            spread = ((first.var + other.var) / 2 + eps).sqrt()
            if min(first.n, other.n) < _EXAMPLES_THAT_TELL * elements_of_an_example:
                continue
            noise = math.sqrt(elements_of_an_example * (1 / first.n + 1 / other.n))
            errors = torch.full_like(first.var, noise)
            yield Comparison(
                shift=_quotient((other.mean - first.mean).abs(), spread),
                ratio=_ratio(other.var + eps, first.var + eps),
                noise=noise,
                errors=(errors, 2 * errors),
            )

    @functools.cached_property
    def between_batches(self) -> float | None:
        """Part of the variance that lies between the means of batches; chance explains 1 / examples of it.

        Mean over the channels; None where there is a single batch, or each goes through the layer several times.
        """
        if self.reached is None or self.reached.scatter is None or self.population is None:
            return None
        if len(self.reached.calls) > 1:
            return None
        means, variances = self.reached.scatter
        if means.n < 2:
            return None
        between = means.var * means.n / (means.n - 1)
        return float(_quotient(between, between + variances.mean).mean())

    @functools.cached_property
    def is_initial(self) -> bool:
        """Whether the running statistics are exactly those that a layer begins with, which no data gives."""
        return self.running is not None and not self.running[0].any() and bool((self.running[1] == 1).all())

    @property
    def initial_weight(self) -> float:
        """How much of the running statistics is still what they began with; 0 if that is not known."""
        momentum = self._averaging
        return 0.0 if momentum is None or not self.updates else (1 - momentum) ** self.updates

    @property
    def updates(self) -> int:
        """How many batches have gone into the running statistics; 0 if that is not known."""
        tracked = self.layer.num_batches_tracked
        return 0 if tracked is None else int(tracked)

    @functools.cached_property
    def typical_batch(self) -> tuple[float, float]:
        """Medians over the batches: of the examples, and of the elements per channel, in one of them."""
        assert self.reached is not None
        examples, elements = zip(*self.reached.batches, strict=True)
        return statistics.median(examples), statistics.median(elements)

    @functools.cached_property
    def noise(self) -> float:
        """Standard error of a mean, in standard deviations: of the population's and the running average's together.

        Counted in examples: positions of one image are not independent.
        """
        assert self.reached is not None
        n = sum(examples for examples, _ in self.reached.batches)
        if not n:
            return math.inf
        batch, _ = self.typical_batch
        return math.sqrt(1 / n + 1 / (batch * self._batches_that_count))

    @property
    def _batches_that_count(self) -> float:
        """How many batches a running average is as good as."""
        if self.layer.momentum is None:  # a plain mean
            return self.updates or 1
        momentum = self._averaging
        return 1.0 if momentum is None else (2 - momentum) / momentum

    @property
    def _averaging(self) -> float | None:
        """The momentum, where it makes running statistics a moving average."""
        momentum = self.layer.momentum
        return float(momentum) if momentum is not None and 0 < momentum <= 1 else None

    def _compared(self, mean: Tensor, var: Tensor, population: Moments | None) -> "Comparison | None":
        """Compare a running mean and variance with those of a population."""
        eps = self.layer.eps
        if population is None or population.n < 2:
            return None
        expected = stored_variance(population, variance_convention(self.layer))
        spread = population.var + eps
        return Comparison(
            shift=_quotient((mean - population.mean).abs(), spread.sqrt()),
            ratio=_ratio(var + eps, expected + eps),
            noise=self.noise,
            errors=self._errors(spread),
        )

    def _errors(self, spread: Tensor) -> tuple[Tensor, Tensor]:
        """Return standard errors of each channel's mean, in standard deviations, and of its variance, relative.

        From how they differ between batches: a channel that is nearly always 0 has a variance that is hard to tell.
        """
        assert self.reached is not None
        least = torch.full_like(spread, self.noise)
        batches = len(self.reached.batches)
        if self.reached.scatter is None or batches < _BATCHES_THAT_TELL:
            return least, 2 * least
        factor = math.sqrt(batches / (batches - 1) * (1 / batches + 1 / self._batches_that_count))
        of_mean, of_var = (scatter.var.sqrt() * factor for scatter in self.reached.scatter)
        return (
            torch.maximum(least, _quotient(of_mean, spread.sqrt())),
            torch.maximum(2 * least, _quotient(of_var, spread)),
        )


@dataclass(eq=False)
class Comparison:
    """Means and variances against others: running statistics against those of the population.

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
    """

    shift: Tensor
    ratio: Tensor
    noise: float
    errors: tuple[Tensor, Tensor]

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

    def __str__(self) -> str:
        return (
            f"means are off by {self.typical_shift:.2g} standard deviations (at most {self.largest_shift:.2g}), "
            f"variances by a factor of {self.typical_factor:.2g} (at most {self.largest_factor:.2g})"
        )

    def _factors(self) -> Tensor:
        return torch.maximum(self.ratio, 1 / self.ratio)


def not_compared(layers: Iterable[Evidence]) -> str | None:
    """Say of which layers nobody can tell whether their running statistics are right, if of any."""
    names = [of.name or "(the model)" for of in layers if of.population is not None and of.population.n < 2]
    return f"statistics were not compared: a single element per channel reached {', '.join(names)}" if names else None


# With ε = 0, a channel that always receives the same value has a spread of 0.


def _quotient(distance: Tensor, spread: Tensor) -> Tensor:
    return torch.where(distance == 0, 0.0, distance / spread)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(a == b, 1.0, a / b)
