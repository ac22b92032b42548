"""Batch norm that stays in inference, whatever mode the model around it is put into.

`layer.eval()` alone does not last: the next `model.train()` puts the layer back. `requires_grad_(False)` stops γ and β,
not the running averages. A frozen layer does neither: it normalises with the statistics that it has, for good.
"""

import warnings
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import nn

from batchnorm.errors import InputError
from batchnorm.results import Result
from batchnorm.toolkit.behaviors.variants import (
    Behavior,
    ChangedLayers,
    add_behavior,
    layers_to_change,
    layers_with,
    remove_behavior,
)
from batchnorm.toolkit.model import NormLayer, OpenedModel, listed, open_model

__all__ = ["Freezing", "freeze", "is_frozen", "unfreeze"]


class Frozen(Behavior):
    """A layer that is always in inference mode, and remembers the mode that was last asked of it."""

    _switched_off: tuple[str, ...] = ()  # parameters that required gradients before

    # Not `train` is overridden but the flag, which some set without calling it. The layer's own entry is what was asked
    # of it, so that nothing needs to be carried back.
    @property
    def training(self) -> bool:
        """False, also after it was set."""
        return False

    @training.setter
    def training(self, mode: bool) -> None:
        vars(self)["training"] = mode


class Freezing(Result, AbstractContextManager["Freezing"]):
    """What a call of `freeze` has done; as a context manager, undoes it at the end.

    Attributes
    ----------
    names : tuple of str
        The layers that the call changed, by their qualified names. One that was frozen before, in full, is not there.
    """

    def __init__(
        self, newly_frozen: dict[str, NormLayer], switched_off: dict[str, list[str]], layers: dict[str, NormLayer]
    ):
        self.names = tuple(name for name in layers if name in newly_frozen or switched_off[name])
        self._newly_frozen, self._switched_off, self._layers = newly_frozen, switched_off, layers

    def __exit__(self, *_: object) -> None:
        for name in self.names:
            layer = self._layers[name]
            if not isinstance(layer, Frozen):  # someone else was faster
                continue
            if name in self._newly_frozen:
                _unfreeze(layer)
            else:
                _switch_on(layer, self._switched_off[name])

    def __repr__(self) -> str:
        return f"Freezing(names={self.names})"

    def __str__(self) -> str:
        return f"{listed(list(self.names))} frozen" if self.names else "no layer frozen that was not frozen before"

    def to_dict(self) -> dict[str, Any]:
        """Return the names, and which parameters of each layer stopped learning."""
        return {
            "frozen": list(self.names),
            "parameters": {name: self._switched_off[name] for name in self.names if self._switched_off[name]},
        }


def freeze(model: nn.Module, *, parameters: bool = True) -> Freezing:
    """Keep batch-norm layers in inference: they normalise with their statistics and never change them, in place.

    This holds whatever `model.train()` is called later. Everything else stays as it is: the layers are the same
    objects, the `state_dict` is the same to the bit, and `isinstance` answers as before. To freeze a part of a model,
    give that part.

    Parameters
    ----------
    model : torch.nn.Module
        With any batch-norm layers: `BatchNorm1d`, `2d`, `3d`, `SyncBatchNorm` or subclasses. It may be compiled or
        wrapped for several devices.
    parameters : bool, default True
        Whether γ and β stop learning too (``requires_grad`` becomes False), as is usual in fine-tuning. Call
        `optimizer.zero_grad()` before the next step: an optimiser still moves what has a gradient.

    Returns
    -------
    Freezing
        Names what was frozen; ``with freeze(model): ...`` undoes at the end what this call did, and nothing else:
        layers that were frozen before stay frozen.

    Warns
    -----
    UserWarning
        If some layers have no running statistics: they normalise with those of the batch in either mode, and are left.

    Raises
    ------
    InputError
        If there is no batch-norm layer with running statistics; if one is lazy and not yet initialised; if
        `DistributedDataParallel`, which learns only once which parameters have gradients, already wraps a model whose
        γ and β are to be frozen. Nothing is changed then.

    See Also
    --------
    unfreeze : The inverse.

    References
    ----------
    Users who found that `eval()` on the layers does not last: pytorch#86590, lightning#15062.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> freeze(model)
    Freezing(names=('1',))
    >>> model.train()[1].training
    False
    >>> print(unfreeze(model))
    layer '1' unfrozen
    >>> model[1].training
    True
    """
    opened = open_model(model)
    layers = layers_to_change(opened)
    without = [name for name, layer in layers.items() if layer.running_mean is None]
    if len(without) == len(layers):
        raise InputError(
            f"{listed(without)}: no running statistics, so the batch's own are used in any mode; nothing can be frozen"
        )
    for name in without:
        del layers[name]
    # All is looked at before anything is changed: layers may share parameters.
    newly_frozen = {name: layer for name, layer in layers.items() if not is_frozen(layer)}
    switched_off = {
        name: [key for key, parameter in layer.named_parameters() if parameters and parameter.requires_grad]
        for name, layer in layers.items()
    }
    if any(switched_off.values()):
        _refuse_within_ddp(opened, "freeze before it is wrapped, or with parameters=False")
    if without:
        warnings.warn(f"{listed(without)}: no running statistics, not frozen", UserWarning, stacklevel=2)
    for layer in newly_frozen.values():
        add_behavior(layer, Frozen)
    for name, keys in switched_off.items():
        _switch_off(cast(Frozen, layers[name]), keys)
    return Freezing(newly_frozen, switched_off, layers)


