"""Where batch norm stands in a model: what feeds each layer, and what it feeds."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.errors import InputError
from batchnorm.files import json_ready
from batchnorm.markup import captioned_table
from batchnorm.results import SequenceResult
from batchnorm.toolkit.model import Feed, Forward, deep_copy, inference, open_model
from batchnorm.toolkit.structure.observation import Observation, observe
from batchnorm.toolkit.structure.tracing import Call, Scope, Trace, passes_on, trace, users

__all__ = ["Site", "Sites", "find_sites"]


@dataclass(frozen=True)
class Site:
    """A batch-norm layer, and where it stands.

    Attributes
    ----------
    name : str
        Its (first) qualified name; "" if it is the model itself.
    names : tuple of str
        All its names: more than one if the module is shared.
    layer : torch.nn.Module
    kind : str
        Its class, such as "BatchNorm2d".
    num_features : int or None
        None if it is lazy and not yet initialised.
    uses : int or None
        How often one forward pass calls it: as seen on a batch, or traced. None if neither is known.
    fed_by, feeds : tuple of str
        The qualified names of modules; names of functions such as "add" or "cat"; "input" and "output" of the model.
        An `nn.Identity` and dropout are looked through. Empty where it is not known.
    found_by : {"tracing", "shapes"} or None
        Whether these come from the traced code; or, where that cannot be traced, from a run, in which a value is known
        again as itself or, changed by a function, as the last one of its shape. None if the layer was not reached.
    shape : tuple of int or None
        Of its input in the first call; None without batches.
    """

    name: str
    names: tuple[str, ...]
    layer: nn.Module
    kind: str
    num_features: int | None
    uses: int | None
    fed_by: tuple[str, ...]
    feeds: tuple[str, ...]
    found_by: Literal["tracing", "shapes"] | None
    shape: tuple[int, ...] | None

    def __str__(self) -> str:
        features = "?" if self.num_features is None else self.num_features
        fed_by, feeds = (", ".join(names) or "?" for names in (self.fed_by, self.feeds))
        return f"{self.name or 'the model'}: {self.kind}({features}), {fed_by} → {feeds}"


class Sites(SequenceResult[Site]):
    """What `find_sites` returns: a sequence of `Site`."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "no batch norm"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, without the layers themselves, as what JSON knows."""
        described = [field.name for field in fields(Site) if field.name != "layer"]
        return {"sites": [json_ready({name: getattr(site, name) for name in described}) for site in self]}

    def _repr_html_(self) -> str:
        columns = ("layer", "kind", "channels", "fed by", "feeds")
        rows = [
            (
                site.name or "(the model)",
                site.kind,
                "?" if site.num_features is None else str(site.num_features),
                ", ".join(site.fed_by),
                ", ".join(site.feeds),
            )
            for site in self
        ]
        caption = "1 batch-norm layer" if len(self) == 1 else f"{len(self)} batch-norm layers"
        return captioned_table(caption, columns, rows, words=("kind", "fed by", "feeds"))


def find_sites(
    model: nn.Module,
    batches: Iterable[Any] | None = None,
    *,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
) -> Sites:
    """Return every batch-norm layer of a model, with what feeds it and what it feeds in inference.

    Parameters
    ----------
    model : torch.nn.Module
        With any batch-norm layers (`BatchNorm1d`, `2d`, `3d`, `SyncBatchNorm`, lazy or subclassed ones), or none. It is
        afterwards what it was.
    batches : iterable, optional
        As for `recalibrate`. The model is run on the first one, which shows shapes, and what its code does not tell.
    forward : callable, optional
        ``forward(model, batch)`` runs the model on any other kind of batch.
    device : torch.device or str, optional
        Where the batch is moved; by default to the model's first parameter.

    Returns
    -------
    Sites
        A sequence of `Site`, in the order of execution, as far as it is known; then in the order of the modules.

    Raises
    ------
    InputError
        If `model` is not a module, or there are no batches in `batches`.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    >>> print(*find_sites(model))
    1: BatchNorm1d(8), 0 → 2
    """
    model = open_model(model).module
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    runs = batches is not None and any(isinstance(module, LazyModuleMixin) for module in names)
    observed = deep_copy(model) if runs else model  # a run would initialise its lazy layers
    twins = dict(zip(model.modules(), observed.modules(), strict=True))
    layers = [layer for layer in names if isinstance(layer, _BatchNorm)]
    with inference(observed):
        flow = _flow(observed, batches, forward, device)
        order = flow.order()
        layers.sort(key=lambda layer: order.get(twins[layer], len(order)))
        return Sites(_site(tuple(names[layer]), layer, twins[layer], flow) for layer in layers)


