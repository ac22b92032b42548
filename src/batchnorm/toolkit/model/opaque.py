"""What cannot be looked into: TorchScript, and graphs of operators as `torch.export` makes them."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.fx import Graph, Node
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.errors import InputError


def refuse_opaque(model: nn.Module) -> None:
    """Refuse a model whose batch norm, or that of a part, is no layer any more but compiled into other code.

    Raises
    ------
    InputError
        If it is TorchScript as a whole, or has a part that is and normalises; if it is, or has, a graph of operators of
        which one is a batch norm.
    """
    for name, module in model.named_modules():
        what = f"part {name!r} of the model" if name else "the model"
        if isinstance(module, torch.jit.ScriptModule) and (not name or _scripted_norm(module)):
            raise InputError(
                f"{what} is TorchScript ({type(module).__name__}), in which batch norm is no layer that can be looked "
                "at or changed: use the original model, before torch.jit.script or torch.jit.trace"
            )
        if any(map(_is_norm, _nodes(module))):
            raise InputError(
                f"{what} is a graph of operators ({type(module).__name__}), such as torch.export makes, in which batch "
                "norm is no layer any more: use the model that it was made from"
            )


def _scripted_norm(module: nn.Module) -> bool:
    """Tell whether any code of a module in TorchScript, or of what is in it, calls batch norm."""
    for part in module.modules():
        code: Any = part._c
        methods = (code._get_method(name) for name in code._method_names())
        if any("batch_norm" in kind for method in methods for kind in _kinds(method.inlined_graph)):
            return True
    return False


def _kinds(block: Any) -> Iterator[str]:
    """Yield the kinds of the operators in TorchScript, and in its branches and loops."""
    for node in block.nodes():
        yield node.kind()
        for inner in node.blocks():
            yield from _kinds(inner)


def _nodes(module: nn.Module) -> Iterator[Node]:
    """Yield the nodes of the graphs that a module runs in the place of code."""
    for value in vars(module).values():
        if isinstance(value, Graph):
            yield from value.nodes


def _is_norm(node: Node) -> bool:
    """Tell whether a node is a batch norm that is an operator, or a part of one that was a layer."""
    if node.op != "call_function":
        return False
    if isinstance(node.target, torch._ops.OpOverload) and "batch_norm" in str(node.target):
        return True
    return any(_is_norm_class(kind) for _, kind in (node.meta.get("nn_module_stack") or {}).values())


def _is_norm_class(kind: Any) -> bool:
    return issubclass(kind, _BatchNorm) if isinstance(kind, type) else str(kind).startswith(_BatchNorm.__module__)
