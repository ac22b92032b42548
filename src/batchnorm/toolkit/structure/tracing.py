"""Which layer feeds which, for every input: a model's code is run on symbols in place of tensors (`torch.fx`).

Arithmetic with sizes is followed. A part whose code cannot be run so, as it goes one way or another by what it is
given, is left closed, and is traced on its own: what is known inside it stays known. Each such part, and the model
itself, is a `Scope`; where sizes decide which way it goes, one for each way.
"""

import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, Node, Proxy, Tracer
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

from batchnorm.toolkit.model import Feed, map_nested, undisturbed, unwrapped
from batchnorm.toolkit.structure.arithmetic import Asked, Symbol, Turns, all_ways, arithmetic
from batchnorm.toolkit.structure.observation import Signature
from batchnorm.toolkit.structure.symbols import Kind, kind_of, symbols_in, telling_kinds

__all__ = ["Call", "Scope", "Trace", "asks", "hooked", "is_leaf", "passes_on", "trace", "users"]

_CONTAINERS = nn.Sequential | nn.ModuleList | nn.ModuleDict
_LIKE_ANOTHER = {"reshape_as", "view_as", "expand_as", "type_as"}  # methods that ask an argument for its shape or dtype


@dataclass(frozen=True, eq=False)
class Scope:
    """A module whose code was traced: what it calls, in order.

    Attributes
    ----------
    module : torch.nn.Module
    graph : torch.fx.Graph
    modules : dict of torch.fx.Node to torch.nn.Module
        What is called by the nodes that call a module; none of these modules was looked into.
    whole : bool
        Whether it is one run of the model on a batch.
    ways : int
        How many scopes there are of this code: one for each way that sizes may lead through it. All ways call the same
        modules, each of them equally often.
    """

    module: nn.Module
    graph: Graph
    modules: dict[Node, nn.Module]
    whole: bool
    ways: int = 1


@dataclass(frozen=True, eq=False)
class Call:
    """A place in the code at which a module is called."""

    module: nn.Module
    node: Node
    scope: Scope

    @property
    def source(self) -> Node | None:
        """What the module is given, if it is a single value."""
        given = [*self.node.args, *self.node.kwargs.values()]
        return given[0] if len(given) == 1 and isinstance(given[0], Node) else None


@dataclass
class Trace:
    """What is known of the flow of values through a model.

    Attributes
    ----------
    scopes : list of Scope
    calls : dict of torch.nn.Module to list of Call
        All calls that are known, of the modules that were not looked into.
    read : set of torch.nn.Module
        Of which code has taken a parameter or buffer, to do something else with.
    """

    scopes: list[Scope] = field(default_factory=list)
    calls: dict[nn.Module, list[Call]] = field(default_factory=dict)
    read: set[nn.Module] = field(default_factory=set)


def trace(
    model: nn.Module,
    signatures: Mapping[nn.Module, set[Signature]] | None = None,
    *,
    feed: Feed | None = None,
    batch: Any = None,
) -> Trace:
    """Follow the values through a model, in the modes that its modules have.

    Parameters
    ----------
    model : torch.nn.Module
        Its attributes and buffers are afterwards what they were.
    signatures : mapping of torch.nn.Module to set, optional
        How modules are called, from `observe`. Without it, optional arguments have their default values.
    feed, batch : Feed and a batch of it, optional
        How the model as a whole is run.
    """
    explorer = _Explorer(model, signatures or {})
    if (
        feed is not None
        and (closed := explorer.attempt(model, lambda tracer: feed.consume(tracer.symbols(batch)), whole=True))
        is not None
    ):
        explorer.explore(closed)
    else:
        explorer.explore([model])
    return explorer.found


def users(node: Node) -> list[Node]:
    """Return the nodes that use a node's values, not only its shape, dtype or device."""
    return [user for user in node.users if not asks(user) and not _is_only_like(user, node)]


def asks(node: Node) -> bool:
    """Tell whether a node is about a tensor's shape, dtype or device alone."""
    return bool(node.meta["kind"] == "answer")


def _is_only_like(user: Node, node: Node) -> bool:
    return user.op == "call_method" and user.target in _LIKE_ANOTHER and user.args[0] is not node


