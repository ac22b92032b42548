"""What a batch norm with a forward of its own does besides: an activation, say, of what torch's batch norm returns."""

import inspect
from typing import Any, cast

from torch import nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.toolkit.structure import asks, own_forward, users

__all__ = ["become_remainder", "is_identity", "remainder"]

_OWN = ("running_mean", "running_var", "weight", "bias")


def remainder(norm: _BatchNorm) -> Graph | None:
    """Return what a layer makes of its batch norm, as a function of that alone, or None if its code does not show it.

    The first thing, and the only one, that is done with the input must be torch's batch norm in inference, with the
    statistics and parameters that the layer has; nothing else may use these.
    """
    graphs = own_forward(norm)
    if len(graphs) != 1:
        return None
    (graph,) = graphs
    called = [node for node in graph.nodes if node.target is functional.batch_norm]
    given = next(node for node in graph.nodes if node.op == "placeholder")
    if len(called) != 1 or users(given) != called or not _is_its_own(called[0], given, norm):
        return None
    called[0].replace_all_uses_with(given)
    graph.erase_node(called[0])
    for node in [node for node in graph.nodes if node.op == "get_attr" and not node.users]:
        graph.erase_node(node)
    if any(node.op == "get_attr" and node.target in _OWN for node in graph.nodes):
        return None
    return _plain(graph)


def is_identity(graph: Graph) -> bool:
    """Tell whether a graph returns what it is given, and does nothing else with it."""
    given, *between, output = graph.nodes
    return all(map(asks, between)) and output.args == (given,)


def become_remainder(norm: nn.Module, graph: Graph) -> None:
    """Turn a layer into a module that computes a graph, whoever refers to it; what it calls keeps its name."""
    module = GraphModule(norm, graph)
    norm.__class__ = type(module)
    vars(norm).clear()
    vars(norm).update(vars(module))
    cast(GraphModule, norm).graph = graph  # is owned by the layer now


def _is_its_own(node: Node, given: Node, norm: _BatchNorm) -> bool:
    arguments: dict[str, Any] = inspect.signature(functional.batch_norm).bind(*node.args, **node.kwargs).arguments
    own = all(_gets(arguments.get(name), name) == (getattr(norm, name) is not None) for name in _OWN)
    in_inference = arguments.get("training", False) is False and arguments.get("eps", 1e-5) == norm.eps
    return own and in_inference and arguments["input"] is given


def _gets(value: Any, name: str) -> bool | None:
    """Tell whether a value is the attribute of that name, or none at all; None if it is something else."""
    if value is None:
        return False
    return True if isinstance(value, Node) and (value.op, value.target) == ("get_attr", name) else None


def _plain(graph: Graph) -> Graph:
    """Return the same graph without what it knows of the code that traced it: it can be pickled."""
    plain = Graph()
    plain.output(plain.graph_copy(graph, {}))
    return plain
