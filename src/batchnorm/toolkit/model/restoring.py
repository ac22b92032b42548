"""What a model is left with: the modes of its modules, its buffers; and whether it has hooks."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put a model into inference mode, and afterwards give each of its modules its own mode back."""
    with modes_restored(model):
        set_modes(model, False)
        yield


def set_modes(model: nn.Module, training: bool) -> None:
    """Set the mode of all modules, and do nothing else: some models do other work in `train()` and `eval()`."""
    for module in model.modules():
        module.training = training


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
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Have a model work on copies of its buffers, and give it its own ones back afterwards, untouched.

    Not written to: an autograd graph that still waits for its backward pass may hold them.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    copies = {id(b): b.clone() for _, own in before for b in own.values() if b is not None and not is_lazy(b)}
    for module, own in before:
        module._buffers.update({name: copies.get(id(buffer), buffer) for name, buffer in own.items()})
    try:
        yield
    finally:
        for module, own in before:
            module._buffers.update(own)


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Give all modules their attributes back afterwards, with what is in those that are lists or dicts; and buffers."""
    before = [(module, dict(vars(module)), _contents(module)) for module in model.modules()]
    with buffers_restored(model):
        try:
            yield
        finally:
            for module, attributes, contents in before:
                now = vars(module)
                if now.keys() != attributes.keys() or any(now[name] is not attributes[name] for name in now):
                    now.clear()
                    now.update(attributes)
                for container, content in contents:
                    if container or content:
                        container.clear()
                        container.extend(content) if isinstance(container, list) else container.update(content)


def _contents(module: nn.Module) -> list[tuple[Any, Any]]:
    containers = (value for value in vars(module).values() if isinstance(value, list | dict | set))
    return [(container, copy.copy(container) if container else ()) for container in containers]  # most are empty


@contextmanager
def random_state_restored(model: nn.Module) -> Iterator[None]:
    """Give torch's random generators, of the CPU and of the model's GPUs, their state back afterwards."""
    with torch.random.fork_rng(gpus_of(model)):
        yield


@contextmanager
def left_alone(model: nn.Module) -> Iterator[None]:
    """Put a model into inference mode, and leave it afterwards, and torch's random state, as they were found."""
    with random_state_restored(model), undisturbed(model), inference(model):
        yield


def gpus_of(model: nn.Module) -> list[int]:
    """Return the numbers of the GPUs that a model is on."""
    return sorted({tensor.device.index for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda})


def has_hooks(model: nn.Module) -> bool:
    """Tell whether modules or parameters have hooks, which whatever computes the same in another way would not call."""
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    return any(getattr(module, kind) for module in model.modules() for kind in of_modules) or any(
        getattr(parameter, kind) for parameter in model.parameters() for kind in of_parameters
    )
