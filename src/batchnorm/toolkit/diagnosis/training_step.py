"""What a training step does to running statistics: activation checkpointing runs layers again in the backward pass."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.errors import with_class
from batchnorm.functional import batch_moments
from batchnorm.toolkit.behaviors import is_synchronized
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    TrackingLayer,
    inputs_seen,
    modes_restored,
    random_state_restored,
    set_modes,
    tensors_in,
    tracking,
    undisturbed,
)


def weights_of_a_step(
    feed: Feed, layers: Mapping[str, NormLayer], loss: Callable[[Any, Any], Tensor] | None
) -> tuple[dict[str, float], str | None]:
    """Try one training step without taking it; see which running means both its passes move, and how far.

    The model is afterwards what it was: modes, buffers, gradients; so is torch's random state.

    Parameters
    ----------
    feed : Feed
    layers : mapping of str to layer
    loss : callable, optional
        ``loss(output, batch)``; without it the sum of all outputs goes backward.

    Returns
    -------
    dict of str to float
        Of layers that are updated in the forward pass and again in the backward pass: the weight of the newest batch in
        the running mean after the step, which for one update is the momentum. NaN if that cannot be told.
    str or None
        Why it could not be tried, if so.
    """
    model = feed.model
    if any(parameter._post_accumulate_grad_hooks for parameter in model.parameters()):
        return {}, "a backward pass was not tried: parameters have hooks that may train them"
    if any(is_synchronized(layer) or isinstance(layer, nn.SyncBatchNorm) for layer in layers.values()):
        return {}, "a backward pass was not tried: synchronised layers would wait for all other workers"
    batch = next(iter(feed), None)
    if batch is None:
        return {}, None  # whoever measures says so
    with ExitStack() as restored:
        restored.enter_context(modes_restored(model))
        restored.enter_context(undisturbed(model))
        restored.enter_context(random_state_restored(model))
        restored.enter_context(torch.enable_grad())
        averages = _Averages(tracking(layers))
        restored.enter_context(inputs_seen(averages.layers, averages.note))
        try:
            if not model.training:
                set_modes(model, True)
            output = feed.run(batch)
            total = loss(output, batch) if loss else _sum(output)
            averages.end_forward_pass()
            if total is not None and total.requires_grad:
                restored.enter_context(_gradients_restored({*model.parameters(), *_leaves(total)}))
                total.backward()  # type: ignore[no-untyped-call]
        except Exception as error:
            return {}, f"a training step was tried and raised {with_class(error)}"
        return averages.moved_twice(), None


class _Averages:
    """The running means of layers before a step, between its passes, and after it."""

    def __init__(self, layers: Mapping[str, TrackingLayer]):
        self.layers = layers
        self._before = self._now()
        self._between: dict[str, Tensor] | None = None
        self._means: dict[str, Tensor] = {}  # of the batch
        self._calls: Counter[str] = Counter()

    def note(self, name: str, layer: TrackingLayer, x: Tensor) -> None:
        """Take note of what reaches a layer."""
        if self._between is None and x.numel():
            self._means[name] = batch_moments(x.detach().double()).mean
            self._calls[name] += 1

    def end_forward_pass(self) -> None:
        self._between = self._now()

    def moved_twice(self) -> dict[str, float]:
        """Return the weight of the batch in those means that both passes have moved."""
        after, between = self._now(), self._between or {}
        return {
            name: self._weight_of_the_batch(name, after[name])
            for name, before in self._before.items()
            if not _same(before, between[name]) and not _same(between[name], after[name])
        }

    def _weight_of_the_batch(self, name: str, after: Tensor) -> float:
        if self._calls[name] != 1:  # of several, each with a mean of its own
            return math.nan
        way, moved = (x - self._before[name] for x in (self._means[name], after))
        return float((moved * way).sum() / way.square().sum())

    def _now(self) -> dict[str, Tensor]:
        return {name: layer.running_mean.detach().double().clone() for name, layer in self.layers.items()}


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


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
