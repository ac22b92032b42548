"""Population statistics of what reaches batch-norm layers: the engine of `recalibrate` and `diagnose`.

The statistics of a deep layer depend on how the layers before it normalise. Those of the network that will be evaluated
are had only in order: first the layers that depend on no other, over all data; then those that depend on these alone,
with these already switched to their population statistics; and so on. That is one pass over the data per level. Which
layer depends on which is seen in the first pass, while it measures the first level; every later pass ends where the
last layer that it measures has been reached.

A layer that depends on itself (one layer at two places, one behind the other) has no such order. It is measured while
it normalises each batch with the batch's own statistics, as it does in training; in a "one-pass" every layer is.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from batchnorm.errors import InputError
from batchnorm.functional import Moments
from batchnorm.progress import Bar
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    State,
    Workers,
    listed,
    random_states,
    statistics_in,
    tensors_in,
)
from batchnorm.toolkit.statistics.glimpse import shown_otherwise
from batchnorm.toolkit.statistics.lockstep import MEMORY, measure_together
from batchnorm.toolkit.statistics.passes import Pass
from batchnorm.toolkit.statistics.reached import Reached, merged

Method = Literal["exact", "one-pass"]


@dataclass(eq=False)
class Population:
    """What has reached each layer, in the order of execution, and how many passes over the data it took to see."""

    reached: dict[str, Reached]
    n_passes: int


@torch.no_grad()
def measure(
    feed: Feed,
    layers: Mapping[str, NormLayer],
    switch: Callable[[str, Moments], None],
    *,
    method: Method,
    workers: Workers,
    bar: Bar,
    fixed: frozenset[str] = frozenset(),
    weights: Callable[[Any], Tensor] | None = None,
    memory: int = MEMORY,
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
    memory : int
        Bytes that batches may hold while they walk through the model together; with more to hold, or 0, the data is
        gone through level by level.

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
    if method == "exact" and layers and memory:
        together = measure_together(
            feed, layers, switch, workers=workers, bar=bar, fixed=fixed, weights=weights, memory=memory
        )
        if together is not None:
            return Population(together, 1)
    found: dict[str, Reached] = {}

    def settle(names: Sequence[str], data: Pass, circular: frozenset[str] = frozenset()) -> None:
        tallies = {name: data.tallies[name] for name in names}
        for name, moments in merged(tallies, layers, workers).items():
            found[name] = tallies[name].reached(moments, circular=name in circular)
            if name not in fixed:
                switch(name, moments)

    names = list(layers)
    beginning = State(feed.model, (statistic for layer in layers.values() for statistic in statistics_in(layer)))
    if method == "one-pass":
        first = Pass(feed, layers, weights, lent=frozenset(names) - fixed)
    else:
        bits = {name: 0 if name in fixed else 1 << i for i, name in enumerate(names)}
        first = Pass(feed, layers, weights, bits=bits)
    bar.expect(known := feed.length)
    first.run(workers, bar)
    if not workers.gather(torch.tensor(first.n_batches)).any():
        workers.raise_together(_other_number(known, 0))  # they have been gone through, in vain
        raise InputError("there are no batches: population statistics need data")
    order, behind = workers.earliest(first.order, names), workers.union(first.behind, names)
    settle([name for name in order if not behind[name]], first)
    levels = _levels([name for name in order if behind[name]], {name: _names(behind[name], names) for name in order})
    bar.expect((len(levels) + (not known)) * first.n_batches)
    shown = {name: first.shown[name] for name in order if name in first.shown and not behind[name]}
    for level, circular in levels:
        beginning.restore()
        # A model that keeps something for the next batch is run to the end, so that it keeps the same in each pass.
        until = None if first.keeps_state else first.n_calls
        data = Pass(feed, {name: layers[name] for name in level}, weights, lent=circular - fixed, until=until)
        data.run(workers, bar)
        if _equal(first.first, data.first):
            shown |= {name: value for name, value in data.shown.items() if name not in circular}
        workers.raise_together(_other_number(first.n_batches, data.n_batches))
        settle(level, data, circular)
    if order and not found:
        what = "all batches are empty" if weights is None else "the weights of all examples are 0"
        raise InputError(f"{what}: population statistics need examples that count")
    if levels:
        beginning.restore()
        workers.raise_together(_does_not_repeat(feed, first.first, layers, shown, found))
        beginning.restore()
    return Population({name: found[name] for name in order if name in found}, 1 + len(levels))


_REPEATED = 0.01  # standard deviations: what an arithmetic may be off by that does not repeat itself


def _does_not_repeat(
    feed: Feed,
    batch: Any,
    layers: Mapping[str, NormLayer],
    shown: Mapping[str, Tensor],
    found: Mapping[str, Reached],
) -> Exception | None:
    """Run the first batch again; say so if it shows layers something else than it did in their pass.

    What draws random numbers may. What it raises is returned: other workers wait for this one.
    """
    if batch is None:
        return None
    before = random_states(feed.model)
    try:
        others, _ = shown_otherwise(feed, batch, layers, shown, found, _REPEATED)
    except Exception as error:
        return error
    if not others or not all(map(torch.equal, before, random_states(feed.model))):
        return None
    return InputError(
        f"what the first batch shows {listed(others)} is not the same when it is run again: the model keeps something "
        "from one batch for the next in a place outside its modules, or changes the batch itself; give "
        "forward=lambda model, batch: … that begins anew with each batch, or method='one-pass'"
    )


def _equal(a: Any, b: Any) -> bool:
    """Tell whether two batches hold equal tensors."""
    pairs = itertools.zip_longest(tensors_in(a), tensors_in(b))
    return all(x is not None and y is not None and (x is y or torch.equal(x, y)) for x, y in pairs)


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
