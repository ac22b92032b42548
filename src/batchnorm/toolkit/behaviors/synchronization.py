"""Batch norm over the batches of all workers at once: exact for unequal and for empty ones, on any device.

With nᵢ, mᵢ, vᵢ the moments of worker i's batch (see `functional`)::

    N = Σ nᵢ,   mean = Σ nᵢ mᵢ / N,   var = Σ nᵢ (vᵢ + (mᵢ − mean)²) / N           merged, in float64
    y  = γ r (x − mean) + β,   r = 1/√(var + ε),   x̂ = r (x − mean)
    dx = γ r (dy − Σ dy / N − x̂ Σ dy x̂ / N)                                        sums over all workers
    dγ = Σ dy x̂,   dβ = Σ dy                                                       sums over this worker's batch

The gradients of γ and β are this worker's share, as those of all other parameters: whoever combines them over the
workers (`DistributedDataParallel`) combines these too. Merging is that of `functional.merge_moments`, all at once.
"""

import warnings
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.errors import InputError
from batchnorm.functional import Moments, batch_moments, update_running
from batchnorm.toolkit.behaviors.variants import (
    Behavior,
    ChangedLayers,
    add_behavior,
    behaviors_of,
    change_class,
    layers_to_change,
    layers_with,
    original_class,
    remove_behavior,
)
from batchnorm.toolkit.model import (
    Feed,
    NormLayer,
    inference,
    inputs_seen,
    listed,
    open_model,
    refuse_lazy,
    variance_convention,
    without_gradients,
)

__all__ = ["is_synchronized", "synchronize", "unsynchronize"]

