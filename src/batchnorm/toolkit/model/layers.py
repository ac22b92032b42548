"""The batch-norm layers of a model, and their statistics."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.errors import InputError
from batchnorm.functional import Moments, Variance, scale_and_shift, stored_variance

_LARGEST_ROUNDING = 0.05  # of a mean, in standard deviations


class NormLayer(Protocol):
    """A batch-norm layer: any `BatchNorm1d`, `2d`, `3d`, `SyncBatchNorm`, or subclass of one."""

    training: bool
    num_features: int
    eps: float
    momentum: float | None
    affine: bool
    track_running_stats: bool
    weight: nn.Parameter | None  # (num_features,)
    bias: nn.Parameter | None  # (num_features,)
    running_mean: Tensor | None  # (num_features,)
    running_var: Tensor | None  # (num_features,)
    num_batches_tracked: Tensor | None  # ()

    def __call__(self, input: Tensor, /) -> Tensor:
        """Normalise (batch, num_features, *positions)."""

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """Give the layer a buffer."""

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield γ and β, as far as there are any, and what a subclass adds."""


class TrackingLayer(NormLayer, Protocol):
    """A batch-norm layer with running statistics."""

    running_mean: Tensor
    running_var: Tensor


Layer = TypeVar("Layer", bound=NormLayer)


def norm_layers(model: nn.Module) -> dict[str, NormLayer]:
    """Return all batch-norm layers of any kind by their (first) qualified names."""
    return {name: cast(NormLayer, layer) for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)}


def as_tracking(module: _BatchNorm) -> TrackingLayer:
    """Return the same layer, which is known to have running statistics."""
    return cast(TrackingLayer, module)


def tracking(layers: Mapping[str, NormLayer]) -> dict[str, TrackingLayer]:
    """Return those layers that have running statistics."""
    return {
        name: cast(TrackingLayer, layer)
        for name, layer in layers.items()
        if layer.running_mean is not None and layer.running_var is not None
    }


def refuse_lazy(layers: Mapping[str, object]) -> None:
    """Refuse layers that wait for their first batch before they know how many channels they have."""
    if lazy := [name for name, layer in layers.items() if isinstance(layer, LazyModuleMixin)]:
        verb = "is" if len(lazy) == 1 else "are"
        raise InputError(f"{listed(lazy)} {verb} not yet initialised: run the model on one batch first")


def listed(names: list[str]) -> str:
    """Name layers in a message."""
    if names == [""]:  # the model is one
        return "this layer"
    shown = ", ".join(map(repr, names[:5]))
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"layer{'s' if len(names) > 1 else ''} {shown}{rest}"


@contextmanager
def inputs_seen(layers: Mapping[str, Layer], note: Callable[[str, Layer, Tensor], None]) -> Iterator[None]:
    """Call ``note(name, layer, input)`` whenever one of the layers is given its input (batch, channels, *positions)."""

    def hook(name: str) -> Callable[..., None]:
        def before(layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            note(name, layer, args[0] if args else kwargs["input"])

        return before

    with ExitStack() as hooks:
        for name, layer in layers.items():
            handle = cast(nn.Module, layer).register_forward_pre_hook(hook(name), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def variance_convention(layer: NormLayer) -> Variance:
    """Return which variance a layer stores: torch's, unless it says otherwise."""
    convention: Variance = getattr(layer, "stored_variance", "unbiased")
    return convention


def statistics_of(layer: TrackingLayer) -> tuple[Tensor, Tensor]:
    """Return copies of a layer's running mean and variance in float64."""
    return layer.running_mean.double().clone(), layer.running_var.double().clone()


def affine(layer: TrackingLayer) -> tuple[Tensor, Tensor]:
    """Return the scale and shift (channels,) of a batch norm in inference, in float64 on the CPU."""
    mean, var = (tensor.detach().to("cpu", torch.float64) for tensor in (layer.running_mean, layer.running_var))
    weight, bias = (
        None if parameter is None else parameter.detach().to("cpu", torch.float64)
        for parameter in (layer.weight, layer.bias)
    )
    return scale_and_shift(mean, var, weight, bias, layer.eps)


def normalize_with(layer: TrackingLayer, moments: Moments) -> None:
    """Have a layer in inference normalise with some moments, as they are."""
    layer.running_mean.copy_(moments.mean)
    layer.running_var.copy_(moments.var)


def give_statistics(name: str, layer: TrackingLayer, moments: Moments) -> None:
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
    rounding = (mean.double() - moments.mean).abs()
    allowed = _LARGEST_ROUNDING * (moments.var + layer.eps).sqrt()
    if not (mean.isfinite().all() and var.isfinite().all() and (rounding <= allowed).all()):
        raise InputError(
            f"the statistics of what reaches layer {name!r} are too large for its buffers' {var.dtype}: keep them in "
            f"float32, by .float() on that layer"
        )
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
