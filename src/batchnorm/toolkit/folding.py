"""Batch norm in inference is an affine map: the linear layer before it can do its work."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from batchnorm.functional import fold_into_preceding, scale_and_shift


@torch.no_grad()
def fold_layers(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Return copies of layers that compute in inference what these compute, one after the other.

    Each `BatchNorm1d` that follows a linear layer becomes part of it, folded in float64.

    Parameters
    ----------
    layers : iterable of torch.nn.Module
        In the order of their execution. They are not changed.

    Returns
    -------
    list of torch.nn.Module

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 2, step 11.

    Examples
    --------
    >>> fold_layers([nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU()])
    [Linear(in_features=2, out_features=3, bias=True), ReLU()]
    """
    folded: list[nn.Module] = []
    before: nn.Module | None = None
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None and type(before) is nn.Linear:
            folded[-1] = _fold(before, layer)
        else:
            folded.append(copy.deepcopy(layer))
        before = layer
    return folded


def _fold(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    def double(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.double()

    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, var = norm.running_mean.double(), norm.running_var.double()
    scale, shift = scale_and_shift(mean, var, double(norm.weight), double(norm.bias), norm.eps)
    weight, bias = fold_into_preceding(linear.weight.double(), double(linear.bias), scale, shift)
    new = nn.Linear(linear.in_features, linear.out_features, device="meta")
    new.weight = nn.Parameter(weight.to(linear.weight.dtype))
    new.bias = nn.Parameter(bias.to(linear.weight.dtype))
    return new
