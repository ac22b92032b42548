"""Exact population statistics in one pass: all batches walk through the model together.

Each batch's forward pass stops at a batch-norm layer until all have arrived there. Then their moments are merged, the
layer is switched to them, and all go on. So every layer is measured behind layers that already have their population
statistics, to the same bits as pass by pass, and each batch is run once.

It takes the model's code to keep batches apart. Whether it did is tried afterwards: the first batch is run again, by
itself, and must show every layer what it showed before. Where it does not, or something else stands in the way, the
model is left as it was and `measure_together` returns None.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import Moments
from batchnorm.progress import Bar
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    Workers,
    eager,
    inputs_seen,
    random_state_restored,
    tensors_in,
    undisturbed,
)
from batchnorm.toolkit.statistics.alive import Alive
from batchnorm.toolkit.statistics.glimpse import glimpse, shown_otherwise
from batchnorm.toolkit.statistics.reached import Reached, Tally, merged
from batchnorm.toolkit.statistics.walk import Walk, can_walk

MEMORY = 2**31  # bytes
_OF_A_THREAD = 2**20  # bytes that a waiting thread holds beside tensors, generously
# A batch that takes longer to the next layer than any other did waits for what another one holds, such as a lock.
_PATIENCE, _TIMES_AS_LONG = 10.0, 20.0  # seconds, and times the longest
_OBSTACLE = -1.0  # what a worker tells the others in place of the number of a layer


class _ObstacleError(BaseException):
    """Why batches cannot walk together; no model's `except Exception` catches it."""


def measure_together(
    feed: Feed,
    layers: Mapping[str, NormLayer],
    switch: Callable[[str, Moments], None],
    *,
    workers: Workers,
    bar: Bar,
    fixed: frozenset[str],
    weights: Callable[[Any], Tensor] | None,
    memory: int,
) -> dict[str, Reached] | None:
    """Measure what reaches layers, as `measure` does; None if it cannot be done so, the model then being unchanged.

    torch's random state is afterwards what it was: passes that follow draw what they would have drawn without it.

    Parameters
    ----------
    memory : int
        Bytes that the batches may hold together while they wait for each other.
    """
    together = _Lockstep(feed, layers, fixed, weights, memory)
    with random_state_restored(feed.model), undisturbed(feed.model), eager():
        found = together.measure(workers, switch, bar)
    workers.raise_together(together.of_the_batches)
    for name, reached in (found or {}).items():  # so far they were in copies of the buffers
        if name not in fixed:
            switch(name, reached.moments)
    return found


class _Batch:
    """One of those that walk together."""

    def __init__(self, walk: Walk, counts: Tensor | None):
        self.walk, self.counts = walk, counts
        self.called: Counter[str] = Counter()
        self.input: Tensor | None = None  # of the layer at which it waits


