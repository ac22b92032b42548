"""Which layers are to blame for the gap: found by switching them, or, where they are many, estimated to first order."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from batchnorm.progress import Bar
from batchnorm.toolkit.diagnosis.switching import Loss, Statistics, Switches, comparison, finite_or_infinite, runs
from batchnorm.toolkit.model import Feed, TrackingLayer

_ROUNDING = 1e-4  # of a mean in standard deviations, of a variance relative: what makes no difference
_SWITCHED = 4  # of many layers, those with the largest estimates,
_LARGE = 0.1  # as far as these are at least this part of all estimates together


def damage_of_layers(
    feed: Feed, switches: Switches, loss: Loss | None, with_population: float, bar: Bar
) -> tuple[dict[str, float], frozenset[str]]:
    """Return by how much each layer's running statistics alone make outputs or the loss worse.

    One layer at a time is switched from its population statistics to its running ones. Of more than a few, those are
    switched that seem to matter most; what the others do is estimated from one backward pass over one batch.

    Parameters
    ----------
    feed : Feed
        Its model must be in inference mode, and its layers have their population statistics.
    switches : Switches
    loss : callable or None
    with_population : float
        The loss, or distance of outputs, with population statistics.
    bar : Bar

    Returns
    -------
    dict of str to float
        By layer; 0 for those whose statistics differ by no more than rounding.
    frozenset of str
        Of which layers it is an estimate.
    """
    suspects = [name for name in switches.layers if _differ(switches, name)]
    estimates = _estimates(feed, switches, suspects, loss) if len(suspects) > _SWITCHED else {}
    sizes = {name: abs(estimate) for name, estimate in estimates.items()}
    large = [name for name in sizes if sizes[name] >= _LARGE * sum(sizes.values())]
    measured = sorted(large, key=sizes.__getitem__, reverse=True)[:_SWITCHED]
    switched = [name for name in suspects if name in measured or name not in estimates]
    found = _switched_one_by_one(feed, switches, switched, loss, with_population, bar)
    scale = _scale(found, estimates)
    estimated = {name: scale * estimate for name, estimate in estimates.items() if name not in measured}
    return dict.fromkeys(switches.layers, 0.0) | found | estimated, frozenset(estimated)


def _switched_one_by_one(
    feed: Feed, switches: Switches, names: Iterable[str], loss: Loss | None, with_population: float, bar: Bar
) -> dict[str, float]:
    totals = dict.fromkeys(names, 0.0)
    if not totals:
        return {}
    weight = 0.0
    bar.expect((len(totals) + (loss is None)) * feed.length)
    for batch, run in runs(feed, switches.layers.values()):
        yardstick = None
        if loss is None:
            yardstick = run()
            bar.advance()
        compare, weight_of_batch = comparison(loss, yardstick, batch)
        if not weight_of_batch:
            continue
        weight += weight_of_batch
        for name in totals:
            with switches.using({name: switches.running[name]}):
                totals[name] += finite_or_infinite(compare(run()))
            bar.advance()
    return {
        name: (total / weight if loss else math.sqrt(total / weight)) - with_population
        for name, total in totals.items()
    }


def _estimates(feed: Feed, switches: Switches, names: list[str], loss: Loss | None) -> dict[str, float]:
    """Estimate the damage of each of these layers, as far as that can be done, from the first batch that counts.

    Half-way between population and running statistics, the slope of the loss, or of the squared distance, along the way
    of one layer is its part of the whole difference, to first order (exactly, were the loss quadratic and the rest
    linear).
    """
    # Those that make everything NaN have no slope, nor would others beside them.
    names = [name for name in names if all(value.isfinite().all() for value in switches.running[name])]
    names = [name for name in names if (switches.running[name][1] >= 0).all()]
    ends = {name: (switches.population[name], switches.running[name]) for name in names}
    halfway = {name: ((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for name, (a, b) in ends.items()}
    for batch in feed:
        yardstick = feed.run(batch) if loss is None else None
        compare, weight = comparison(loss, yardstick, batch)
        if not weight:
            continue
        steps = {name: torch.zeros((), dtype=torch.float64, requires_grad=True) for name in names}
        try:
            with (
                switches.using(halfway),
                torch.inference_mode(False),
                torch.enable_grad(),
                _steps(switches, ends, steps),
            ):
                total = compare(feed.run(batch))
                slopes = torch.autograd.grad(total, list(steps.values()), allow_unused=True)
        except Exception:  # a model that cannot be differentiated
            return {}
        known = {name: float(slope) / weight for name, slope in zip(steps, slopes, strict=True) if slope is not None}
        if not all(map(math.isfinite, known.values())):
            return {}
        return known if loss else {name: math.sqrt(max(slope, 0.0)) for name, slope in known.items()}
    return {}


@contextmanager
def _steps(
    switches: Switches, ends: Mapping[str, tuple[Statistics, Statistics]], steps: Mapping[str, Tensor]
) -> Iterator[None]:
    """Have what reaches each layer depend on how far the layer is stepped from half-way; the steps are 0."""

    def hook(name: str, layer: TrackingLayer) -> Callable[..., Any]:
        (m, s), (m_running, s_running) = ((mean.double(), _deviation(var, layer)) for mean, var in ends[name])
        # What makes the same difference to what is normalised as (x − m)/s at the one end and at the other.
        halfway = _deviation(layer.running_var, layer)
        slope, shift = halfway * (1 / s_running - 1 / s), halfway * (m / s - m_running / s_running)

        def before(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> Any:
            x = args[0] if args else kwargs["input"]
            shape = (1, -1, *[1] * (x.dim() - 2))
            slope_here, shift_here, step = (t.to(x.device, x.dtype) for t in (slope, shift, steps[name]))
            x = x + step * (slope_here.reshape(shape) * x.detach() + shift_here.reshape(shape))
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "input": x})

        return before

    with ExitStack() as hooks:
        for name in steps:
            layer = switches.layers[name]
            handle = cast(nn.Module, layer).register_forward_pre_hook(hook(name, layer), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _deviation(var: Tensor, layer: TrackingLayer) -> Tensor:
    return (var.double() + layer.eps).sqrt()


def _scale(found: Mapping[str, float], estimates: Mapping[str, float]) -> float:
    """Return what the estimates of switched layers have to be multiplied by to be right, all in all."""
    both = [name for name in found if name in estimates]
    right, estimated = sum(found[name] for name in both), sum(estimates[name] for name in both)
    return right / estimated if 0 < right < math.inf and estimated > 0 else 1.0


def _differ(switches: Switches, name: str) -> bool:
    """Tell whether a layer's running and population statistics differ by more than rounding."""
    (mean, var), (other_mean, other_var) = switches.population[name], switches.running[name]
    spread = var.double() + switches.layers[name].eps
    same = (mean - other_mean).abs() <= _ROUNDING * spread.sqrt()
    same &= (var - other_var).abs() <= _ROUNDING * spread
    return not bool(same.all())