Dims = Literal[1, 2, 3]
_UNKNOWN = "may have been a BatchNorm1d, 2d or 3d; give example=a batch, from which that is read, or dims=1, 2 or 3"
_PLAIN: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class Synchronized(Behavior):
    """A batch-norm layer that in training normalises with the moments of all workers."""

    _synchronized_group: "_Group | None" = None

    @classmethod
    def base(cls, original: type[nn.Module]) -> type[nn.Module]:
        """Return `original`, or what stands for torch's `SyncBatchNorm`, which refuses the CPU."""
        return _AnyRankBatchNorm if original is nn.SyncBatchNorm else original

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (batch, channels, *positions): with the moments of all workers in training."""
        group = _group(self) if self.training else None
        return super().forward(input) if group is None else _forward(self, input, group)


class _Group:
    """A process group, which copies of a layer share: it cannot be copied."""

    def __init__(self, process_group: Any):
        self.process_group = process_group

    def __deepcopy__(self, _: Any) -> "_Group":
        return self


class _AnyRankBatchNorm(_BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")


def synchronize(model: nn.Module, process_group: Any = None) -> ChangedLayers:
    """Have batch-norm layers in training normalise over the batches of all workers, in place.

    The result is that of one worker with all batches together: outputs, gradients and running statistics, which are
    equal on all workers. Batches may be unequal, and empty on some workers (which then must call `backward` all the
    same: the others wait for them). It works on CPU (gloo) as on GPU (NCCL), inside `DistributedDataParallel` or not.

    Without a process group of more than one, and in inference, the layers compute what they did before. They are the
    same objects, with the same `state_dict` to the bit, and `isinstance` answers as before (for torch's own
    `SyncBatchNorm`, whose place is taken, it does so again after `unsynchronize`).

    Parameters
    ----------
    model : torch.nn.Module
        With any layers `BatchNorm1d`, `2d`, `3d` or `SyncBatchNorm`. It may be compiled or wrapped for several devices.
    process_group : torch.distributed.ProcessGroup, optional
        Of the workers that normalise together; by default, all (a `SyncBatchNorm` keeps its own). Where a layer is
        synchronised already, the last call counts. It need not exist before training does.

    Returns
    -------
    ChangedLayers
        The layers, which are now all synchronised: a sequence of their qualified names.

    Raises
    ------
    InputError
        If there is no batch-norm layer; if one is lazy and not yet initialised, or was when `convert_sync_batchnorm`
        took its place; if one has a `forward` of its own, what that computes beside batch norm would be lost. Nothing
        is changed then.

    Notes
    -----
    In training, with fewer than 2 elements per channel over all workers, a layer raises ValueError on every worker.

    See Also
    --------
    unsynchronize : The inverse.

    References
    ----------
    Chan, Golub and LeVeque 1979 (merging); Ioffe and Szegedy 2015, arXiv:1502.03167, section 3 (the gradient). That
    torch's `SyncBatchNorm` refuses the CPU: pytorch#78081.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> print(synchronize(model))
    layer '1' synchronised
    >>> type(model[1]).__name__, isinstance(model[1], nn.BatchNorm1d)
    ('SynchronizedBatchNorm1d', True)
    >>> print(unsynchronize(model))
    layer '1' no longer synchronised
    """
    layers = layers_to_change(open_model(model))
    if others := [name for name, layer in layers.items() if not _computes_only_batch_norm(layer)]:
        raise InputError(
            f"{_with_kinds(others, layers)}: its own forward may do more than batch norm, which would be lost; "
            "synchronise other parts of the model, each on its own"
        )
    for layer in layers.values():
        add_behavior(layer, Synchronized)
        vars(layer).pop("_synchronized_group", None)
        if process_group is not None:
            cast(Synchronized, layer)._synchronized_group = _Group(process_group)
    return ChangedLayers("synchronised", layers)


def unsynchronize(model: nn.Module, example: Any = None, *, dims: Dims | None = None) -> ChangedLayers:
    """Undo `synchronize` without a trace, and turn torch's own `SyncBatchNorm` layers into plain ones, in place.

    What `synchronize` changed gets its class back. A `SyncBatchNorm` does not say whether it was a `BatchNorm1d`, `2d`
    or `3d`: that is read from what reaches it when the model runs on an example, or `dims` says it.

    Parameters
    ----------
    model : torch.nn.Module
    example : optional
        One batch, as `recalibrate` takes many; needed only for layers that `SyncBatchNorm.convert_sync_batchnorm` made.
        The model runs on it in inference, so nothing in it changes.
    dims : {1, 2, 3}, optional
        In place of an example: which of `BatchNorm1d`, `2d` and `3d` all `SyncBatchNorm` layers become. A model that
        needs several kinds is given part by part.

    Returns
    -------
    ChangedLayers
        The layers that were changed: a sequence of their qualified names. A model of which none is synchronised is left
        as it is.

    Warns
    -----
    UserWarning
        If layers are torch's own `SyncBatchNorm` again, as they were before `synchronize`, for want of an example or
        `dims`: they go on normalising over all workers.

    Raises
    ------
    InputError
        If there are `SyncBatchNorm` layers and neither an example nor `dims`, or an example that does not reach them
        all; if one is of a subclass, holds a module or has a `forward` of its own: a plain layer would not do the same;
        if the class of a synchronised layer was changed meanwhile. Nothing is changed then.

    References
    ----------
    pytorch#41081 asks for the inverse of `convert_sync_batchnorm`.

    Examples
    --------
    >>> model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    >>> list(unsynchronize(model, torch.zeros(1, 1, 5, 5)))
    ['1']
    >>> type(model[1])
    <class 'torch.nn.modules.batchnorm.BatchNorm2d'>
    """
    if example is not None and dims is not None:
        raise InputError("example and dims are both given: one of them is enough")
    if dims is not None and (isinstance(dims, bool) or dims not in get_args(Dims)):
        raise InputError(f"dims is {dims!r}, expected 1, 2 or 3, for BatchNorm1d, 2d or 3d")
    opened = open_model(model)
    ours = layers_with(opened, Synchronized)
    torchs = {
        name: layer for name, layer in opened.layers.items() if issubclass(original_class(layer), nn.SyncBatchNorm)
    }
    unknown = example is None and dims is None
    again = [name for name in torchs if unknown and name in ours]
    to_change = {name: layer for name, layer in torchs.items() if name not in again}
    plain = _plain_classes(opened.module, to_change, example, dims)
    for layer in ours.values():
        remove_behavior(layer, Synchronized)
        vars(layer).pop("_synchronized_group", None)
    for name, kind in plain.items():
        change_class(torchs[name], kind, behaviors_of(torchs[name]))
        vars(torchs[name]).pop("process_group", None)
    if again:
        warnings.warn(
            f"{listed(again)}: torch's SyncBatchNorm again, which goes on normalising over all workers, and {_UNKNOWN}",
            UserWarning,
            stacklevel=2,
        )
    return ChangedLayers("no longer synchronised", (name for name in opened.layers if name in ours or name in plain))


def is_synchronized(layer: NormLayer | nn.Module) -> bool:
    """Tell whether `synchronize` has a layer normalise over all workers.

    Examples
    --------
    >>> is_synchronized(nn.BatchNorm1d(3))
    False
    """
    return isinstance(layer, Synchronized)


class _Normalize(torch.autograd.Function):
    """Normalise with moments of all workers, with the gradient that reaches the input through them too."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, moments: Moments, eps: float, group: Any
    ) -> Tensor:
        dtype = torch.promote_types(x.dtype, torch.float32)
        mean, var = moments.mean.to(dtype), moments.var.to(dtype)
        ctx.save_for_backward(x, weight, bias, mean, (var + eps).rsqrt())
        ctx.n, ctx.group = moments.n, group
        scale, shift = (None if parameter is None else parameter.to(dtype) for parameter in (weight, bias))
        return F.batch_norm(x.to(dtype), mean, var, scale, shift, training=False, eps=eps).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        dims, shape = (0, *range(2, x.dim())), (-1, *[1] * (x.dim() - 2))
        dy = dy.to(mean.dtype)  # (batch, channels, *positions)
        x_hat = (x.to(mean.dtype) - mean.view(shape)) * rstd.view(shape)
        dbias, dweight = dy.sum(dims), (dy * x_hat).sum(dims)  # (channels,), of this worker
        dx = None
        if ctx.needs_input_grad[0]:
            sums = torch.stack([dbias, dweight])  # (2, channels), of all workers after the next line
            dist.all_reduce(sums, group=ctx.group)
            through_mean, through_var = (sums / ctx.n).view(2, *shape)
            scale = rstd if weight is None else rstd * weight
            dx = (scale.view(shape) * (dy - through_mean - x_hat * through_var)).to(x.dtype)
        return (
            dx,
            None if weight is None else dweight.to(weight.dtype),
            None if bias is None else dbias.to(bias.dtype),
            *[None] * 3,
        )


