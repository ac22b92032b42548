"""Exact population statistics: what the paper evaluates with, in place of running averages.

The statistics of a deep layer depend on how the layers before it normalise. Those of the network that will be
evaluated are had only in order: the first layer's over all data; then the second layer's, with the first already
switched to its population statistics; and so on. That is one pass over the data per layer. Collecting all layers
in one pass, the earlier ones normalising with *batch* statistics, gives those of another network.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.functional import Moments, Variance, batch_moments, merge_moments, stored_variance
from batchnorm.toolkit.modes import inference


@torch.no_grad()
def recalibrate(
    model: nn.Module, batches: Iterable[Any], *, weights: Callable[[Any], Tensor] | None = None
) -> dict[str, Moments]:
    """Replace running averages by the exact population statistics of the data, layer by layer, in place.

    Moments are taken in float64 and merged by number of examples, so the result does not depend on how the data is
    cut into batches. Dropout is off. Every module's mode and the model's hooks are afterwards what they were.

    Parameters
    ----------
    model : torch.nn.Module
        With any `BatchNorm1d`, `2d` or `3d` layers. Layers without running statistics are left alone.
    batches : iterable
        Of input tensors, or of tuples that begin with one. It is gone through once per layer and once more for
        their order, so it must be a list or another object that can be iterated over again, not a generator.
    weights : callable, optional
        Given a batch, returns how often each of its examples counts (batch,). Without it, once.

    Returns
    -------
    dict of str to Moments
        What each layer that the first batch reached was set to, by its qualified name, in the order of execution. A
        layer that it did not reach keeps its statistics and is not in the result.

    Raises
    ------
    ValueError
        If `batches` is empty or can be gone through only once, or what reaches a layer is NaN or infinite. Whatever is
        raised half-way, all statistics are afterwards what they were.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 2, steps 8 to 11.

    Examples
    --------
    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> recalibrate(model, [torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])])["0"].mean
    tensor([3.], dtype=torch.float64)
    """
    if iter(batches) is batches:
        raise ValueError("batches can be gone through only once, but each layer needs a pass: give a list")
    found: dict[str, Moments] = {}
    with inference(model), _restored_on_error(model):
        for name, layer in _layers_in_order(model, batches).items():
            moments = _input_moments(model, layer, batches, weights)
            if not (moments.mean.isfinite().all() and moments.var.isfinite().all()):
                raise ValueError(f"what reaches layer {name!r} holds NaN or infinite values: look for them in the data")
            layer.running_mean.copy_(moments.mean)
            convention: Variance = getattr(layer, "stored_variance", "unbiased")  # torch's, unless a layer has its own
            layer.running_var.copy_(stored_variance(moments, convention))
            found[name] = moments
    return found


@contextmanager
def _restored_on_error(model: nn.Module) -> Iterator[None]:
    """Give all buffers their values back if what happens meanwhile raises: half a recalibration is worse than none."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        for buffer, value in before:
            buffer.copy_(value)
        raise


def _layers_in_order(model: nn.Module, batches: Iterable[Any]) -> dict[str, Any]:
    """Return the layers with running statistics in the order in which the first batch reaches them."""
    layers: dict[nn.Module, str] = {
        layer: name
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None
    }
    reached: dict[str, Any] = {}

    def note(layer: nn.Module, _: Any) -> None:
        reached.setdefault(layers[layer], layer)

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        for batch in batches:
            model(_inputs(batch))
            return reached
    finally:
        for handle in handles:
            handle.remove()
    raise ValueError("there are no batches: population statistics need data")


def _input_moments(
    model: nn.Module, layer: nn.Module, batches: Iterable[Any], weights: Callable[[Any], Tensor] | None
) -> Moments:
    """Run the model over all batches and return the moments of what reaches one of its layers."""
    total: Moments | None = None
    counts: Tensor | None = None

    def add(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        nonlocal total
        if counts is not None and not counts.any():
            return
        seen = batch_moments((args[0] if args else kwargs["input"]).double(), counts)
        total = seen if total is None else merge_moments(total, seen)

    handle = layer.register_forward_pre_hook(add, with_kwargs=True)
    try:
        for batch in batches:
            counts = weights(batch).double() if weights else None
            model(_inputs(batch))
    finally:
        handle.remove()
    if total is None:  # the layer was reached by the first batch
        raise ValueError("the weights of all examples are 0: population statistics need some that count")
    return total


def _inputs(batch: Any) -> Any:
    return batch[0] if isinstance(batch, tuple | list) else batch
