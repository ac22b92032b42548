"""An input for a model that nobody has described: from the sizes that its first layers expect."""

import inspect
import itertools
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.errors import InputError, with_class
from batchnorm.toolkit.model import Feed, Forward, deep_copy, device_of
from batchnorm.toolkit.structure.observation import observe
from batchnorm.toolkit.structure.tracing import Call, trace

__all__ = ["made_up_batch"]

_BATCH_SIZE = 2
_LENGTH = 7  # of sequences
_SIZES = {  # of each dimension that a convolution goes along, in the order in which they are tried
    1: (64, 128, 32, 256, 1024, 16),
    2: (64, 32, 28, 128, 224, 256, 96, 16),
    3: (32, 16, 64, 96, 8),
}


def made_up_batch(model: nn.Module, *, forward: Forward | None = None, device: torch.device | str | None = None) -> Any:
    """Return a batch of random input that a model accepts.

    Its shape is what one of the first layers expects; where that leaves sizes open, usual ones are tried in turn.

    Parameters
    ----------
    model : torch.nn.Module
        Without wrappers. It is run in inference mode and afterwards what it was.
    forward, device : optional
        As for `fold`.

    Returns
    -------
    Tensor or dict of str to Tensor
        Two examples, in the dtype of the model's parameters; a dict by name if the model needs several inputs. The
        same for the same model; the global random state is not touched.

    Raises
    ------
    InputError
        If the model accepts none of what was tried.

    Examples
    --------
    >>> made_up_batch(nn.Sequential(nn.Flatten(), nn.Linear(10, 3))).shape
    torch.Size([2, 10])
    """
    if any(isinstance(module, LazyModuleMixin) for module in model.modules()):
        model = deep_copy(model)  # a run would initialise it
    names = [] if forward is not None else _required(model)
    error: Exception | None = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about inputs that nobody has asked for
        for layer, shape in _shapes(model):
            inputs = _inputs(model, layer, shape)
            batch: Any = next(inputs) if len(names) < 2 else dict(zip(names, inputs, strict=False))
            feed = Feed(model, [batch], forward=forward, device=device)
            try:
                observe(feed, next(iter(feed)))
            except Exception as raised:  # whatever a model raises that is given what it does not expect
                error = raised
            else:
                return next(iter(feed))
    tried = f"; the last one tried raised {with_class(error)}" if error else ""
    raise InputError(f"no input can be made up for {type(model).__name__}: give an example{tried}") from error


def _required(model: nn.Module) -> list[str]:
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _shapes(model: nn.Module) -> Iterator[tuple[nn.Module, tuple[int, ...]]]:
    """Yield shapes to try, each with the layer that it is for, the likeliest first."""
    likely: dict[nn.Module, None] = {}
    for scope in trace(model).scopes:
        for node, module in scope.modules.items():
            source = Call(module, node, scope).source
            if source is not None and source.op == "placeholder" and scope.module is model:
                likely[module] = None
    # Not all of a deep model's layers: the first ones that say what they expect.
    layers = itertools.islice((layer for layer in (*likely, *model.modules()) if _shapes_for(layer)), 3)
    for layer in dict.fromkeys(layers):
        yield from ((layer, shape) for shape in _shapes_for(layer))


def _shapes_for(layer: Any) -> list[tuple[int, ...]]:
    """Return shapes of one example that a layer accepts; none if it does not say."""
    if isinstance(layer, LazyModuleMixin):
        return []
    if isinstance(layer, nn.Linear):
        return [(layer.in_features,), (_LENGTH, layer.in_features)]
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return [(_LENGTH,)]
    if isinstance(layer, nn.RNNBase):
        return [(_LENGTH, layer.input_size)]
    if isinstance(layer, nn.LayerNorm):
        return [tuple(layer.normalized_shape), (_LENGTH, *layer.normalized_shape)]
    if isinstance(layer, _ConvNd):
        return [(layer.in_channels, *[size] * len(layer.kernel_size)) for size in _SIZES[len(layer.kernel_size)]]
    if isinstance(layer, _NormBase | nn.GroupNorm):
        channels = layer.num_features if isinstance(layer, _NormBase) else layer.num_channels
        return [(channels, *positions) for positions in ((), (16,), (64, 64), (32, 32), (16, 16, 16))]
    return []


def _inputs(model: nn.Module, layer: Any, shape: tuple[int, ...]) -> Iterator[Tensor]:
    generator, device = torch.Generator().manual_seed(0), device_of(model)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())
    while True:
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            drawn = torch.randint(layer.num_embeddings, (_BATCH_SIZE, *shape), generator=generator)
            yield drawn.to(device)
        else:
            yield torch.randn(_BATCH_SIZE, *shape, generator=generator).to(device, dtype)