def _forward(layer: Any, x: Tensor, group: Any) -> Tensor:
    layer._check_input_dim(x)
    if x.shape[1] != layer.num_features:
        raise ValueError(f"the input has {x.shape[1]} channels, expected {layer.num_features}")
    if getattr(layer, "counts", None) is not None:
        raise InputError("examples that count unequally (counts) cannot be normalised over several workers")
    moments = _moments_of_all_workers(x.detach(), group)
    if moments.n < 2:
        raise ValueError(
            f"batch norm in training needs at least 2 elements per channel over all workers, got {moments.n}"
        )
    if layer.track_running_stats:
        _update(layer, moments)
    parameters = layer.weight, layer.bias
    y: Tensor = _Normalize.apply(x, *parameters, moments, layer.eps, group)  # type: ignore[no-untyped-call]
    return y


def _moments_of_all_workers(x: Tensor, group: Any) -> Moments:
    own = _own_moments(x)
    packed = torch.cat([own.mean.new_tensor([own.n]), own.mean, own.var])
    gathered = packed.new_empty(dist.get_world_size(group), len(packed))
    dist.all_gather(list(gathered), packed, group=group)
    n, (mean, var) = gathered[:, :1], gathered[:, 1:].chunk(2, dim=1)  # (workers, 1), 2 × (workers, channels)
    total = int(n.sum().item())
    mean_of_all = (n * mean).sum(0) / total if total else mean[0]
    m2 = (n * (var + (mean - mean_of_all).square())).sum(0)
    return Moments(total, mean_of_all, m2 / max(total, 1))


def _own_moments(x: Tensor) -> Moments:
    """Return the moments of one worker's batch, which may be empty, in float64."""
    if not x.numel():
        nothing = x.new_zeros(x.shape[1], dtype=torch.float64)
        return Moments(0, nothing, nothing)
    n, mean, var = batch_moments(x.to(torch.promote_types(x.dtype, torch.float32)))
    return Moments(n, mean.double(), var.double())


