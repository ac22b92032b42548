"""One run of a model that leaves no trace: who is called how often, on what, and who has returned it."""

import inspect
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from batchnorm.toolkit.model import Feed, inference, map_nested, repeatable, tensors_in, undisturbed

__all__ = ["Observation", "Signature", "observe"]


class Signature(tuple[tuple[str, Any], ...]):
    """How a module was called: its arguments by name, each a constant, `tensor` or `unknown`."""

    __slots__ = ()
    tensor = object()
    unknown = object()  # what may be computed from a tensor, or hold some


@dataclass
class Observation:
    """What was seen in a run.

    Attributes
    ----------
    calls : counter of torch.nn.Module
    shapes : dict of torch.nn.Module to list
        The shape of a module's first input, for each call.
    signatures : dict of torch.nn.Module to set of Signature
    edges : list of (source, module)
        Which layer returned what a layer is given: a module, or "input". Where functions stand between them, the last
        one to return the same shape.
    last : set of torch.nn.Module
        The layers that returned the model's output.
    output : object
    """

    calls: Counter[nn.Module] = field(default_factory=Counter)
    shapes: dict[nn.Module, list[tuple[int, ...]]] = field(default_factory=dict)
    signatures: dict[nn.Module, set[Signature]] = field(default_factory=dict)
    edges: list[tuple[nn.Module | str, nn.Module]] = field(default_factory=list)
    last: set[nn.Module | str] = field(default_factory=set)
    output: Any = None


def observe(feed: Feed, batch: Any) -> Observation:
    """Run a model once in inference mode, on a copy of a batch, and watch.

    The model's modes, attributes, buffers and hooks, the batch and the global random state are afterwards what they
    were. Whatever a model draws is the same each time.
    """
    watch = _Watch()
    handles: list[RemovableHandle] = []
    batch = map_nested(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, batch)
    try:
        with undisturbed(feed.model), inference(feed.model), repeatable(feed.model), torch.no_grad():
            for module in set(feed.model.modules()):
                if isinstance(module, torch.jit.ScriptModule):  # takes no hooks; `undisturbed` undoes this
                    vars(module)["forward"] = watch.watched(module, module.forward)
                    continue
                handles.append(module.register_forward_pre_hook(watch.enter, with_kwargs=True))
                handles.append(module.register_forward_hook(watch.leave, with_kwargs=True))
            watch.own(batch, "input")
            watch.observation.output = feed.consume(batch)
    finally:
        for handle in handles:
            handle.remove()
    observation = watch.observation
    owners = (watch.owner(tensor) for tensor in tensors_in(observation.output))
    observation.last = {owner for owner in owners if owner is not None}
    return observation


class _Watch:
    """The hooks of `observe`."""

    def __init__(self) -> None:
        self.observation = Observation()
        self._owners: dict[int, tuple[Any, nn.Module | str]] = {}  # by the id of a tensor that lives
        self._latest: dict[tuple[int, ...], nn.Module | str] = {}  # by shape

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.observation.calls[module] += 1
        given = list(tensors_in((args, kwargs)))
        if given:
            self.observation.shapes.setdefault(module, []).append(tuple(given[0].shape))
        self.observation.signatures.setdefault(module, set()).add(_signature(module, args, kwargs))
        if _computes(module):
            for tensor in given:
                owner = self.owner(tensor) or self._latest.get(tuple(tensor.shape))
                if owner is not None:
                    self.observation.edges.append((owner, module))

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if _computes(module):
            self.own(output, module)

    def watched(self, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(module, args, kwargs)
            output = forward(*args, **kwargs)
            self.leave(module, args, kwargs, output)
            return output

        return run

    def own(self, value: Any, owner: nn.Module | str) -> None:
        for tensor in tensors_in(value):
            self._owners[id(tensor)] = weakref.ref(tensor), owner
            self._latest[tuple(tensor.shape)] = owner

    def owner(self, tensor: Tensor) -> nn.Module | str | None:
        reference, owner = self._owners.get(id(tensor), (lambda: None, None))
        return owner if reference() is tensor else None


def _computes(module: nn.Module) -> bool:
    alone = isinstance(module, torch.jit.ScriptModule) or next(module.children(), None) is None
    return alone and not isinstance(module, nn.Identity | _DropoutNd)


def _signature(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
    try:
        signature = inspect.signature(module.forward)
        arguments = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):  # of compiled code
        return Signature()
    given: list[tuple[str, Any]] = []
    for name, value in arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            given.append((name, len(value)))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            given.append((name, tuple(value)))
        elif isinstance(value, Tensor):
            given.append((name, Signature.tensor))
        else:
            constant = _is_constant(value, signature.parameters[name].default)
            given.append((name, value if constant else Signature.unknown))
    return Signature(given)


def _is_constant(value: Any, default: Any) -> bool:
    """Tell whether a value is a setting. A number may come from a tensor's shape, unless it is the default."""
    if value is None or isinstance(value, bool | str | Enum | torch.dtype | torch.device):
        return True
    return isinstance(value, int | float) and type(value) is type(default) and value == default
