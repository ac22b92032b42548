"""Whether a training step updates running statistics twice: activation checkpointing runs a layer again."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.toolkit.behaviors import is_synchronized
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    inputs_seen,
    modes_restored,
    random_state_restored,
    set_modes,
    tensors_in,
    undisturbed,
)


def updated_twice(
    feed: Feed, layers: Mapping[str, NormLayer], loss: Callable[[Any, Any], Tensor] | None
) -> tuple[frozenset[str], str | None]:
    """Try one training step without taking it, and see which layers the backward pass runs again in training mode.

    The model is afterwards what it was: modes, buffers, gradients; so is torch's random state.

    Parameters
    ----------
    feed : Feed
    layers : mapping of str to layer
    loss : callable, optional
        ``loss(output, batch)``; without it the sum of all outputs goes backward.

    Returns
    -------
    frozenset of str
        Names of the layers whose statistics are updated again.
    str or None
        Why it could not be tried, if so.
    """
    model = feed.model
    if any(parameter._post_accumulate_grad_hooks for parameter in model.parameters()):
        return frozenset(), "a backward pass was not tried: parameters have hooks that may train them"
    if any(is_synchronized(layer) or isinstance(layer, nn.SyncBatchNorm) for layer in layers.values()):
        return frozenset(), "a backward pass was not tried: synchronised layers would wait for all other workers"
    batch = next(iter(feed), None)
    if batch is None:
        return frozenset(), None  # whoever measures says so
    again: Counter[str] = Counter()
    backward = False

    def count(name: str, layer: NormLayer, _: Tensor) -> None:
        if backward and layer.training and layer.track_running_stats:
            again[name] += 1

    with ExitStack() as restored:
        restored.enter_context(modes_restored(model))
        restored.enter_context(undisturbed(model))
        restored.enter_context(random_state_restored(model))
        restored.enter_context(torch.enable_grad())
        restored.enter_context(inputs_seen(layers, count))
        try:
            if not model.training:
                set_modes(model, True)
            output = feed.run(batch)
            total = loss(output, batch) if loss else _sum(output)
            if total is not None and total.requires_grad:
                restored.enter_context(_gradients_restored({*model.parameters(), *_leaves(total)}))
                backward = True
                total.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            return frozenset(), f"a training step was tried and raised {type(error).__name__}: {error}"
    return frozenset(again), None


def _sum(output: Any) -> Tensor | None:
    parts = [tensor.sum() for tensor in tensors_in(output) if tensor.is_floating_point() and tensor.requires_grad]
    return torch.stack([part.double() for part in parts]).sum() if parts else None


def _leaves(total: Tensor) -> Iterator[Tensor]:
    """Yield the tensors whose gradients a backward pass would add to: those of the loss and of the batch, too."""
    seen: set[Any] = set()
    left: list[Any] = [total.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [before for before, _ in node.next_functions]


@contextmanager
def _gradients_restored(tensors: Collection[Tensor]) -> Iterator[None]:
    before = [(tensor, tensor.grad) for tensor in tensors]
    for tensor, _ in before:
        tensor.grad = None
    try:
        yield
    finally:
        for tensor, gradient in before:
            tensor.grad = gradient