def _update(layer: NormLayer, moments: Moments) -> None:
    """Move the running statistics as the layer itself would."""
    momentum = 0.0 if layer.momentum is None else layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            momentum = 1 / layer.num_batches_tracked.item()
    if layer.running_mean is not None and layer.running_var is not None:
        update_running(layer.running_mean, layer.running_var, moments, momentum, variance_convention(layer))


def _group(layer: Synchronized) -> Any:
    """Return the process group with which a layer is synchronised, or None if there is nobody else in it."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if layer._synchronized_group is not None:
        group = layer._synchronized_group.process_group
    else:
        group = getattr(layer, "process_group", None) or dist.group.WORLD  # a SyncBatchNorm's own
    return group if dist.get_world_size(group) > 1 else None


def _computes_only_batch_norm(layer: NormLayer) -> bool:
    """Tell whether a layer's forward is torch's, or the layer says by `stored_variance` what its own one does."""
    kind = original_class(layer)
    torchs = kind is nn.SyncBatchNorm or kind.forward is _BatchNorm.forward
    return "forward" not in vars(layer) and (torchs or hasattr(layer, "stored_variance"))


def _plain_classes(
    model: nn.Module, layers: dict[str, NormLayer], example: Any, dims: Dims | None
) -> dict[str, type[nn.Module]]:
    """Return which of torch's classes each `SyncBatchNorm` becomes; refuse those that none of them stands for."""
    refuse_lazy(layers)
    _refuse_more_than_batch_norm(layers)
    if dims is not None:
        return dict.fromkeys(layers, _PLAIN[dims])
    if layers and example is None:
        raise InputError(f"{listed(list(layers))}: a SyncBatchNorm, which {_UNKNOWN}")
    return _classes_by_input(model, layers, example) if layers else {}


def _refuse_more_than_batch_norm(layers: dict[str, NormLayer]) -> None:
    """Refuse what a plain layer in its place would not do."""
    if others := [
        name
        for name, layer in layers.items()
        if original_class(layer) is not nn.SyncBatchNorm or "forward" in vars(layer)
    ]:
        raise InputError(
            f"{_with_kinds(others, layers)}: a subclass of SyncBatchNorm, or one with a forward of its own, may do "
            "more than batch norm, which would be lost; unsynchronise other parts of the model, each on its own"
        )
    if holding := [name for name, layer in layers.items() if any(cast(nn.Module, layer).children())]:
        held = sorted({child for name in holding for child, _ in cast(nn.Module, layers[name]).named_children()})
        raise InputError(
            f"{listed(holding)}: holds {', '.join(map(repr, held))}, which neither a SyncBatchNorm nor a plain layer "
            "calls: SyncBatchNorm.convert_sync_batchnorm drops what a subclass does beside batch norm; synchronise "
            "the original model by `synchronize` instead, or put a layer of the original class there"
        )


def _with_kinds(names: list[str], layers: dict[str, NormLayer]) -> str:
    """Name layers and their classes in a message."""
    return f"{listed(names)} ({', '.join(sorted({original_class(layers[name]).__name__ for name in names}))})"


def _classes_by_input(model: nn.Module, layers: dict[str, NormLayer], example: Any) -> dict[str, type[nn.Module]]:
    """Return which of torch's classes takes what reaches each layer."""
    ranks: dict[str, set[int]] = {name: set() for name in layers}
    feed = Feed(model, [example])
    seen = inputs_seen(layers, lambda name, _, x: ranks[name].add(x.dim()))
    with seen, inference(model), without_gradients(model):
        for batch in feed:
            feed.run(batch)
    if unreached := [name for name in layers if not ranks[name]]:
        raise InputError(f"{listed(unreached)}: not reached by the example, so its input is not known")
    return {name: _plain_class(name, ranks[name]) for name in layers}


def _plain_class(name: str, ranks: set[int]) -> type[nn.Module]:
    for dims, accepted in ((1, {2, 3}), (2, {4}), (3, {5})):
        if ranks <= accepted:
            return _PLAIN[dims]
    raise InputError(
        f"{listed([name])}: its inputs have {' and '.join(map(str, sorted(ranks)))} dimensions, which no BatchNorm1d, "
        "2d or 3d takes"
    )
