"""Population statistics of what reaches batch-norm layers: the engine of `recalibrate` and `diagnose`.

The statistics of a deep layer depend on how the layers before it normalise. Those of the network that will be evaluated
are had only in order: first the layers that depend on no other, over all data; then those that depend on these alone,
with these already switched to their population statistics; and so on. That is one pass over the data per level. Which
layer depends on which is seen in the first pass, while it measures the first level; every later pass ends where the
last layer that it measures has been reached.

A layer that depends on itself (one layer at two places, one behind the other) has no such order. It is measured while
it normalises each batch with the batch's own statistics, as it does in training; in a "one-pass" every layer is.
"""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from batchnorm.errors import InputError
from batchnorm.functional import Moments, batch_moments, merge_moments
from batchnorm.progress import Bar
from batchnorm.toolkit.model import Feed, Workers, tensors_in, undisturbed
from batchnorm.toolkit.statistics.dependence import Dependence

Method = Literal["exact", "one-pass"]


@dataclass(eq=False)
class Observed:
    """What has reached one layer.

    Parameters
    ----------
    moments : Moments
        Over all batches and workers.
    calls : list of Moments
        Over this worker's batches: of the layer's first call in each forward pass, of its second, and so on.
    batches : list of (int, int)
        Examples, and elements per channel, of each call on this worker.
    scatter : tuple of Moments or None
        Of the means and of the variances of these calls, each counted once: how much they differ from batch to batch.
        None if there were none on this worker.
    circular : bool
        Whether the layer depends on itself and was measured while normalising with batch statistics.
    """

    moments: Moments
    calls: list[Moments]
    batches: list[tuple[int, int]]
    scatter: tuple[Moments, Moments] | None
    circular: bool = False


@dataclass(eq=False)
class Population:
    """What has reached each layer, in the order of execution, and how many passes over the data it took to see."""

    observed: dict[str, Observed]
    n_passes: int


@torch.no_grad()
def measure(
    feed: Feed,
    layers: Mapping[str, Any],
    switch: Callable[[str, Moments], None],
    *,
    method: Method,
    workers: Workers,
    bar: Bar,
    fixed: frozenset[str] = frozenset(),
    weights: Callable[[Any], Tensor] | None = None,
) -> Population:
    """Measure what reaches layers, each behind layers that are already switched to their population statistics.

    Parameters
    ----------
    feed : Feed
        Its model must be in inference mode.
    layers : mapping of str to torch.nn.Module
        By name.
    switch : callable
        Is given the name of a layer and its population moments, and has the layer use them from then on.
    method : {"exact", "one-pass"}
    workers : Workers
        Who merge what they have seen.
    bar : Bar
        Is advanced at every batch.
    fixed : frozenset of str
        Layers that are measured but not switched.
    weights : callable, optional
        Given a batch, returns how often each example counts (batch,).

    Returns
    -------
    Population
        Without the layers that no example, of a weight above 0, reached.

    Raises
    ------
    InputError
        If there is no batch, or no example that counts.
    BatchnormError
        If another worker failed.
    """
    found: dict[str, Observed] = {}

    def settle(names: Sequence[str], data: _Pass, circular: frozenset[str] = frozenset()) -> None:
        seen = {name: data.total(name) for name in names if data.calls[name]}
        channels = {name: layers[name].num_features for name in names}
        for name, moments in workers.merged(seen, channels).items():
            found[name] = Observed(
                moments, data.calls[name], data.batches[name], data.scatter.get(name), name in circular
            )
            if name not in fixed:
                switch(name, moments)

    names = list(layers)
    if method == "one-pass":
        first = _Pass(feed, layers, weights, lent=frozenset(names) - fixed)
    else:
        bits = {name: 0 if name in fixed else 1 << i for i, name in enumerate(names)}
        first = _Pass(feed, layers, weights, bits=bits)
    bar.expect(known := feed.length)
    first.run(workers, bar)
    if not workers.gather(torch.tensor(first.n_batches)).any():
        raise InputError("there are no batches: population statistics need data")
    order, behind = workers.earliest(first.order, names), workers.union(first.behind, names)
    settle([name for name in order if not behind[name]], first)
    levels = _levels([name for name in order if behind[name]], {name: _names(behind[name], names) for name in order})
    bar.expect((len(levels) + (not known)) * first.n_batches)
    for level, circular in levels:
        data = _Pass(feed, {name: layers[name] for name in level}, weights, lent=circular - fixed, until=first.n_calls)
        data.run(workers, bar)
        workers.raise_together(_other_number(first.n_batches, data.n_batches))
        settle(level, data, circular)
    if order and not found:
        raise InputError("the weights of all examples are 0: population statistics need some that count")
    return Population({name: found[name] for name in order if name in found}, 1 + len(levels))


def _other_number(first: int, later: int) -> InputError | None:
    if first == later:
        return None
    return InputError(
        f"the first pass over the batches saw {first} of them, a later one {later}: give a list, or another object "
        "that yields the same ones each time"
    )


def _names(bits: int, names: Sequence[str]) -> set[str]:
    return {name for i, name in enumerate(names) if bits >> i & 1}


