"""A model copied, whatever tensors it holds."""

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer
from torch.overrides import TorchFunctionMode

from batchnorm.errors import InputError, in_words

Model = TypeVar("Model", bound=nn.Module)


def deep_copy(model: Model) -> Model:
    """Copy a model, with tensors that `copy.deepcopy` does not copy: computed, uninitialised, sparse ones.

    Raises
    ------
    InputError
        If it holds something else that cannot be copied, such as a lock, a generator or an open file.
    """
    functions = (
        f for module in model.modules() for f in vars(module).values() if isinstance(f, torch.jit.ScriptFunction)
    )
    try:
        with _CopyingAll():
            return copy.deepcopy(model, {id(function): function for function in functions})  # as any other function
    except Exception as error:
        raise InputError(
            f"the model cannot be copied{_where(model)} ({in_words(error)}): take out what cannot be copied, or give "
            "its class a __deepcopy__"
        ) from error


class _CopyingAll(TorchFunctionMode):
    """Has `copy.deepcopy` copy every tensor, wherever it is held."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not Tensor.__deepcopy__:
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) in memo:
            return memo[id(tensor)]
        memo[id(tensor)] = copied = _copied(tensor, memo)
        return copied


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    if isinstance(tensor, UninitializedBuffer):
        return UninitializedBuffer(device=tensor.device, dtype=tensor.dtype)  # type: ignore[call-arg]
    try:
        copied: Tensor = Tensor.__deepcopy__(tensor, memo)  # type: ignore[no-untyped-call]  # views of one memory stay that
    except RuntimeError:  # computed from parameters (weight_norm), sparse, of a class of someone's own
        copied = tensor.detach().clone()
        if tensor.is_leaf:
            copied.requires_grad_(tensor.requires_grad)
    return copied


def _where(model: nn.Module) -> str:
    """Return which attribute of which part cannot be copied, to be put into a message."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute == "_modules":
                continue
            try:
                with _CopyingAll():
                    copy.deepcopy(value)
            except Exception:
                return f", for its {'.'.join(filter(None, (name, attribute)))}"
    return ""
