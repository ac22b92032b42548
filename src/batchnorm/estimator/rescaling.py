"""Between a network, which sees standardised numbers, and the raw ones: fold the scale in, or move with it.

A network standardises what it is given with mean m and deviation d. As more data comes in they become m' and d', and to
compute the same function of the raw data the network moves with them::

    inputs    (x − m)/d = s (x − m')/d' + t,   s = d'/d,   t = (m' − m)/d     folded into the first layer
    outputs   f' = s f + t,                    s = d/d',   t = (m − m')/d'    folded into the last one

The second is "Pop-Art" (van Hasselt et al. 2016, arXiv:1602.07714, section 2.1). What was constant so far had no
deviation, and any d keeps the function on what was seen: then it is d'.
"""

import torch
from torch import Tensor, nn

from batchnorm.functional import Moments, fold_into_following, fold_into_preceding
from batchnorm.inputs import deviation_of, deviations, scale_of
from batchnorm.network import BatchNorm1d, DenseNetwork


@torch.no_grad()
def rescale_inputs_(network: DenseNetwork, old: Moments, new: Moments) -> None:
    """Have a network take inputs standardised with `new` moments for what it took with `old` ones."""
    linear, norm = network[0], network[1] if len(network) > 1 else None
    assert isinstance(linear, nn.Linear)
    before, now = _deviations(old, new)
    scale, shift = now / before, (new.mean - old.mean) / before
    weight, moved = fold_into_following(linear.weight.double().cpu(), None, scale, shift)
    linear.weight.copy_(weight)
    if isinstance(norm, BatchNorm1d):
        norm.running_mean.copy_(norm.running_mean.double().cpu() - moved)
    else:
        linear.bias.copy_(linear.bias.double().cpu() + moved)


@torch.no_grad()
def rescale_outputs_(network: DenseNetwork, old: Moments, new: Moments) -> None:
    """Have a network give outputs standardised with `new` moments for those with `old` ones."""
    last = network[-1]
    assert isinstance(last, nn.Linear | BatchNorm1d)  # whose last act is a weight and a bias
    before, now = _deviations(old, new)
    scale, shift = before / now, (old.mean - new.mean) / now
    weight, bias = fold_into_preceding(last.weight.double().cpu(), last.bias.double().cpu(), scale, shift)
    last.weight.copy_(weight)
    last.bias.copy_(bias)


@torch.no_grad()
def plain_layers(network: DenseNetwork, inputs: Moments, targets: Moments) -> list[tuple[Tensor, Tensor]]:
    """Return weight (out, in) and bias (out,) of each layer of a network that has neither batch norm nor scales.

    Between its layers stands the network's activation; it computes the same function, of raw inputs.
    """
    layers = [(m.weight, m.bias) for m in network.folded() if isinstance(m, nn.Linear)]
    dtype = layers[0][0].dtype
    double = [(weight.detach().double().cpu(), bias.detach().double().cpu()) for weight, bias in layers]
    deviation = deviation_of(inputs)
    double[0] = fold_into_following(*double[0], 1 / deviation, -inputs.mean / deviation)
    double[-1] = fold_into_preceding(*double[-1], scale_of(targets), targets.mean)
    return [(weight.to(dtype), bias.to(dtype)) for weight, bias in double]


def _deviations(old: Moments, new: Moments) -> tuple[Tensor, Tensor]:
    (before, constant), now = deviations(old), deviation_of(new)
    return torch.where(constant, now, before), now