def unfreeze(model: nn.Module) -> ChangedLayers:
    """Undo every `freeze` of a model's layers, without a trace and in place.

    Class and ``requires_grad`` are again what they were before; the mode is the one that was last asked for by
    `train()` or `eval()`, meanwhile too.

    Parameters
    ----------
    model : torch.nn.Module
        Or a part of one.

    Returns
    -------
    ChangedLayers
        The layers that were frozen: a sequence of their qualified names. A model of which nothing is frozen is left as
        it is.

    Raises
    ------
    InputError
        If the class of a frozen layer was changed meanwhile; if `DistributedDataParallel` wraps a model whose γ and β
        are to learn again: it would not average their gradients. Nothing is changed then.

    Examples
    --------
    >>> list(unfreeze(nn.Sequential(nn.BatchNorm1d(3))))
    []
    """
    opened = open_model(model)
    layers = layers_with(opened, Frozen)
    if any(layer._switched_off for layer in layers.values()):
        _refuse_within_ddp(opened, "unfreeze before it is wrapped")
    for layer in layers.values():
        _unfreeze(layer)
    return ChangedLayers("unfrozen", layers)


def is_frozen(layer: NormLayer | nn.Module) -> bool:
    """Tell whether `freeze` keeps a layer in inference.

    Examples
    --------
    >>> is_frozen(nn.BatchNorm1d(3))
    False
    """
    return isinstance(layer, Frozen)


def keeps_statistics(model: nn.Module, layer: NormLayer) -> bool:
    """Tell whether a layer's statistics are meant to stay: frozen by `freeze`, or as people do it without.

    That is, in inference mode while its model is in training mode, or with a momentum of 0. That γ and β take no
    gradient says nothing of the statistics.
    """
    return is_frozen(layer) or (model.training and not layer.training) or layer.momentum == 0


def _unfreeze(layer: Frozen) -> None:
    _switch_on(layer, layer._switched_off)
    remove_behavior(layer, Frozen)


def _switch_off(layer: Frozen, keys: Iterable[str]) -> None:
    if keys:
        layer._switched_off = (*layer._switched_off, *keys)
    for key in keys:
        layer.get_parameter(key).requires_grad_(False)


def _switch_on(layer: Frozen, keys: Iterable[str]) -> None:
    for key in keys:
        parameter = layer.get_parameter(key)
        with torch.inference_mode() if parameter.is_inference() else nullcontext():  # where it was made
            parameter.requires_grad_(True)
    rest = tuple(key for key in layer._switched_off if key not in keys)
    vars(layer).pop("_switched_off", None)
    if rest:
        layer._switched_off = rest


def _refuse_within_ddp(model: OpenedModel, remedy: str) -> None:
    if model.distributed:
        raise InputError(
            "the model is wrapped in DistributedDataParallel, which learns only at the beginning which parameters have "
            f"gradients: {remedy}"
        )