class _Lockstep:
    """Batches that walk together, and what has been seen of them."""

    def __init__(
        self,
        feed: Feed,
        layers: Mapping[str, NormLayer],
        fixed: frozenset[str],
        weights: Callable[[Any], Tensor] | None,
        memory: int,
    ):
        self._feed, self._layers, self._fixed, self._weights, self._memory = feed, layers, fixed, weights, memory
        self._names = list(layers)
        self._tallies = {name: Tally() for name in layers}
        self._order: list[str] = []
        self._batches: list[_Batch] = []
        self._here = threading.local()
        self._longest, self._strangers = 0.0, False
        self._first: Any = None
        self._alive: Alive | None = None
        self._most_alive = 0
        self._shown: dict[str, Tensor] = {}  # by the first batch, to layers in their first call
        self.of_the_batches: Exception | None = None  # raised by whoever yields them

    def measure(self, workers: Workers, switch: Callable[[str, Moments], None], bar: Bar) -> dict[str, Reached] | None:
        """Walk to the end, settling layer by layer; None if there is an obstacle on this or another worker."""
        found: dict[str, Reached] = {}

        def settle(names: frozenset[str]) -> None:
            tallies = {name: self._tallies[name] for name in self._names if name in names}
            for name, moments in merged(tallies, self._layers, workers).items():
                found[name] = tallies[name].reached(moments)
                if name not in self._fixed:
                    switch(name, moments)

        bar.expect(len(self._layers))
        try:
            with inputs_seen(self._layers, self._reached), self._ended():
                go_on = self._begin
                while (name := self._common_stop(workers, go_on)) is not None:
                    settle(frozenset({name}))
                    bar.advance()
                    go_on = self._go_on
            settle(self._fixed)
            self._agree(workers, 0.0 if found and self._kept_apart(found) else _OBSTACLE)
        except _ObstacleError:
            return None
        return {name: found[name] for name in workers.earliest(self._order, self._names) if name in found}

    @contextmanager
    def _ended(self) -> Iterator[None]:
        """Leave no thread behind."""
        try:
            yield
        finally:
            for batch in self._batches:
                batch.walk.abandon()

    def _common_stop(self, workers: Workers, go_on: Callable[[], None]) -> str | None:
        """Have all batches go on; return the layer at which all that have not ended wait, on all workers."""
        end = float(len(self._names))
        try:
            go_on()
            stops = set(self._take_up_inputs())
            if len(stops) > 1:
                raise _ObstacleError
            place = float(self._names.index(stop)) if (stop := next(iter(stops), None)) is not None else end
        except _ObstacleError:
            place = _OBSTACLE
        except Exception as error:  # of the batches
            self.of_the_batches, place = error, _OBSTACLE
        places = self._agree(workers, place) - {end}
        if len(places) > 1:
            raise _ObstacleError
        return self._names[int(next(iter(places)))] if places else None

    def _agree(self, workers: Workers, place: float) -> set[float]:
        """Return where the workers are; raise on all if one has met an obstacle."""
        places = set(workers.gather(torch.tensor(place)).tolist())
        if _OBSTACLE in places:
            raise _ObstacleError
        return places

    def _begin(self) -> None:
        """Have each batch walk to the first layer."""
        if not can_walk():
            raise _ObstacleError
        for batch in self._feed:
            counts = self._weights(batch).double() if self._weights else None
            if self._alive is None:
                owned = (*self._feed.model.parameters(), *self._feed.model.buffers())
                self._first, self._alive = batch, Alive(tensors_in(batch), owned)
            self._batches.append(self._new(batch, counts, nullcontext() if self._batches else self._alive))
            self._check_memory()
            self._let_go_on(self._batches[-1])

    def _go_on(self) -> None:
        for batch in self._batches:
            if not batch.walk.ended:
                self._let_go_on(batch)

    def _new(self, value: Any, counts: Tensor | None, within: Any) -> _Batch:
        def work() -> None:
            self._here.batch = batch
            with within:
                self._feed.run(value)

        batch = _Batch(Walk(work), counts)
        return batch

    def _let_go_on(self, batch: _Batch) -> None:
        alone = len(self._batches) == 1
        begun = time.monotonic()
        try:
            stopped = batch.walk.go_on(None if alone else _PATIENCE + _TIMES_AS_LONG * self._longest)
        except RuntimeError as error:  # there can be no more threads
            raise _ObstacleError from error
        if not stopped or batch.walk.error is not None or self._strangers:
            raise _ObstacleError
        self._longest = max(self._longest, time.monotonic() - begun)

    def _reached(self, name: str, layer: NormLayer, x: Tensor) -> None:
        batch: _Batch | None = getattr(self._here, "batch", None)
        if batch is None:  # in a thread of the model's own, which does not wait
            self._strangers = True
            return
        call = batch.called[name]
        batch.called[name] += 1
        if call and name not in self._fixed:
            raise _ObstacleError  # it is settled already
        if name not in self._order:
            self._order.append(name)
        if batch is self._batches[0]:
            self._shown.setdefault(name, glimpse(x))
            self._check_memory()
        if name in self._fixed:
            self._take_up(batch, name, x, call)
        else:
            batch.input = x
            batch.walk.pause(name)

    def _take_up_inputs(self) -> Iterator[str]:
        """Take up what the batches wait with, and yield where: not in their threads, each with a cold cache."""
        for batch in self._batches:
            if batch.walk.waits_at is not None and batch.input is not None:
                self._take_up(batch, batch.walk.waits_at, batch.input, 0)
                batch.input = None
                yield batch.walk.waits_at

    def _take_up(self, batch: _Batch, name: str, x: Tensor, call: int) -> None:
        if x.numel() and (batch.counts is None or batch.counts.any()):
            self._tallies[name].count(x)
            self._tallies[name].take_up(x, batch.counts, call)

    def _check_memory(self) -> None:
        assert self._alive is not None
        self._most_alive = max(self._most_alive, self._alive.bytes)
        if (self._most_alive + _OF_A_THREAD) * max(len(self._batches), self._feed.length) > self._memory:
            raise _ObstacleError

    def _kept_apart(self, found: Mapping[str, Reached]) -> bool:
        """Run the first batch by itself; tell whether it shows the layers what it showed among the others."""
        if len(self._batches) < 2:
            return True
        try:
            return not any(shown_otherwise(self._feed, self._first, self._layers, self._shown, found))
        except Exception:  # pass by pass it is raised where others can see it
            return False
