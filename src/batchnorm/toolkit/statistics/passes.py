"""One pass over the data: what reaches batch-norm layers, and which layer depends on which."""

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from typing import Any, cast

from torch import Tensor, nn

from batchnorm.progress import Bar
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    State,
    TrackingLayer,
    Workers,
    inputs_seen,
    normalize_with,
    statistics_in,
    tensors_in,
)
from batchnorm.toolkit.statistics.dependence import Dependence
from batchnorm.toolkit.statistics.glimpse import EnoughError, glimpse
from batchnorm.toolkit.statistics.reached import Tally


class Pass:
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
        layers: Mapping[str, NormLayer],
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
        self.tallies = {name: Tally() for name in layers}
        self.n_calls: dict[str, int] = {}  # in each forward pass; of layers for which that is one number
        self.first: Any = None  # batch
        self.shown: dict[str, Tensor] = {}  # by it, to layers in their first call
        self.keeps_state = False
        self._dependence: Dependence | None = None
        self._counts: Tensor | None = None
        self._called: Counter[str] = Counter()
        self._thread = 0

    def run(self, workers: Workers, bar: Bar) -> None:
        """Go through the data."""
        error: Exception | None = None
        try:
            with inputs_seen(self._layers, self._reached), self._outputs_seen():
                statistics = (statistic for layer in self._layers.values() for statistic in statistics_in(layer))
                before = State(self._feed.model, statistics)
                for batch in self._feed:
                    self._run_batch(batch)
                    if self._until is not None:  # a model that is stopped half-way is not left there
                        before.restore()
                    bar.advance()
                self.keeps_state = before.changed
        except Exception as caught:
            error = caught
        workers.raise_together(error)

    def _outputs_seen(self) -> ExitStack:
        """Note what depends on the layers, if that is wanted."""
        hooks = ExitStack()
        for name, bits in (self._bits or {}).items():

            def after(layer: nn.Module, args: Any, output: Any, bits: int = bits) -> None:
                if self._dependence is not None:
                    self._dependence.add(output, bits)

            hooks.callback(cast(nn.Module, self._layers[name]).register_forward_hook(after).remove)
        return hooks

    def _run_batch(self, batch: Any) -> None:
        self._called, self._thread = Counter(), threading.get_ident()
        self._counts = self._weights(batch).double() if self._weights else None
        if self._bits is not None:
            model = self._feed.model
            known = (*model.parameters(), *model.buffers(), *tensors_in(batch))
            self._dependence = Dependence(known)
        if self.n_batches == 0:
            self.first = batch
        with self._dependence or nullcontext(), suppress(EnoughError):
            self._feed.run(batch)
        for name in self._layers:
            if self.n_batches == 0:
                self.n_calls[name] = self._called[name]
            elif self.n_calls.get(name) != self._called[name]:
                self.n_calls.pop(name, None)
        self.n_batches += 1

    def _reached(self, name: str, layer: NormLayer, x: Tensor) -> None:
        call = self._called[name]
        self._called[name] += 1
        if name not in self.order:
            self.order.append(name)
        if self.n_batches == 0 and not call:
            self.shown[name] = glimpse(x)
        if self._dependence is not None:
            self.behind[name] |= self._dependence.of(x)
        if x.numel() and (self._counts is None or self._counts.any()):
            self.tallies[name].count(x)
            if not self.behind[name]:
                moments = self.tallies[name].take_up(x, self._counts, call)
                if name in self._lent:
                    normalize_with(cast(TrackingLayer, layer), moments)
        enough = self._until is not None and all(self._called[name] >= self._until[name] for name in self._layers)
        if enough and threading.get_ident() == self._thread:  # not in one of the model's own
            raise EnoughError
