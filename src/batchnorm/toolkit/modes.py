"""What a model is left with: the modes of its modules, its buffers; and whether someone listens in."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put a model into inference mode, and afterwards give each of its modules its own mode back."""
    with modes_restored(model):
        model.eval()
        yield


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give each module of a model its own mode back afterwards, also when the model raises.

    Not the top module's flag alone: a part that someone keeps in inference mode (frozen layers) stays in it.
    """
    # What was asked of each: a frozen layer's property tells another mode. A compiled module has no entry of its own.
    modes = [(module, vars(module).get("training", module.training)) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def buffers_restored(model: nn.Module, *, on_error_only: bool = False) -> Iterator[None]:
    """Give all buffers of a model their values back afterwards: always, or only if what happens meanwhile raises."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None and not is_lazy(buffer)
    ]

    def restore() -> None:
        with torch.no_grad():
            for module, name, buffer, value in before:
                module._buffers[name] = buffer.copy_(value)  # some models put another tensor in its place

    try:
        yield
    except BaseException:
        restore()
        raise
    if not on_error_only:
        restore()


def has_hooks(model: nn.Module) -> bool:
    """Tell whether modules or parameters have hooks, which whatever computes the same in another way would not call."""
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in of_modules) or any(
        getattr(parameter, kind) for parameter in model.parameters() for kind in of_parameters
    )
