"""The batch-norm layers of a model, and their statistics."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

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
    if lost := [name for name, layer in layers.items() if isinstance(layer, _BatchNorm) and _has_lazy_tensors(layer)]:
        raise InputError(
            f"{listed(lost)}: SyncBatchNorm.convert_sync_batchnorm took the place of a lazy layer, which can no longer "
            "be initialised: run the original model on one batch first, then convert it"
        )


def _has_lazy_tensors(layer: nn.Module) -> bool:
    return any(is_lazy(tensor) for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)))


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
            x = args[0] if args else kwargs["input"]
            _refuse_unreadable(name, x)
            with _outside_transforms():
                note(name, layer, _constant(x))

        return before

    with ExitStack() as hooks:
        for name, layer in layers.items():
            handle = cast(nn.Module, layer).register_forward_pre_hook(hook(name), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _outside_transforms() -> AbstractContextManager[Any]:
    """Have what is computed be no part of what `torch.func.grad` and its like derive, which must not leave them."""
    if not torch._C._functorch.get_interpreter_stack():
        return nullcontext()
    from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

    outside: AbstractContextManager[Any] = temporarily_clear_interpreter_stack()
    return outside


def _constant(tensor: Tensor) -> Tensor:
    """Return a tensor without the derivatives, backward and forward, that `torch.func` has it carry."""
    plain = without_derivatives(tensor)
    primal: Tensor = torch.autograd.forward_ad.unpack_dual(plain).primal  # type: ignore[no-untyped-call]
    return primal


def without_derivatives(tensor: Tensor) -> Tensor:
    """Return the tensor that `torch.func.grad` and its like have wrapped, or the same one."""
    while torch._C._functorch.is_gradtrackingtensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _refuse_unreadable(name: str, x: Tensor) -> None:
    """Refuse an input of which not all values are seen that belong together, or none."""
    if torch._C._functorch.is_batchedtensor(without_derivatives(x)):
        raise InputError(
            f"{listed([name])} is called within torch.vmap, where its examples cannot be seen together: give a "
            "forward= that runs the model on whole batches, without vmap"
        )
    if x.is_quantized:
        raise InputError(
            f"what reaches {listed([name])} is quantised: use the model before torch.ao.quantization.convert"
        )


def refuse_meta(tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Refuse tensors without values."""
    if names := [name for name, tensor in tensors if tensor.is_meta]:
        raise InputError(
            f"{', '.join(names[:5])}: on the meta device, which holds no values; call model.to_empty(device='cpu') and "
            "model.load_state_dict(...) first"
        )


def refuse_unusable(layers: Mapping[str, TrackingLayer]) -> None:
    """Refuse running statistics that cannot be read, or not be written channel by channel."""
    for name, layer in layers.items():
        for kind, buffer in (("running_mean", layer.running_mean), ("running_var", layer.running_var)):
            what = f"{kind} of {listed([name])}"
            if kind not in cast(nn.Module, layer)._buffers:
                raise InputError(
                    f"{what} is a parameter, computed or a mere attribute, expected a buffer: delete it, and then "
                    f"layer.register_buffer({kind!r}, tensor)"
                )
            if buffer.numel() > 1 and 0 in buffer.stride():
                raise InputError(f"{what} has one element for several channels: layer.{kind} = layer.{kind}.clone()")
            refuse_meta([(f"{name}.{kind}".lstrip("."), buffer)])


def write(old: Tensor, new: Tensor) -> None:
    """Write into a tensor; into one that was made in `torch.inference_mode`, only there it is allowed."""
    with torch.inference_mode() if old.is_inference() else nullcontext():
        old.copy_(new)


def variance_convention(layer: NormLayer) -> Variance:
    """Return which variance a layer stores: torch's, unless it says otherwise."""
    convention: Variance = getattr(layer, "stored_variance", "unbiased")
    return convention


def statistics_of(layer: TrackingLayer) -> tuple[Tensor, Tensor]:
    """Return copies of a layer's running mean and variance in float64."""
    return layer.running_mean.double().clone(), layer.running_var.double().clone()


def statistics_in(layer: NormLayer) -> list[Tensor]:
    """Return a layer's own running mean and variance, as far as it has them."""
    return [statistic for statistic in (layer.running_mean, layer.running_var) if statistic is not None]


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
    write(layer.running_mean, moments.mean)
    write(layer.running_var, moments.var)


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
    half = torch.finfo(mean.dtype).bits < 32  # elsewhere there is nothing better, and what is normalised is as coarse
    rounding = (mean.double() - moments.mean).abs()
    coarse = half and bool((rounding > _LARGEST_ROUNDING * (moments.var + layer.eps).sqrt()).any())
    if coarse or not (mean.isfinite().all() and var.isfinite().all()):
        remedy = "float32, by .float() on that layer" if half else "float64, by .double() on the model"
        raise InputError(
            f"the statistics of what reaches layer {name!r} are too large for its buffers' {var.dtype}: keep them in "
            f"{remedy}"
        )
    write(layer.running_mean, mean)
    write(layer.running_var, var)
