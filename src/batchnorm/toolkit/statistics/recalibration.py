"""Exact population statistics: what the paper evaluates with, in place of running averages."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from batchnorm.errors import InputError
from batchnorm.files import json_ready
from batchnorm.functional import Moments
from batchnorm.markup import captioned_table
from batchnorm.progress import Bar
from batchnorm.results import Result
from batchnorm.toolkit.behaviors import keeps_statistics
from batchnorm.toolkit.model import (
    Feed,
    Forward,
    Overlooked,
    Workers,
    device_of,
    give_statistics,
    left_alone,
    materialize,
    open_model,
    overlooked_in_words,
    statistics_of,
    tracking,
)
from batchnorm.toolkit.statistics.lockstep import MEMORY
from batchnorm.toolkit.statistics.population import Method, measure


@dataclass(frozen=True, eq=False)
class Change:
    """What `recalibrate` did to one layer.

    Parameters
    ----------
    moments : Moments
        Of the population, in float64.
    mean_before, var_before : Tensor, shape (channels,)
        The running statistics that it replaced.
    eps : float
        The layer's.
    circular : bool
        Whether the layer is used twice, once behind itself. Its statistics are then those of all uses together, taken
        while it normalised each batch with the batch's own: there is no exact order.
    """

    moments: Moments
    mean_before: Tensor
    var_before: Tensor
    eps: float
    circular: bool

    @property
    def shift(self) -> Tensor:
        """How far each channel's mean moved, in standard deviations √(var + ε) of the population (channels,)."""
        return (self.mean_before - self.moments.mean).abs() / (self.moments.var + self.eps).sqrt()

    @property
    def variance_ratio(self) -> Tensor:
        """Each channel's var + ε before, divided by the population's (channels,)."""
        return (self.var_before + self.eps) / (self.moments.var + self.eps)

    def to_dict(self) -> dict[str, Any]:
        """Return a summary over the channels."""
        return {
            "n": self.moments.n,
            "largest_shift": float(self.shift.max()),
            "variance_ratio": [float(self.variance_ratio.min()), float(self.variance_ratio.max())],
            "circular": self.circular,
        }


@dataclass(frozen=True, eq=False)
class Recalibration(Result):
    """What `recalibrate` did.

    Parameters
    ----------
    changes : dict of str to Change
        By qualified name, in the order of execution.
    unreached : tuple of str
        Layers that no batch reached. They keep their statistics.
    frozen : tuple of str
        Layers that were left as they are.
    n_passes : int
        How often the data was gone through.
    not_looked_at : dict of str to str
        Names and classes of modules that normalise with running statistics and are no batch-norm layers, and of layers
        whose statistics are used past their call. They keep them.
    """

    changes: dict[str, Change]
    unreached: tuple[str, ...]
    frozen: tuple[str, ...]
    n_passes: int
    not_looked_at: dict[str, str]

    def __str__(self) -> str:
        passes = "1 pass" if self.n_passes == 1 else f"{self.n_passes} passes"
        lines = [f"{_layers(len(self.changes))} recalibrated in {passes} over the data"]
        if self.changes:
            name, change = max(self.changes.items(), key=lambda item: item[1].shift.max().item())
            lines.append(f"largest shift of a mean: {change.shift.max().item():.3g} standard deviations, in {name!r}")
        for why, names in (("never reached", self.unreached), ("frozen", self.frozen)):
            if names:
                lines.append(f"{_layers(len(names))} {why} and left alone: {', '.join(map(repr, names))}")
        if (not_looked_at := overlooked_in_words(self.not_looked_at)) is not None:
            lines.append(not_looked_at)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return how far each layer moved, and which did not, as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {
                "changes": {name: change.to_dict() for name, change in self.changes.items()},
                "unreached": self.unreached,
                "frozen": self.frozen,
                "n_passes": self.n_passes,
                "not_looked_at": self.not_looked_at,
            }
        )
        return described

    def _repr_html_(self) -> str:
        columns = ("layer", "elements", "largest shift of a mean (σ)", "variance before / now")
        rows = [
            (
                name or "(the model)",
                f"{change.moments.n:,g}",
                f"{change.shift.max():.3g}",
                f"{change.variance_ratio.min():.3g} … {change.variance_ratio.max():.3g}",
            )
            for name, change in self.changes.items()
        ]
        return captioned_table(str(self), columns, rows)


def _layers(n: int) -> str:
    return "1 layer" if n == 1 else f"{n} layers"