def _site(names: tuple[str, ...], layer: _BatchNorm, twin: nn.Module, flow: "_Flow") -> Site:
    fed_by, feeds, found_by = flow.around(twin)
    shapes = flow.observation.shapes.get(twin) if flow.observation is not None else None
    return Site(
        name=names[0],
        names=names,
        layer=layer,
        kind=type(layer).__name__,
        num_features=layer.num_features or None,
        uses=flow.uses(twin),
        fed_by=fed_by,
        feeds=feeds,
        found_by=found_by,
        shape=shapes[0] if shapes else None,
    )


def _flow(
    model: nn.Module, batches: Iterable[Any] | None, forward: Forward | None, device: torch.device | str | None
) -> "_Flow":
    if batches is None:
        return _Flow(model, trace(model), None)
    feed = Feed(model, batches, forward=forward, device=device)
    batch = next(iter(feed), None)
    if batch is None:
        raise InputError("there are no batches: give one, or leave the argument out")
    observation = observe(feed, batch)
    return _Flow(model, trace(model, observation.signatures, feed=feed, batch=batch), observation)


class _Flow:
    """What is known of the flow of values through a model, from its code and perhaps from a run."""

    def __init__(self, model: nn.Module, traced: Trace, observation: Observation | None):
        self.observation = observation
        self._model, self._traced = model, traced
        self._names = {module: name for name, module in model.named_modules()}

    def order(self) -> dict[nn.Module, int]:
        """Return when modules are first called."""
        reached = self.observation.shapes if self.observation is not None else dict.fromkeys(self._in_traced_order())
        return {module: position for position, module in enumerate(reached)}

    def uses(self, layer: nn.Module) -> int | None:
        """Return how often a pass calls a layer."""
        if self.observation is not None:
            return self.observation.calls[layer]
        calls = self._traced.calls.get(layer, [])
        known = calls and all(call.scope.module is self._model for call in calls)
        return len(calls) // calls[0].scope.ways if known else None

    def around(self, layer: nn.Module) -> tuple[tuple[str, ...], tuple[str, ...], Literal["tracing", "shapes"] | None]:
        """Return what feeds a layer, what it feeds, and how that is known."""
        calls = self._traced.calls.get(layer, [])
        fed_by = _distinct(name for call in calls for name in self._sources(call.scope, call.source))
        feeds = _distinct(name for call in calls for name in self._users(call.scope, call.node))
        if (fed_by and feeds) or self.observation is None:
            return fed_by, feeds, "tracing" if calls else None
        before = _distinct(self._label(source) for source, target in self.observation.edges if target is layer)
        after = [self._label(target) for source, target in self.observation.edges if source is layer]
        after += ["output"] if layer in self.observation.last else []
        return fed_by or before, feeds or _distinct(after), "shapes" if self.observation.calls[layer] else None

    def _in_traced_order(self) -> Iterator[nn.Module]:
        scopes = {scope.module: scope for scope in self._traced.scopes}
        entered: set[nn.Module] = set()

        def enter(module: nn.Module) -> Iterator[nn.Module]:
            if module not in entered:
                entered.add(module)
                yield module
                for called in scopes[module].modules.values() if module in scopes else module.children():
                    yield from enter(called)

        return enter(self._model)

    def _sources(self, scope: Scope, node: Node | None) -> Iterator[str]:
        """Yield the names of what has made a value."""
        if node is None:
            return
        module = scope.modules.get(node)
        if module is not None and not passes_on(module):
            yield self._names[module]
        elif module is not None:
            yield from self._sources(scope, Call(module, node, scope).source)
        elif node.op != "placeholder":
            yield _function_name(node)
        elif scope.module is self._model:
            yield "input"
        else:
            for call in self._traced.calls.get(scope.module, []):
                yield from self._sources(call.scope, _argument(call, node))

    def _users(self, scope: Scope, node: Node) -> Iterator[str]:
        """Yield the names of what uses a value."""
        for user in users(node):
            module = scope.modules.get(user)
            if module is not None and not passes_on(module):
                yield self._names[module]
            elif module is not None:
                yield from self._users(scope, user)
            elif user.op != "output":
                yield _function_name(user)
            elif scope.module is self._model:
                yield "output"
            else:
                for call in self._traced.calls.get(scope.module, []):
                    yield from self._users(call.scope, call.node)

    def _label(self, owner: nn.Module | str) -> str:
        return owner if isinstance(owner, str) else self._names[owner]


def _argument(call: Call, placeholder: Node) -> Node | None:
    """Return what is passed for a parameter in a call."""
    bound = inspect.signature(call.module.forward).bind(*call.node.args, **call.node.kwargs).arguments
    value = bound.get(str(placeholder.target))
    return value if isinstance(value, Node) else None


def _function_name(node: Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
