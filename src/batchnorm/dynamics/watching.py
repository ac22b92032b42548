"""Which layer, batch norm and activation follow each other in a forward pass, told by the tensors that they hand on."""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm

from batchnorm.dynamics.distribution import distribution, norm, rounded, spread
from batchnorm.dynamics.slopes import flat_share, is_of_torch, may_be_activation, works_elementwise
from batchnorm.functional import batch_moments
from batchnorm.toolkit.model import tensors_in

# What may stand between a layer and its activation, besides batch norm.
_BETWEEN = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm, _InstanceNorm, _DropoutNd)


@dataclass
class Seen:
    """What was seen of a linear or convolution layer and of what follows it, in its first call."""

    name: str
    layer: nn.Module
    weight: Tensor  # as it was computed with
    before: dict[str, Any]
    batch_norm: str | None = None
    activation: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def unit_axis(self) -> int:
        """Where the units are in the layer's output."""
        return 1 if isinstance(self.layer, _ConvNd) else -1

    @property
    def units(self) -> int:
        """How many units the layer has."""
        return cast(int, self.layer.out_channels if isinstance(self.layer, _ConvNd) else self.layer.out_features)

    def to_dict(self, gradient: Tensor | None) -> dict[str, Any]:
        """Return it as JSON knows it, with what the gradient of the weight is."""
        return {
            "name": self.name,
            "norm": self.batch_norm,
            "activation": self.activation,
            "units": self.units,
            "before": self.before,
            **dict.fromkeys(("after", "outputs", "dead", "saturated")),
            "weight_norm": norm(self.weight),
            "gradient_norm": None if gradient is None else norm(gradient),
            "gradient": None if gradient is None else distribution(gradient),
            "update_ratio": None,
            **dict.fromkeys(("gamma", "beta", "running_mean", "running_var", "sample_mean", "sample_var")),
            **self.rest,
        }


def layers_in(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear and convolution layers of a model, by their (first) qualified names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear | _ConvNd)}


@contextmanager
def watched(model: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Seen]]:
    """Watch one forward pass of a model; yield what is seen of its layers, in the order of their calls."""
    watch = _Watch()
    with ExitStack() as hooks:

        def add(handle: Any) -> None:
            hooks.callback(handle.remove)

        for name, module in model.named_modules():
            if name in layers:
                add(module.register_forward_hook(_outside(watch.layer(name))))
            elif isinstance(module, _BatchNorm):
                add(module.register_forward_pre_hook(_outside(watch.before_batch_norm)))
                add(module.register_forward_hook(_outside(watch.batch_norm(name)), with_kwargs=True))
            elif isinstance(module, _BETWEEN):
                add(module.register_forward_hook(_outside(watch.between), with_kwargs=True))
            elif may_be_activation(module):
                add(module.register_forward_pre_hook(_outside(watch.before_activation), with_kwargs=True))
                add(module.register_forward_hook(_outside(watch.activation)))
        yield watch.seen


def _outside(hook: Callable[..., None]) -> Callable[..., None]:
    """Have a hook leave nothing for the backward pass."""

    def run(*args: Any) -> None:
        with torch.no_grad():
            hook(*args)

    return run


class _Watch:
    """The hooks of `watched`."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}
        self._owners: dict[int, tuple[Any, Seen]] = {}  # by the id of a tensor that lives
        self._running: dict[nn.Module, dict[str, Any]] = {}  # before the batch moves them
        self._given: dict[nn.Module, tuple[Seen, Tensor]] = {}  # to activations that are being computed

    def layer(self, name: str) -> Callable[..., None]:
        def after(layer: nn.Module, args: Any, output: Any) -> None:
            if name in self.seen or not isinstance(output, Tensor) or not output.is_floating_point():
                return
            self.seen[name] = Seen(name, layer, cast(Tensor, layer.weight), distribution(output))
            self._own(output, self.seen[name])

        return after

    def before_batch_norm(self, layer: Any, args: Any) -> None:
        self._running[layer] = {kind: _spread(getattr(layer, kind)) for kind in ("running_mean", "running_var")}

    def batch_norm(self, name: str) -> Callable[..., None]:
        def after(layer: Any, args: Any, kwargs: Any, output: Any) -> None:
            running = self._running.pop(layer)
            x, seen = self._first_owned(args, kwargs)
            if seen is None or seen.batch_norm is not None or seen.activation is not None:
                return
            moments = batch_moments(x if x.dtype == torch.float64 else x.float())
            seen.batch_norm = name
            seen.rest |= {
                "after": distribution(output),
                "gamma": _spread(layer.weight),
                "beta": _spread(layer.bias),
                **running,
                "sample_mean": _spread(moments.mean),
                "sample_var": _spread(moments.var),
            }
            self._own(output, seen)

        return after

    def between(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _, seen = self._first_owned(args, kwargs)
        if seen is not None and isinstance(output, Tensor):
            self._own(output, seen)

    def before_activation(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        x, seen = self._first_owned(args, kwargs)
        if seen is not None and seen.activation is None:
            self._given[module] = seen, x.detach().clone()  # it may work in place

    def activation(self, module: nn.Module, args: Any, output: Any) -> None:
        seen, y = self._given.pop(module, (None, None))
        if seen is None or y is None or not isinstance(output, Tensor):
            return
        if not is_of_torch(module) and not works_elementwise(module, y, output):
            return
        seen.activation = type(module).__name__
        dead, saturated = flat_share(module, y, seen.unit_axis)
        seen.rest |= {
            "outputs": distribution(output),
            "dead": None if dead is None else rounded(dead),
            "saturated": None if saturated is None else rounded(saturated),
        }

    def _own(self, tensor: Tensor, seen: Seen) -> None:
        self._owners[id(tensor)] = weakref.ref(tensor), seen

    def _first_owned(self, args: Any, kwargs: Any) -> tuple[Any, Seen | None]:
        """Return the first tensor that a layer of ours has handed on, and what was seen of that layer."""
        for tensor in tensors_in((args, kwargs)):
            reference, seen = self._owners.get(id(tensor), (lambda: None, None))
            if reference() is tensor:
                return tensor, seen
        return None, None


def _spread(tensor: Tensor | None) -> list[float | None] | None:
    return None if tensor is None else spread(tensor)
