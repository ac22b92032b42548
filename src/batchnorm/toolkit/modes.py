"""Training mode and inference mode of a model's modules, and whether someone listens in."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put a model into inference mode, and afterwards give each of its modules its own mode back.

    Not the top module's flag alone: a part that someone keeps in inference mode (frozen layers) stays in it, also
    when the model raises.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def has_hooks(model: nn.Module) -> bool:
    """Tell whether modules or parameters have hooks, which whatever computes the same in another way would not call."""
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in of_modules) or any(
        getattr(parameter, kind) for parameter in model.parameters() for kind in of_parameters
    )
