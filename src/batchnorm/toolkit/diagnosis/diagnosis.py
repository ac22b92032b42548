"""What is wrong with a model's batch norm, layer by layer, and what fixes it.

First what reaches each layer is measured, the layers before it already normalising with their population statistics;
then each of the `rules` looks at each layer. The population measured so also serves as the yardstick of the `gap`: from
the network in which every layer uses its population statistics, layers are switched to their running ones, all at once
and then, to see who is to blame, one at a time. Switching a layer to batch statistics instead would blame the wrong
one: those behind it, when they normalise by the batch, undo a shift or scale that an earlier one brought in.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, get_args

import torch
from torch import Tensor, nn

from batchnorm.errors import InputError
from batchnorm.functional import Moments
from batchnorm.progress import Bar
from batchnorm.toolkit.behaviors import keeps_statistics
from batchnorm.toolkit.diagnosis.additions import added
from batchnorm.toolkit.diagnosis.evidence import Evidence, not_compared
from batchnorm.toolkit.diagnosis.finding import Finding
from batchnorm.toolkit.diagnosis.gap import measure_gap
from batchnorm.toolkit.diagnosis.report import Diagnosis, LayerReport
from batchnorm.toolkit.diagnosis.rules import findings
from batchnorm.toolkit.diagnosis.training_step import weights_of_a_step
from batchnorm.toolkit.model import (
    Feed,
    Forward,
    NormLayer,
    Overlooked,
    TrackingLayer,
    Workers,
    device_of,
    give_statistics,
    left_alone,
    materialize,
    modes_restored,
    open_model,
    overlooked_in_words,
    random_state_restored,
    random_states,
    set_modes,
    statistics_of,
    tracking,
)
from batchnorm.toolkit.statistics import MEMORY, Method, measure

Loss = Callable[[Any, Any], Tensor]


def diagnose(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    n_batches: int | None = None,
    loss: Loss | None = None,
    training: bool | None = None,
    method: Method = "exact",
    memory: int = MEMORY,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Diagnosis:
    """Find what is wrong with the batch norm of a model, and what fixes it.

    Call it in the mode in which the trouble shows, with batches as the training has them. The model is afterwards what
    it was: modes, buffers, hooks, gradients, random state.

    Parameters
    ----------
    model : torch.nn.Module
    batches : iterable
        As for `recalibrate`. A few hundred examples will do; they should be like those of the training, in batches of
        its size.
    n_batches : int, optional
        Use the first so many of them, as for `recalibrate`.
    loss : callable, optional
        ``loss(output, batch)`` returns the mean loss of a batch. With it, the gap between training and inference is
        given and attributed in its terms; without it, as a distance of outputs.
    training : bool, optional
        The mode that the model should be in where it is now: True in a training loop, False where it predicts. Without
        it, only layers in another mode than their model are found.
    method : {"exact", "one-pass"}, default "exact"
        How population statistics are measured, as for `recalibrate`; "one-pass" for a quick look at a deep network.
    memory, forward, device
        As for `recalibrate`.
    progress : bool, default True
        Whether to show a bar at a terminal when it takes long.

    Returns
    -------
    Diagnosis
        Its findings; statistics and share of the gap of each layer; as a table, JSON and HTML; an exit code.

    Raises
    ------
    InputError
        If there are no batches, or fewer than `n_batches`, or the model cannot be run on them.

    Notes
    -----
    It costs what `recalibrate` costs, three evaluations, and one backward pass over one batch; where there is a gap,
    up to five more evaluations and another backward pass, by which most of the shares are then estimated.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval()
    >>> report = diagnose(model, [torch.randn(64, 4) + 5 for _ in range(4)])
    >>> [(finding.layer, finding.cause) for finding in report.findings]
    [('1', 'never-updated')]
    >>> report.findings[0].remedy
    'batchnorm.recalibrate(model, batches)'
    """
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}, expected 'exact' or 'one-pass'")
    opened = open_model(model)
    module = opened.module
    overlooked = Overlooked(module)
    feed = Feed(module, batches, n_batches=n_batches, forward=forward, device=device, around=overlooked.watching)
    materialize(feed)
    layers = opened.layers
    running = {name: statistics_of(layer) for name, layer in tracking(layers).items()}
    kept = {name for name, layer in layers.items() if keeps_statistics(module, layer)}
    fixed = frozenset(kept | (layers.keys() - running.keys()))
    modes = {name: layer.training for name, layer in layers.items()}
    with random_state_restored(module), Bar("diagnosing", progress) as bar:
        weights, no_step = weights_of_a_step(feed, layers, loss)
        with left_alone(module):
            alone = Workers(False, device_of(module))
            switch = _switch_what_can_be(tracking(layers))
            population = measure(
                feed, layers, switch, method=method, memory=memory, bar=bar, fixed=fixed, workers=alone
            )
            reached = population.reached
            switched = {name: running[name] for name in reached if name not in fixed}
            gap, no_gap = measure_gap(feed, tracking(layers), switched, loss, bar)
            at_the_end_of_branches = added(feed, layers)
            with_dropout = _in_training(feed, layers, fixed, bar) if gap is None or gap.matters else {}
    evidence = [
        Evidence(
            name=name,
            code=opened.code(name),
            layer=layers[name],
            running=running.get(name),
            reached=reached.get(name),
            model_training=module.training,
            training=modes[name],
            expected_training=training,
            keeps_statistics=name in kept,
            weight_of_a_step=weights.get(name),
            gap=gap,
            with_dropout=with_dropout.get(name),
            is_added=name in at_the_end_of_branches,
        )
        for name in (*reached, *(name for name in layers if name not in reached))
    ]
    found = tuple(_without_consequences(finding for of in evidence for finding in findings(of)))
    unexplained = gap.unexplained() if gap is not None and not found else None
    beside = overlooked.beside(reached)
    return Diagnosis(
        findings=found,
        layers=tuple(LayerReport.of(of, gap) for of in evidence),
        gap=gap,
        unreached=tuple(name for name in layers if name not in reached and name not in beside),
        notes=tuple(
            note
            for note in (no_step, not_compared(evidence), no_gap, unexplained, overlooked_in_words(beside))
            if note is not None
        ),
        not_looked_at=beside,
    )


def _in_training(feed: Feed, layers: Mapping[str, NormLayer], fixed: frozenset[str], bar: Bar) -> dict[str, Moments]:
    """Return the moments of what reaches layers in training, if the model draws random numbers in it; else none."""
    alone = Workers(False, device_of(feed.model))
    with modes_restored(feed.model), torch.no_grad():
        before = random_states(feed.model)
        try:
            set_modes(feed.model, True)
            for layer in layers.values():
                layer.training = False  # they are lent the statistics of the batch
            feed.run(next(iter(feed)))
            if all(map(torch.equal, before, random_states(feed.model))):
                return {}
            found = measure(feed, layers, lambda *_: None, method="one-pass", bar=bar, fixed=fixed, workers=alone)
        except Exception:  # a training step is tried elsewhere, and says so
            return {}
    return {name: reached.moments for name, reached in found.reached.items()}


_CARRIED_ON = {"nan-input", "batches-differ"}  # what reaches one layer so reaches those behind it


def _without_consequences(found: Iterable[Finding]) -> Iterator[Finding]:
    """Leave out what an earlier layer's finding explains."""
    seen: set[str] = set()
    for finding in found:
        if finding.cause not in _CARRIED_ON & seen:
            yield finding
        seen.add(finding.cause)


def _switch_what_can_be(layers: Mapping[str, TrackingLayer]) -> Callable[[str, Moments], None]:
    """Return what gives layers their population statistics; where there can be none, a rule says so."""

    def switch(name: str, moments: Moments) -> None:
        with suppress(InputError):
            give_statistics(name, layers[name], moments)

    return switch
