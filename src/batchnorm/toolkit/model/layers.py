"""The batch-norm layers of a model, and their statistics."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer

from batchnorm.errors import InputError
from batchnorm.functional import Moments, Variance, scale_and_shift, stored_variance
from batchnorm.toolkit.model.feed import Feed, unwrapped
from batchnorm.toolkit.model.restoring import inference

_LARGEST_ROUNDING = 0.05  # of a mean, in standard deviations


def norm_layers(model: nn.Module) -> dict[str, Any]:
    """Return all batch-norm layers of any kind by their (first) qualified names, in the model inside any wrappers."""
    return {name: layer for name, layer in unwrapped(model).named_modules() if isinstance(layer, _BatchNorm)}


def variance_convention(layer: Any) -> Variance:
    """Return which variance a layer stores: torch's, unless it says otherwise."""
    convention: Variance = getattr(layer, "stored_variance", "unbiased")
    return convention


def deep_copy(model: nn.Module) -> nn.Module:
    """Copy a model, uninitialised lazy layers too: `copy.deepcopy` cannot copy their buffers."""
    lazy = (buffer for buffer in model.buffers() if isinstance(buffer, UninitializedBuffer))
    new: dict[int, Any] = {
        id(buffer): UninitializedBuffer(device=buffer.device, dtype=buffer.dtype)  # type: ignore[call-arg]
        for buffer in lazy
    }
    return copy.deepcopy(model, new)


def statistics_of(layer: Any) -> tuple[Tensor, Tensor]:
    """Return copies of a layer's running mean and variance in float64."""
    return layer.running_mean.double().clone(), layer.running_var.double().clone()


def affine(layer: Any) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (channels,) of a batch norm in inference, in float64 on the CPU."""
    mean, var = (tensor.detach().to("cpu", torch.float64) for tensor in (layer.running_mean, layer.running_var))
    weight, bias = (
        None if parameter is None else parameter.detach().to("cpu", torch.float64)
        for parameter in (layer.weight, layer.bias)
    )
    return scale_and_shift(mean, var, weight, bias, layer.eps)


def materialize(feed: Feed) -> None:
    """Have the lazy layers of a model become what they will be: its first batch tells them."""
    if any(isinstance(module, LazyModuleMixin) for module in feed.model.modules()):
        with inference(feed.model), torch.no_grad():
            for batch in feed:
                feed.run(batch)
                return


def give_statistics(name: str, layer: Any, moments: Moments) -> None:
    """Have a layer normalise with the moments of a population.

    Raises
    ------
    InputError
        If they are not finite, of a single element, or beyond what the layer's buffers can hold or tell apart.
    """
    if not (moments.mean.isfinite().all() and moments.var.isfinite().all()):
        raise InputError(f"what reaches layer {name!r} holds NaN or infinite values: look for them in the data")
    convention = variance_convention(layer)
    if convention == "unbiased" and moments.n < 2:
        raise InputError(f"a single element per channel reaches layer {name!r}: a variance needs at least 2")
    mean = moments.mean.to(layer.running_mean.dtype)
    var = stored_variance(moments, convention).to(layer.running_var.dtype)
    rounding = (mean.double() - moments.mean).abs() / (moments.var + layer.eps).sqrt()
    if not (mean.isfinite().all() and var.isfinite().all() and (rounding < _LARGEST_ROUNDING).all()):
        raise InputError(
            f"the statistics of what reaches layer {name!r} are too large for its buffers' {var.dtype}: keep them in "
            f"float32, such as model.get_submodule({name!r}).float()"
        )
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
