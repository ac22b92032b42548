"""What a model is left with: the modes of its modules, its buffers; and whether it has hooks."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from operator import is_
from types import MemberDescriptorType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from batchnorm.toolkit.model.layers import write
from batchnorm.toolkit.model.nested import tensors_in


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Put a model into inference mode, and afterwards give each of its modules its own mode back."""
    with modes_restored(model):
        set_modes(model, False)
        yield


@contextmanager
def without_gradients(model: nn.Module) -> Iterator[None]:
    """Have autograd record nothing of a model, and have it make ordinary tensors, whatever the caller is in.

    What lazy layers make and what a module keeps for its next call is trained with later, as no inference tensor can
    be. Only a model that was itself built in `torch.inference_mode` is run in it: elsewhere it cannot be written to.
    """
    with torch._C.DisableTorchFunctionSubclass():  # a lazy tensor answers nothing
        built_there = any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    with torch.inference_mode(built_there), torch.no_grad():
        yield


def set_modes(model: nn.Module, training: bool) -> None:
    """Set the mode of all modules, and do nothing else: some models do other work in `train()` and `eval()`."""
    for module in model.modules():
        if getattr(module, "training", training) is not training:  # a frozen part of TorchScript has none
            module.training = training


@contextmanager
def modes_restored(model: nn.Module) -> Iterator[None]:
    """Give each module of a model its own mode back afterwards, also when the model raises.

    Not the top module's flag alone: a part that someone keeps in inference mode (frozen layers) stays in it.
    """
    modes = [(module, _asked_mode(module)) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            if _asked_mode(module) is not training:
                module.training = training


def _asked_mode(module: nn.Module) -> Any:
    """Return what was asked of a module: a frozen layer's property tells another mode, or None if it has no mode."""
    own = vars(module)
    return own["training"] if "training" in own else getattr(module, "training", None)


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[None]:
    """Have a model work on copies of its buffers, and give it its own ones back afterwards, untouched.

    Not written to: an autograd graph that still waits for its backward pass may hold them.
    """
    before = [(module._buffers, dict(module._buffers.items())) for module in model.modules()]
    copies = {id(b): b.clone() for _, own in before for b in own.values() if b is not None and not is_lazy(b)}
    for buffers, own in before:
        _put(buffers, {name: copies.get(id(buffer), buffer) for name, buffer in own.items()})
    try:
        yield
    finally:
        for buffers, own in before:
            _put(buffers, own)


def _put(buffers: Any, own: dict[str, Any]) -> None:
    """Put buffers where they belong, one by one: TorchScript's mapping of them can do no more."""
    for name, buffer in own.items():
        buffers[name] = buffer


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Give all modules their attributes back afterwards, with what is in those that are lists or dicts; and buffers."""
    before: list[_Attributes | _Values] = [*map(_Attributes, model.modules()), _Values(_plain_tensors(model))]
    with buffers_restored(model):
        try:
            yield
        finally:
            for part in before:
                part.restore()


class State:
    """All that a model holds now: its attributes, and the values of the tensors in them, but for parameters and hooks.

    Parameters
    ----------
    model : torch.nn.Module
    but : iterable of Tensor
        Buffers whose values are somebody else's business.
    """

    def __init__(self, model: nn.Module, but: Iterable[Tensor]):
        others = {id(tensor) for tensor in but}
        buffers = (buffer for buffer in model.buffers() if id(buffer) not in others and not is_lazy(buffer))
        values = _Values([*buffers, *_plain_tensors(model)])
        self._parts: list[_Attributes | _Values] = [
            *(_Attributes(module, but=_HOOKS) for module in model.modules()),
            values,
        ]

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
                write(tensor, value)

    @property
    def changed(self) -> bool:
        return not all(_equal(tensor, value) for tensor, value in self._values)


def _equal(tensor: Tensor, value: Tensor) -> bool:
    if tensor.shape != value.shape or not (tensor.is_floating_point() or tensor.is_complex()):
        return torch.equal(tensor, value)
    return torch.allclose(tensor, value, rtol=0, atol=0, equal_nan=True)


_EVERY_MODULE_S = set(vars(nn.Module()))  # attributes
_HOOKS = frozenset(name for name in _EVERY_MODULE_S if "hooks" in name)


def _plain_tensors(model: nn.Module) -> list[Tensor]:
    """Return the tensors in a model's attributes that are neither parameters nor buffers."""
    modules = list(model.modules())
    known = {id(t) for module in modules for own in (module._parameters, module._buffers) for t in own.values()}
    values = (
        value
        for module in modules
        for name, value in vars(module).items()
        if name not in _EVERY_MODULE_S and not isinstance(value, _PLAIN_VALUES)
    )
    return list({id(t): t for value in values for t in tensors_in(value) if id(t) not in known}.values())


_PLAIN_VALUES = (bool, int, float, str, type(None))  # most attributes
_CONTAINERS = (list, dict, set, deque)  # a tuple, as it is asked of every attribute: a union takes three times as long


class _Attributes:
    """The attributes of a module, wherever they are: in its `__dict__`, in `__slots__`, in TorchScript's object."""

    def __init__(self, module: nn.Module, *, but: frozenset[str] = frozenset()):
        self._module = module
        self._own = dict(vars(module))
        containers = (value for name, value in self._own.items() if isinstance(value, _CONTAINERS) and name not in but)
        self._contents = [(container, _content(container) if container else ()) for container in containers]
        self._slots = [(slot, *_value(slot, module)) for slot in _slots(type(module))]
        self._scripted = {name: getattr(module, name) for name in _scripted(module)}

    @property
    def changed(self) -> bool:
        """Whether they are others by now."""
        slots = ((slot, *_value(slot, self._module)) for slot in _slots(type(self._module)))
        return (
            self._own_changed
            or any(True for _ in self._changed_contents)
            or not all(map(_same, slots, self._slots))
            or any(getattr(self._module, name) is not value for name, value in self._scripted.items())
        )

    @property
    def _own_changed(self) -> bool:
        now = vars(self._module)
        return now.keys() != self._own.keys() or any(now[name] is not self._own[name] for name in now)

    @property
    def _changed_contents(self) -> Iterator[tuple[Any, tuple[Any, ...]]]:
        for container, content in self._contents:
            if (container or content) and not _same(_content(container), content):  # most are empty
                yield container, content

    def restore(self) -> None:
        """Give them back, as far as they have changed."""
        if self._own_changed:
            vars(self._module).clear()
            vars(self._module).update(self._own)
        for container, content in self._changed_contents:
            _fill(container, content)
        for slot, *value in self._slots:
            if value:
                slot.__set__(self._module, *value)
            elif _value(slot, self._module):
                slot.__delete__(self._module)
        for name, value in self._scripted.items():
            if getattr(self._module, name) is not value:
                setattr(self._module, name, value)


def _content(container: Any) -> tuple[Any, ...]:
    """Return what is in a list or set; of a dict the keys, then the values."""
    return (*container, *container.values()) if isinstance(container, dict) else (*container,)


def _same(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return len(a) == len(b) and all(map(is_, a, b))


def _fill(container: Any, content: tuple[Any, ...]) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    elif isinstance(container, set):
        container.update(content)
    else:
        half = len(content) // 2
        container.update(dict(zip(content[:half], content[half:], strict=True)))


def _slots(kind: type) -> list[Any]:
    kinds = [base for base in kind.__mro__ if "__slots__" in vars(base)]
    return [slot for base in kinds for slot in vars(base).values() if isinstance(slot, MemberDescriptorType)]


def _value(slot: Any, module: nn.Module) -> tuple[Any, ...]:
    """Return the value in a slot, as the only one of a tuple; an empty one if there is none."""
    try:
        return (slot.__get__(module),)
    except AttributeError:
        return ()


def _scripted(module: nn.Module) -> list[str]:
    """Return the names of the attributes of a module in TorchScript, which its code may change; without buffers."""
    if not isinstance(module, torch.jit.ScriptModule):
        return []
    kind = getattr(module, "_concrete_type", None)  # a frozen one has none, and changes nothing
    return [] if kind is None else [name for name in kind.get_attributes() if name not in module._buffers]


@contextmanager
def random_state_restored(model: nn.Module) -> Iterator[None]:
    """Give torch's random generators, of the CPU and of the model's GPUs, their state back afterwards."""
    with torch.random.fork_rng(gpus_of(model)):
        yield


@contextmanager
def repeatable(model: nn.Module) -> Iterator[None]:
    """Have a model draw the same random numbers in each such block, and restore the states as above."""
    with random_state_restored(model):
        torch.default_generator.manual_seed(0)
        for gpu in gpus_of(model):
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(0)
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
    """Tell whether modules or parameters have hooks, which whatever computes the same in another way would not call.

    Those of all modules in the process count.
    """
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_parameters = ("_backward_hooks", "_post_accumulate_grad_hooks")
    if any(getattr(nn.modules.module, f"_global{kind}") for kind in of_modules):
        return True
    return any(getattr(module, kind) for module in model.modules() for kind in of_modules) or any(
        getattr(parameter, kind) for parameter in model.parameters() for kind in of_parameters
    )