@torch.no_grad()
def recalibrate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    n_batches: int | None = None,
    method: Method = "exact",
    memory: int = MEMORY,
    distributed: Any = None,
    weights: Callable[[Any], Tensor] | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Recalibration:
    """Replace running averages by the population statistics of the data, in place.

    Moments are taken in float64 and merged by number of elements (Chan, Golub and LeVeque 1979), so the result does not
    depend on how the data is cut into batches. Dropout is off. Modes, hooks and all other buffers are afterwards what
    they were. The statistics of a layer are those of the network that will be evaluated: they are taken behind layers
    that already normalise with their own new statistics. Layers that do not depend on each other share a pass.

    Parameters
    ----------
    model : torch.nn.Module
        With batch-norm layers of any kind. Layers without running statistics are left alone; so are frozen ones: frozen
        by `freeze`, or in inference mode while the model is in training mode, or with ``momentum=0``.
    batches : iterable
        Of tensors; of tuples or lists that begin with the model's input; or of dicts, passed by name. It should yield
        the same data each time that it is gone through. An iterator is read once and kept in memory. The model gets
        copies of the tensors, which it may change.
    n_batches : int, optional
        Use the first so many batches; no more are read, also of endless ones. Without it, all. A loader that shuffles
        has other examples among its first batches in each pass: give ``iter(loader)``, of which these are kept. In a
        process group each worker has a number of its own.
    method : {"exact", "one-pass"}, default "exact"
        "exact" has all batches walk through the model together: each waits at a batch-norm layer until all have arrived
        there and the layer has its new statistics. Where they cannot, it goes through the data as often as the longest
        chain of batch-norm layers is long, at most once a layer. "one-pass" measures all layers at once, while each
        normalises with the statistics of the batch, as other tools do: the result is close for large, mixed batches,
        and is not that of the network that will be evaluated.
    memory : int, default 2 GiB
        Bytes that the batches may hold while they wait for each other: the batch itself, its copy and what its forward
        pass holds between two layers, as measured on the first one, and 1 MiB each. With more to hold, or 0, the data
        is gone through as often as there are levels.
    distributed : bool, torch.distributed.ProcessGroup or None, default None
        Over which processes to merge. None: over all of them if `torch.distributed` is initialised. All of them must
        call this function, each with batches of its own, which may be unequal in number or none at all.
        False: this process alone.
    weights : callable, optional
        Given a batch, returns how often each of its examples counts (batch,). Without it, once.
    forward : callable, optional
        ``forward(model, batch)`` runs the model on other kinds of batches.
    device : torch.device or str, optional
        Where the tensors of a batch are moved. By default to the model's first parameter.
    progress : bool, default True
        Whether to show a bar at a terminal when it takes long.

    Returns
    -------
    Recalibration
        What changed, layer by layer; what was not reached; what is frozen; what was not looked at.

    Raises
    ------
    InputError
        If there are no batches or fewer than `n_batches`, or what reaches a layer is NaN, infinite, too large for its
        buffers or a single element. Whatever is raised half-way, all statistics are afterwards what they were.
    BatchnormError
        If another worker failed.

    Notes
    -----
    Batches cannot walk together where a layer is used several times in a forward pass, where some batches reach other
    layers than others, where the model keeps something from one batch for the next, or where they hold more than
    `memory`. Each forward pass then has a thread of its own, of which one runs at a time; whether the model's code has
    kept them apart is tried afterwards, with the first batch by itself.

    Pass by pass, which layer depends on which is seen on all batches in the first one. A model whose control flow
    depends on the statistics themselves (experts chosen by value) may then reach a layer only later, which counts as
    unreached.

    `num_batches_tracked` stays, too. With ``momentum=None`` a training that goes on weighs new batches by it: where it
    is small, they soon replace the new statistics.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 2, steps 8 to 11.

    Examples
    --------
    >>> model = nn.Sequential(nn.BatchNorm1d(1))
    >>> recalibrate(model, [torch.tensor([[1.0], [2.0]]), torch.tensor([[6.0]])]).changes["0"].moments.mean
    tensor([3.], dtype=torch.float64)
    """
    if method not in get_args(Method):
        raise InputError(f"method is {method!r}, expected 'exact' or 'one-pass'")
    opened = open_model(model)
    module = opened.module
    overlooked = Overlooked(module)
    feed = Feed(module, batches, n_batches=n_batches, forward=forward, device=device, around=overlooked.watching)
    materialize(feed)
    layers = tracking(opened.layers)
    frozen = tuple(name for name, layer in layers.items() if keeps_statistics(module, layer))
    chosen = {name: layer for name, layer in layers.items() if name not in frozen}
    before = {name: statistics_of(layer) for name, layer in chosen.items()}

    def switch(name: str, moments: Moments) -> None:
        give_statistics(name, chosen[name], moments)

    with left_alone(module), Bar("recalibrating", progress) as bar:
        workers = Workers(distributed, device_of(module))
        population = measure(
            feed, chosen, switch, method=method, memory=memory, workers=workers, bar=bar, weights=weights
        )
    for name, reached in population.reached.items():
        switch(name, reached.moments)  # so far they were in copies of the buffers
    beside = overlooked.beside(population.reached)
    return Recalibration(
        {
            name: Change(reached.moments, *before[name], chosen[name].eps, reached.circular)
            for name, reached in population.reached.items()
        },
        unreached=tuple(name for name in chosen if name not in population.reached and name not in beside),
        frozen=frozen,
        n_passes=population.n_passes,
        not_looked_at=beside,
    )
