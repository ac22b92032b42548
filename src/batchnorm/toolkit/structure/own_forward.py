"""What a single layer's own forward computes, where its class does more than torch's: traced with its tensors named."""

import copy
import inspect
import threading
import warnings
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node, Proxy, Tracer

from batchnorm.toolkit.structure.arithmetic import Symbol, Turns, all_ways, arithmetic
from batchnorm.toolkit.structure.symbols import kind_of, telling_kinds

__all__ = ["own_forward"]

_CHECKS = ("_check_input_dim", "_check_non_zero_input_channels")  # of torch's: they ask for a shape, and only raise


def own_forward(layer: nn.Module) -> list[Graph]:
    """Return graphs of what a layer computes in the mode that it has, or none if its code cannot be traced.

    The layer's parameters and buffers are the targets of nodes that get an attribute; what it holds is called, never
    looked into. It has one placeholder, as the layer has one input. There is more than one graph if the code goes one
    way or another by the sizes of its input: one for each way.

    Parameters
    ----------
    layer : torch.nn.Module
        It is afterwards what it was: a copy is traced.
    """
    try:
        twin = copy.deepcopy(layer)
        if "forward" in vars(layer) or len(inspect.signature(layer.forward).parameters) != 1:
            return []
        for check in _CHECKS:
            if getattr(getattr(type(layer), check, None), "__module__", "").startswith("torch.nn."):
                setattr(twin, check, lambda _: None)
        with telling_kinds(), arithmetic() as convert, torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same ones as in a run
            graphs, again = (all_ways(lambda turns: _Tracer(turns).trace(twin), convert) for _ in range(2))
    except Exception:  # whatever a layer's code raises when it is given symbols
        return []
    if [*map(str, graphs)] != [*map(str, again)]:
        return []  # it counts, or draws numbers
    named = {name for name, _ in (*layer.named_parameters(), *layer.named_buffers())}
    taken = {node.target for graph in graphs for node in graph.nodes if node.op == "get_attr"}
    return graphs if taken <= named else []  # a tensor that is made on the way may be another one each time


class _Tracer(Tracer):
    """Runs the code of a layer on a symbol, with symbols for its tensors."""

    proxy_buffer_attributes = True

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Note the call, of this thread: torch.fx sends us the modules of all threads."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)

    def proxy(self, node: Node) -> Proxy:
        """Return the symbol for a value."""
        return Symbol(node, self)

    def to_bool(self, obj: Proxy) -> bool:
        """Take one turn or the other where that depends on sizes alone."""
        return self._turns.next() if obj.node.meta["kind"] == "answer" else bool(super().to_bool(obj))  # raises

    def create_node(self, *args: Any, **kwargs: Any) -> Node:
        """Note of each value what kind it is of."""
        node = super().create_node(*args, **kwargs)
        node.meta["kind"] = "tensor" if node.op in ("placeholder", "get_attr") else kind_of(node)
        return node
