"""Which layer a batch norm takes its input from, and which it gives its output to, through what passes values on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.conv import _ConvNd

from batchnorm.toolkit.folding.refusals import Refusal
from batchnorm.toolkit.structure import Call, Scope, Trace, asks, hooked, passes_on, users

__all__ = ["LINEAR", "LinearLayer", "Way", "downstream", "flattening", "neighbour", "upstream"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LINEAR = (nn.Linear, *_CONVOLUTIONS, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Give values another shape, in the order in which they are.
_RESHAPES = {"flatten", "reshape", "reshape_as", "squeeze", "unsqueeze", "view", "view_as"}
_RESHAPE_FUNCTIONS = {torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze}


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
    reshapes : tuple of torch.fx.Node
        What gives the values another shape on the way, in the order of execution.
    """

    scope: Scope
    node: Node | None
    module: nn.Module | None
    private: bool
    reshapes: tuple[Node, ...] = ()


def upstream(call: Call) -> Way:
    """Go to what feeds a call."""
    scope, node, private = call.scope, call.source, True
    reshapes: tuple[Node, ...] = ()
    while node is not None:
        private = private and len(users(node)) == 1
        module = scope.modules.get(node)
        if _reshapes(node, module):
            reshapes = (node, *reshapes)
        elif module is None or not passes_on(module):
            return Way(scope, node, module, private, reshapes)
        node = node.args[0] if module is None else Call(module, node, scope).source  # type: ignore[assignment]
    return Way(scope, None, None, private)


def downstream(call: Call) -> Way:
    """Go to what a call feeds.

    Raises
    ------
    Refusal
        If a linear layer is one of several that it feeds, or something else comes between.
    """
    scope, node = call.scope, call.node
    reshapes: tuple[Node, ...] = ()
    passed = {node}
    while True:
        following = users(node)
        if len(following) != 1:
            if any(isinstance(scope.modules.get(user), LINEAR) for user in following):
                raise Refusal("several-users")
            return Way(scope, None, None, False)
        node = following[0]
        module = scope.modules.get(node)
        if _reshapes(node, module):
            reshapes = (*reshapes, node)
        elif module is None or not passes_on(module):
            break
        passed.add(node)
    if isinstance(module, LINEAR) and _interrupted(call.node, node, passed):
        raise Refusal("interleaved")
    return Way(scope, node, module, True, reshapes)


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


def flattening(way: Way) -> tuple[int, int] | None:
    """Return the first and last of the dimensions that become one on a way, if nothing else happens to the shape."""
    if len(way.reshapes) != 1:
        return None
    (node,) = way.reshapes
    module = way.scope.modules.get(node)
    if isinstance(module, nn.Flatten):
        return module.start_dim, module.end_dim
    if node.target is not torch.flatten and node.target != "flatten":
        return None
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    start, end = given.get("start_dim", 0), given.get("end_dim", -1)
    return (start, end) if isinstance(start, int) and isinstance(end, int) else None


def _reshapes(node: Node, module: nn.Module | None) -> bool:
    if module is not None:
        return type(module) in (nn.Flatten, nn.Unflatten) and not hooked(module) and "forward" not in vars(module)
    if not node.args or not isinstance(node.args[0], Node):
        return False
    if node.target == "view" and not _is_shape(node.args[1:]):
        return False  # but as another dtype
    return node.target in (_RESHAPES if node.op == "call_method" else _RESHAPE_FUNCTIONS)


def _is_shape(given: tuple[Any, ...]) -> bool:
    if len(given) != 1 or not isinstance(given[0], Node):
        return bool(given) and not isinstance(given[0], torch.dtype)
    (node,) = given
    return node.target == "size" or (node.target is getattr and node.args[1] == "shape")


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
