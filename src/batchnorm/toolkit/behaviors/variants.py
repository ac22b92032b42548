"""A layer's class, changed in place and changed back without a trace: how layers are frozen and synchronised.

A `BatchNorm2d` that is frozen becomes a ``FrozenBatchNorm2d``, whose bases are `Frozen` and `BatchNorm2d`. It is the
same object with the same parameters, buffers and hooks, whoever refers to it (the model under several names, an
optimiser, `DistributedDataParallel`, `torch.compile`), and it still is a `BatchNorm2d`. `torch.nn`'s own lazy layers
change their class in the same way.
"""

import functools
from collections.abc import Iterable
from typing import Any, ClassVar, TypeVar, cast

from torch import nn

from batchnorm.errors import InputError
from batchnorm.results import SequenceResult
from batchnorm.toolkit.model import NormLayer, OpenedModel, listed, refuse_lazy


class Behavior(nn.Module):
    """Base of what is mixed into a layer's class."""

    _original: ClassVar[type[nn.Module]]
    _behaviors: ClassVar[frozenset[type["Behavior"]]]

    @classmethod
    def base(cls, original: type[nn.Module]) -> type[nn.Module]:
        """Return the class that this behaviour is mixed with, for a layer that was an `original`."""
        return original

    def __reduce_ex__(self, protocol: Any) -> Any:
        # The class cannot be imported, so copies are made of what it was made of.
        reduced: Any = super().__reduce_ex__(protocol)
        construct, arguments, *state = reduced
        arguments = tuple(original_class(self) if argument is type(self) else argument for argument in arguments)
        return _rebuilt, (behaviors_of(self), construct, arguments), *state


Added = TypeVar("Added", bound=Behavior)


class ChangedLayers(SequenceResult[str]):
    """What a verb did to a model's layers: a sequence of their qualified names.

    Attributes
    ----------
    action : str
        Such as "unfrozen".
    """

    def __init__(self, action: str, names: Iterable[str]):
        super().__init__(names)
        self.action = action

    def __str__(self) -> str:
        return f"{listed(list(self))} {self.action}" if self else f"no layer {self.action}"

    def to_dict(self) -> dict[str, Any]:
        """Return what was done, and to which layers."""
        return {"action": self.action, "layers": list(self)}


def layers_to_change(model: OpenedModel) -> dict[str, NormLayer]:
    """Return a model's batch-norm layers, each under the first of its names.

    Raises
    ------
    InputError
        If it has no such layer, or a lazy one whose number of channels is not yet known.
    """
    layers = model.layers
    if not layers:
        raise InputError(
            f"{type(model.module).__name__} has no batch-norm layer (BatchNorm1d, 2d, 3d, SyncBatchNorm or a "
            "subclass of one)"
        )
    refuse_lazy(layers)
    return layers


def layers_with(model: OpenedModel, behavior: type[Added]) -> dict[str, Added]:
    """Return a model's layers that have a behaviour, each under the first of its names.

    Raises
    ------
    InputError
        If the class of such a layer was changed once more by someone else.
    """
    layers = {name: layer for name, layer in model.module.named_modules() if isinstance(layer, behavior)}
    for name, layer in layers.items():
        if behavior not in behaviors_of(layer):
            raise InputError(f"{listed([name])}: its class became {type(layer).__name__} afterwards; undo that first")
    return layers


def add_behavior(layer: NormLayer | nn.Module, behavior: type[Behavior]) -> None:
    """Give a layer a behaviour."""
    change_class(layer, original_class(layer), behaviors_of(layer) | {behavior})


def remove_behavior(layer: NormLayer | nn.Module, behavior: type[Behavior]) -> None:
    """Take a behaviour from a layer; with the last one, its class is what it was."""
    change_class(layer, original_class(layer), behaviors_of(layer) - {behavior})


def change_class(layer: NormLayer | nn.Module, original: Any, behaviors: frozenset[type[Behavior]]) -> None:
    """Make a layer an `original` with some behaviours."""
    cast(nn.Module, layer).__class__ = _variant(original, behaviors) if behaviors else original


def original_class(layer: NormLayer | nn.Module) -> type[nn.Module]:
    """Return the class of a layer without the behaviours that were added."""
    original: type[nn.Module] = vars(type(layer)).get("_original", type(layer))
    return original


def behaviors_of(layer: NormLayer | nn.Module) -> frozenset[type[Behavior]]:
    """Return the behaviours that were added to a layer."""
    behaviors: frozenset[type[Behavior]] = vars(type(layer)).get("_behaviors", frozenset())
    return behaviors


@functools.cache
def _variant(original: Any, behaviors: frozenset[type[Behavior]]) -> type[nn.Module]:
    """Return the class of an `original` with behaviours: the same one every time."""
    mixins = sorted(behaviors, key=lambda behavior: behavior.__name__)
    base = functools.reduce(lambda base, mixin: mixin.base(base), mixins, original)
    namespace = {
        "__module__": original.__module__,  # by which torch.fx tells layers from models to look into
        "__doc__": original.__doc__,
        "_original": original,
        "_behaviors": behaviors,
    }
    return type("".join(mixin.__name__ for mixin in mixins) + original.__name__, (*mixins, base), namespace)


def _rebuilt(behaviors: frozenset[type[Behavior]], construct: Any, arguments: tuple[Any, ...]) -> nn.Module:
    layer: nn.Module = construct(*arguments)
    change_class(layer, type(layer), behaviors)
    return layer
