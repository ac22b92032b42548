"""What a model is left with: the modes of its modules, its buffers; and whether it has hooks."""

import copy
import operator
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.toolkit.model.nested import tensors_in


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
    before, values = Attributes(model), _Values(_plain_tensors(model))
    with buffers_restored(model):
        try:
            yield
        finally:
            before.restore()
            values.restore()


class Attributes:
    """What the attributes of a model's modules are now, and what is in those that are lists, dicts, sets or deques."""

    def __init__(self, model: nn.Module):
        self._modules = [(module, dict(vars(module))) for module in model.modules()]
        containers = (
            value for _, own in self._modules for value in own.values() if isinstance(value, list | dict | set | deque)
        )
        self._contents = [(value, copy.copy(value) if value else ()) for value in containers]  # most are empty

    def restore(self) -> None:
        """Give them back."""
        for module, attributes in self._modules:
            if _differ(vars(module), attributes):
                vars(module).clear()
                vars(module).update(attributes)
        for container, content in self._contents:
            if container or content:
                container.clear()
                container.extend(content) if isinstance(container, list | deque) else container.update(content)

    @property
    def changed(self) -> bool:
        """Whether they are others by now."""
        return any(_differ(vars(module), attributes) for module, attributes in self._modules) or any(
            len(container) != len(content) or _others(container, content)
            for container, content in self._contents
            if container or content
        )


class State:
    """All that a model holds now: its attributes, and the values of the tensors in them, but for parameters.

    Parameters
    ----------
    model : torch.nn.Module
    but : iterable of Tensor
        Buffers whose values are somebody else's business.
    """

    def __init__(self, model: nn.Module, but: Iterable[Tensor]):
        others = {id(tensor) for tensor in but}
        buffers = (buffer for buffer in model.buffers() if id(buffer) not in others and not is_lazy(buffer))
        self._parts = Attributes(model), _Values([*buffers, *_plain_tensors(model)])

    def restore(self) -> None:
        """Give it back."""
        for part in self._parts:
            part.restore()

    @property
    def changed(self) -> bool:
        """Whether it is another by now."""
        return any(part.changed for part in self._parts)


class _Values:
    """What is in some tensors now."""

    def __init__(self, tensors: Iterable[Tensor]):
        plain = (t for t in tensors if t.layout == torch.strided and not t.is_meta and not t.is_quantized)
        self._values = [(tensor, tensor.detach().clone()) for tensor in plain]

    @torch.no_grad()
    def restore(self) -> None:
        for tensor, value in self._values:
            if not _equal(tensor, value):
                tensor.copy_(value)

    @property
    def changed(self) -> bool:
        return not all(_equal(tensor, value) for tensor, value in self._values)


def _equal(tensor: Tensor, value: Tensor) -> bool:
    if tensor.shape != value.shape or not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.equal(tensor, value)
    return torch.allclose(tensor, value, rtol=0, atol=0, equal_nan=True)


_EVERY_MODULE_S = set(vars(nn.Module()))  # attributes


def _plain_tensors(model: nn.Module) -> list[Tensor]:
    """Return the tensors in a model's attributes that are neither parameters nor buffers."""
    known = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    own = (value for module in model.modules() for name, value in vars(module).items() if name not in _EVERY_MODULE_S)
    return [
        tensor for tensor in {id(t): t for value in own for t in tensors_in(value)}.values() if id(tensor) not in known
    ]


def _differ(now: dict[str, Any], before: dict[str, Any]) -> bool:
    return now.keys() != before.keys() or any(now[name] is not before[name] for name in now)


def _others(container: Any, content: Any) -> bool:
    if isinstance(container, dict):
        return _differ(container, content)
    return container != content if isinstance(container, set) else any(map(operator.is_not, container, content))


@contextmanager
def random_state_restored(model: nn.Module) -> Iterator[None]:
    """Give torch's random generators, of the CPU and of the model's GPUs, their state back afterwards."""
    with torch.random.fork_rng(gpus_of(model)):
        yield


def random_states(model: nn.Module) -> list[Tensor]:
    """Return the states of torch's random generators, of the CPU and of the model's GPUs."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(gpu) for gpu in gpus_of(model))]


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