def is_leaf(module: nn.Module) -> bool:
    """Tell whether a module is one of torch's own layers, or a kind of one: it is not looked into."""
    own = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return isinstance(module, _BatchNorm | nn.Linear | _ConvNd) or (own and not isinstance(module, _CONTAINERS))


def hooked(module: nn.Module) -> bool:
    """Tell whether a module has hooks, which see or change what goes through it."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def passes_on(module: nn.Module) -> bool:
    """Tell whether a module returns what it is given: an identity, or dropout in inference."""
    if hooked(module) or "forward" in vars(module):
        return False
    return type(module) is nn.Identity or (
        isinstance(module, _DropoutNd) and type(module).__module__ == _DropoutNd.__module__ and not module.training
    )


class _Explorer:
    """Traces a model, then the parts of it that stayed closed."""

    def __init__(self, model: nn.Module, signatures: Mapping[nn.Module, set[Signature]]):
        self.found = Trace()
        self._model, self._signatures = model, signatures
        self._explored: set[nn.Module] = set()

    def explore(self, modules: Iterable[nn.Module]) -> None:
        """Trace modules on their own, and where a module cannot be traced, what is in it."""
        for module in modules:
            if module in self._explored:
                continue
            self._explored.add(module)
            if is_leaf(module) and module is not self._model:
                self.explore(module.children())  # of a ModuleList, say
                continue
            called = self._signatures.get(module, set())
            closed = self.attempt(module, lambda tracer, m=module, c=called: tracer.call(m, c))  # type: ignore[misc]
            self.explore(module.children() if closed is None else closed)

    def attempt(
        self, module: nn.Module, run: Callable[["_Tracer"], Any], *, whole: bool = False
    ) -> list[nn.Module] | None:
        """Trace a module; return what it calls and was not looked into, or None if it cannot be traced."""
        with (
            telling_kinds(), arithmetic() as convert, undisturbed(self._model), torch.no_grad(),
            warnings.catch_warnings(),
        ):  # fmt: skip
            warnings.simplefilter("ignore")  # the same ones as in a run
            read: set[int] = set()

            def one_way(turns: Turns) -> Scope:
                return _Tracer(self._model, module, convert, turns, read).scope_of(run, whole)

            try:
                ways = all_ways(one_way, convert)
            except Exception:  # whatever a model's code raises when it is given symbols
                return None
            self.found.read |= {holder for holder in self._model.modules() if read & _held_by(holder)}
        if len({frozenset(Counter(scope.modules.values()).items()) for scope in ways}) > 1:
            return None
        for scope in (replace(scope, ways=len(ways)) for scope in ways):
            self.found.scopes.append(scope)
            for node, called in scope.modules.items():
                self.found.calls.setdefault(called, []).append(Call(called, node, scope))
        return list(ways[0].modules.values())


class _Tracer(Tracer):
    """Runs code on symbols; what it cannot look into becomes one call."""

    def __init__(
        self, model: nn.Module, top: nn.Module, convert: Callable[[CodeType], bool], turns: Turns, read: set[int]
    ):
        super().__init__(param_shapes_constant=True)
        self._names: dict[nn.Module, str] = {module: name for name, module in model.named_modules()}
        self._top, self._convert, self._turns = top, convert, turns
        self._within: list[nn.Module] = []
        self._thread = threading.get_ident()
        self._closed: set[nn.Module] = set()
        self._called: dict[Node, nn.Module] = {}
        self._read = read

    def scope_of(self, run: Callable[["_Tracer"], Any], whole: bool) -> Scope:
        """Run the code of a module."""

        def traced() -> Any:
            output = run(self)
            there = set(self.graph.nodes)
            # A symbol that stays in an attribute is there for someone to use.
            left = [symbol for module in self._top.modules() for symbol in symbols_in(list(vars(module).values()))]
            return [*symbols_in(output, objects=True), *(symbol for symbol in left if symbol.node in there)]

        graph = self.trace(traced)
        graph.lint()  # nothing uses what was taken back
        called = {node: self._called[node] for node in graph.nodes if node in self._called}
        return Scope(self._top, graph, called, whole)

    def call(self, module: nn.Module, signatures: set[Signature]) -> Any:
        """Call a module in the one way in which it is called, with symbols for tensors."""
        if len(signatures) > 1:
            raise ValueError("it is called in several ways, which may go different ways through its code")
        given: dict[str, Any] = dict(next(iter(signatures), ()))
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for name, parameter in inspect.signature(module.forward).parameters.items():
            if parameter.kind is parameter.VAR_POSITIONAL:
                args += [self._symbol(f"{name}_{i}") for i in range(given.get(name, 0))]
            elif parameter.kind is parameter.VAR_KEYWORD:
                kwargs |= {key: self._symbol(key) for key in given.get(name, ())}
            else:
                required = parameter.default is parameter.empty
                value = given.get(name, Signature.tensor if required else parameter.default)
                if value in (Signature.tensor, Signature.unknown):
                    value = self._symbol(name, "tensor" if value is Signature.tensor else "unknown")
                if parameter.kind is parameter.KEYWORD_ONLY:
                    kwargs[name] = value
                else:
                    args.append(value)
        return module(*args, **kwargs)

    def symbols(self, batch: Any) -> Any:
        """Return a batch with symbols in the place of its tensors."""
        return map_nested(lambda leaf: self._symbol("input") if isinstance(leaf, Tensor) else leaf, batch)

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Look into a module, or note the call. `forward`, which would call hooks with symbols, is not used."""
        if threading.get_ident() != self._thread:  # torch.fx sends us the modules of all threads
            return forward(*args, **kwargs)
        m = unwrapped(m)
        path = self.path_of_module(m)
        if not (is_leaf(m) or m in self._closed or (hooked(m) and m is not self._top)):
            # An attribute gets its node when it is first used: here, as what a part has made may be taken back.
            _ = [symbol.node for symbol in symbols_in((args, kwargs))]
            before = next(iter(reversed(self.graph.nodes)), None)
            self._within.append(m)
            try:
                return m.forward(*args, **kwargs)
            except Exception as error:  # whatever a model's code raises when it is given symbols
                self._take_back(before)
                if m is self._top or (isinstance(error, Asked) and error.answered_by(self._convert)):
                    raise
                self._closed.add(m)
            finally:
                self._within.pop()
        called = self.create_proxy("call_module", path, args, kwargs)
        self._called[called.node] = m
        called.node.meta["kind"] = "tensor" if is_leaf(m) else "unknown"
        return called

    def path_of_module(self, mod: nn.Module) -> str:
        """Return a module's qualified name in the whole model."""
        name = self._names.get(mod)
        if name is None:
            raise NameError("a module is called that is no part of the model")
        return name

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Proxy]) -> Any:
        """Note which tensors code takes out of modules; they stay tensors, whose shape is known."""
        if isinstance(attr_val, Tensor) and threading.get_ident() == self._thread:
            self._read.add(id(attr_val))
        return attr_val

    def create_arg(self, a: Any) -> Any:
        """Leave tensors out of the graph: it is about what depends on the input."""
        if isinstance(a, Proxy):
            return a.node
        return None if isinstance(a, Tensor) else super().create_arg(a)

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        """Note of each value whether it is a tensor, an answer to a question about one, or neither for certain."""
        node = super().create_node(*args, **kwargs)
        node.meta["kind"] = kind_of(node)
        return node

    def to_bool(self, obj: Proxy) -> bool:
        """Take one turn or the other where that depends on sizes alone; a part that asks is left closed."""
        if obj.node.meta["kind"] != "answer" or any(module is not self._top for module in self._within):
            return bool(super().to_bool(obj))  # raises
        return self._turns.next()

    def proxy(self, node: Node) -> Proxy:
        """Return the symbol for a value."""
        return Symbol(node, self)

    def _symbol(self, name: str, kind: Kind = "tensor") -> Proxy:
        symbol = self.create_proxy("placeholder", name, (), {})
        symbol.node.meta["kind"] = kind
        return symbol

    def _take_back(self, last: Node | None) -> None:
        for node in reversed(self.graph.nodes):
            if node is last:
                return
            self.graph.erase_node(node)


def _held_by(module: nn.Module) -> set[int]:
    """Return the ids of a module's own tensors."""
    return {id(tensor) for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None}