def _levels(order: Sequence[str], behind: Mapping[str, set[str]]) -> list[tuple[list[str], frozenset[str]]]:
    """Group layers into those that can be measured in one pass; say which of them depend on themselves.

    >>> _levels(["b", "c", "d"], {"b": {"a"}, "c": {"a", "b"}, "d": {"a"}})
    [(['b', 'd'], frozenset()), (['c'], frozenset())]
    """
    levels = []
    left = list(order)
    while left:
        # what a layer waits for; not for those that wait for it as well
        waiting = {a: {b for b in behind[a] if b in left and a not in behind[b]} for a in left}
        level = [name for name in left if not waiting[name]] or left
        levels.append((level, frozenset(a for a in level if any(b in left and a in behind[b] for b in behind[a]))))
        left = [name for name in left if name not in level]
    return levels


class _EnoughError(BaseException):
    """Ends a forward pass that has shown all that was wanted; no model's `except Exception` catches it."""


class _Pass:
    """One pass over the data, and what it has shown of some layers.

    Parameters
    ----------
    lent : frozenset of str
        Layers that normalise each batch with its own statistics.
    bits : mapping of str to int, optional
        Have dependences watched, under these names for the layers; take moments only of what depends on no layer.
    until : mapping of str to int, optional
        How often layers are called in each forward pass. Where it is known of all, a forward pass ends there.
    """

    def __init__(
        self,
        feed: Feed,
        layers: Mapping[str, Any],
        weights: Callable[[Any], Tensor] | None,
        *,
        lent: frozenset[str] = frozenset(),
        bits: Mapping[str, int] | None = None,
        until: Mapping[str, int] | None = None,
    ):
        self._feed, self._layers, self._weights, self._lent, self._bits = feed, layers, weights, lent, bits
        self._until = until if until is not None and all(name in until for name in layers) else None
        self.n_batches = 0
        self.order: list[str] = []  # as far as this pass has come
        self.behind = dict.fromkeys(layers, 0)
        self.calls: dict[str, list[Moments]] = {name: [] for name in layers}
        self.batches: dict[str, list[tuple[int, int]]] = {name: [] for name in layers}
        self.scatter: dict[str, tuple[Moments, Moments]] = {}
        self.n_calls: dict[str, int] = {}  # in each forward pass; of layers for which that is one number
        self._dependence: Dependence | None = None
        self._counts: Tensor | None = None
        self._called: Counter[str] = Counter()

    def total(self, name: str) -> Moments:
        """Return the moments of all calls of a layer together."""
        return functools.reduce(merge_moments, self.calls[name])

    def run(self, workers: Workers, bar: Bar) -> None:
        """Go through the data."""
        error: Exception | None = None
        try:
            with ExitStack() as hooks:
                for name, layer in self._layers.items():
                    self._watch(name, layer, hooks)
                for batch in self._feed:
                    self._run_batch(batch)
                    bar.advance()
        except Exception as caught:
            error = caught
        workers.raise_together(error)

    def _watch(self, name: str, layer: nn.Module, hooks: ExitStack) -> None:
        def before(layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            self._reached(name, layer, args[0] if args else kwargs["input"])

        hooks.callback(layer.register_forward_pre_hook(before, with_kwargs=True).remove)
        if self._bits is not None:
            bits = self._bits[name]

            def after(layer: nn.Module, args: Any, output: Any) -> None:
                if self._dependence is not None:
                    self._dependence.add(output, bits)

            hooks.callback(layer.register_forward_hook(after).remove)

    def _run_batch(self, batch: Any) -> None:
        self._called = Counter()
        self._counts = self._weights(batch).double() if self._weights else None
        if self._bits is not None:
            model = self._feed.model
            known = (*model.parameters(), *model.buffers(), *tensors_in(batch))
            self._dependence = Dependence(known)
        # A model that is stopped half-way is not left there.
        whole = undisturbed(self._feed.model) if self._until is not None else nullcontext()
        with whole, self._dependence or nullcontext(), suppress(_EnoughError):
            self._feed.run(batch)
        for name in self._layers:
            if self.n_batches == 0:
                self.n_calls[name] = self._called[name]
            elif self.n_calls.get(name) != self._called[name]:
                self.n_calls.pop(name, None)
        self.n_batches += 1

    def _reached(self, name: str, layer: Any, x: Tensor) -> None:
        call = self._called[name]
        self._called[name] += 1
        if name not in self.order:
            self.order.append(name)
        if self._dependence is not None:
            self.behind[name] |= self._dependence.of(x)
        if x.numel() and (self._counts is None or self._counts.any()):
            self.batches[name].append((len(x), x[:, 0].numel()))
            if not self.behind[name]:
                self._take_up(name, layer, x, call)
        if self._until is not None and all(self._called[name] >= self._until[name] for name in self._layers):
            raise _EnoughError

    def _take_up(self, name: str, layer: Any, x: Tensor, call: int) -> None:
        seen, calls = batch_moments(x.double(), self._counts), self.calls[name]
        if call < len(calls):
            calls[call] = merge_moments(calls[call], seen)
        else:
            calls.append(seen)
        here = Moments(1, seen.mean, torch.zeros_like(seen.mean)), Moments(1, seen.var, torch.zeros_like(seen.var))
        before = self.scatter.get(name)
        self.scatter[name] = here if before is None else tuple(map(merge_moments, before, here))  # type: ignore[assignment]
        if name in self._lent:
            layer.running_mean.copy_(seen.mean)
            layer.running_var.copy_(seen.var)
