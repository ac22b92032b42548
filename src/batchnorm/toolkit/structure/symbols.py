"""Symbols that stand for tensors while code is traced: what kind of value each is, and what `isinstance` says of it."""

import builtins
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import getitem
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.fx import Node, Proxy

from batchnorm.forking import fork_when_free

Kind = Literal["tensor", "answer", "unknown"]

# What can be asked about a tensor without using its values.
_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "layout"}
_QUESTIONS = {"size", "dim", "ndimension", "numel", "nelement", "get_device", "is_floating_point"}
# Whose code deals with symbols as such.
_KNOW_SYMBOLS = (__name__.rpartition(".")[0], "torch.fx", "torch.nn.parameter", "torch.nn.modules.module")

_one_at_a_time = threading.RLock()
fork_when_free(_one_at_a_time)  # else a child would keep what tracing replaces


def kind_of(node: Node) -> Kind:
    """Tell whether a value is a tensor, an answer to a question about one, or neither for certain."""
    asked = node.op == "call_function" and node.target is getattr and node.args[1] in _ATTRIBUTES
    if asked or (node.op == "call_method" and node.target in _QUESTIONS):
        return "answer"
    given = [source.meta["kind"] for source in node.all_input_nodes]
    if given and all(kind == "answer" for kind in given):
        return "answer"
    return "tensor" if "tensor" in given and node.target is not getitem else "unknown"


def _is_number(node: Node) -> bool:
    """Tell whether a value is a size, or a number that is computed from sizes alone."""
    if node.op == "call_method":
        return node.target in _QUESTIONS - {"size", "get_device", "is_floating_point"} or (
            node.target == "size" and len(node.args) + len(node.kwargs) == 2
        )
    if node.op != "call_function":
        return False
    if node.target is getitem:
        return isinstance(node.args[1], int) and _is_shape(node.args[0])
    if node.target is getattr:
        return node.args[1] == "ndim"
    of_numbers = getattr(node.target, "__module__", "") in ("_operator", "math", "builtins")
    return of_numbers and bool(node.all_input_nodes) and all(map(_is_number, node.all_input_nodes))


def _is_shape(node: Any) -> bool:
    if node.target is getitem:
        return isinstance(node.args[1], slice) and _is_shape(node.args[0])
    return (node.target is getattr and node.args[1] == "shape") or (node.target == "size" and len(node.args) == 1)


@contextmanager
def telling_kinds() -> Iterator[None]:
    """Have `isinstance` answer for a symbol as for what it stands for, or raise if that is not known.

    Otherwise code that asks whether it was given a tensor would go the other way, unnoticed. A symbol whose `__class__`
    is `Tensor` would do the same for Python, but torch's C++ asks too, and would take the symbol for one: it crashes.

    All threads see the replaced function, as they see what torch.fx does to `torch.nn.Module`: one traces at a time.
    """

    def answer(value: Any, kind: Any, /) -> bool:
        asked_by = sys._getframe(1).f_globals.get("__name__", "")
        if not original(value, Proxy) or asked_by.startswith(_KNOW_SYMBOLS):
            return original(value, kind)
        if _is_number(value.node) and len({original(number, kind) for number in (1, 1.0)}) == 1:
            return original(1, kind)
        special = any(issubclass(k, Tensor) and k is not Tensor for k in types_in(kind))
        if value.node.meta["kind"] != "tensor" or special:
            raise TypeError(f"whether a symbol is a {kind} is not known")
        return original(a_tensor, kind)

    def types_in(kind: Any) -> Iterator[type]:
        if original(kind, type):
            yield kind
        for part in kind if original(kind, tuple) else get_args(kind):
            yield from types_in(part)

    a_tensor = torch.empty(0)
    with _one_at_a_time:
        original = builtins.isinstance
        builtins.isinstance = answer
        try:
            yield
        finally:
            builtins.isinstance = original


def symbols_in(value: Any, *, objects: bool = False) -> Iterator[Proxy]:
    """Yield the symbols in a value, its parts and, on request, the attributes of objects."""
    if isinstance(value, Proxy):
        yield value
    elif isinstance(value, Mapping):
        yield from symbols_in(list(value.values()), objects=objects)
    elif isinstance(value, tuple | list | set):
        for part in value:
            yield from symbols_in(part, objects=objects)
    elif objects and hasattr(value, "__dict__") and not isinstance(value, nn.Module | type | Tensor):
        yield from symbols_in(vars(value), objects=objects)
