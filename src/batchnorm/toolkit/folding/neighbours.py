"""Which layer a batch norm takes its input from, and which it gives its output to, through what passes values on."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from batchnorm.toolkit.folding.refusals import Refusal
from batchnorm.toolkit.structure import Call, Scope, Trace, asks, hooked, passes_on, users

__all__ = ["LINEAR", "LinearLayer", "Way", "downstream", "neighbour", "upstream"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear, *_CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


LinearLayer = nn.Linear | _ConvNd


class Way(NamedTuple):
    """Where one comes to from one call of a batch norm.

    Attributes
    ----------
    scope : Scope
    node : torch.fx.Node or None
        The first that does something with the values, or has made them. None if it is not a single one.
    module : torch.nn.Module or None
        What it calls.
    private : bool
        Whether nobody else uses what is between the two.
    flattened : bool
        Whether all dimensions but the first become one on the way.
    """

    scope: Scope
    node: Node | None
    module: nn.Module | None
    private: bool
    flattened: bool = False


def upstream(call: Call) -> Way:
    """Go to what feeds a call."""
    scope, node, private = call.scope, call.source, True
    while node is not None:
        private = private and len(users(node)) == 1
        module = scope.modules.get(node)
        if module is None or not passes_on(module):
            return Way(scope, node, module, private)
        node = Call(module, node, scope).source
    return Way(scope, None, None, private)


def downstream(call: Call) -> Way:
    """Go to what a call feeds.

    Raises
    ------
    Refusal
        If a linear layer is one of several that it feeds, or something else comes between.
    """
    scope, node, flattened = call.scope, call.node, False
    passed = {node}
    while True:
        following = users(node)
        if len(following) != 1:
            if any(isinstance(scope.modules.get(user), LINEAR) for user in following):
                raise Refusal("several-users")
            return Way(scope, None, None, False)
        node = following[0]
        module = scope.modules.get(node)
        if _flattens(node, module):
            flattened = True
        elif module is None or not passes_on(module):
            break
        passed.add(node)
    if isinstance(module, LINEAR) and _interrupted(call.node, node, passed):
        raise Refusal("interleaved")
    return Way(scope, node, module, True, flattened)


def neighbour(
    model: nn.Module, trace: Trace, norm: nn.Module, look: Callable[[Call], Way]
) -> tuple[nn.Module, list[Way]]:
    """Return the one module whose calls all calls of a batch norm lead to, and the ways there.

    Raises
    ------
    Refusal
        If they do not.
    """
    ways = [look(call) for call in trace.calls[norm]]
    modules = set()
    for way in ways:
        at_edge = way.node is not None and way.node.op in ("placeholder", "output")
        if at_edge and way.scope.module is not model:
            raise Refusal("hooks" if hooked(way.scope.module) else "untraceable")
        if way.module is None:
            raise Refusal("no-neighbour")
        modules.add(way.module)
    if len(modules) > 1:
        raise Refusal("shared" if any(isinstance(module, LINEAR) for module in modules) else "no-neighbour")
    return modules.pop(), ways


def _flattens(node: Node, module: nn.Module | None) -> bool:
    if module is not None:
        plain = type(module) is nn.Flatten and not hooked(module) and "forward" not in vars(module)
        return plain and bool(module.start_dim == 1 and module.end_dim == -1)
    if node.target is not torch.flatten and not (node.op == "call_method" and node.target == "flatten"):
        return False
    return (node.args[1:], node.kwargs) in (((1,), {}), ((1, -1), {}), ((), {"start_dim": 1}))


def _interrupted(start: Node, end: Node, passed: set[Node]) -> bool:
    """Tell whether anything else is computed between two nodes.

    The batch norm's output becomes its input itself, which something that is computed in between may write to.
    """
    node = start.next
    while node is not end:
        if node not in passed and node.op != "placeholder" and not asks(node):
            return True
        node = node.next
    return False
