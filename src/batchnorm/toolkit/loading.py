"""Batch-norm layers from Keras, TensorFlow and Flax: a torch layer that computes what theirs computes."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.errors import InputError
from batchnorm.results import Result
from batchnorm.toolkit.conventions import as_tensor, as_variances, convert_momentum, named
from batchnorm.toolkit.model import refuse_lazy, write

__all__ = ["Loading", "load_flax", "load_keras"]

_KERAS_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_FLAX_NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


@dataclass(frozen=True)
class Loading(Result):
    """What `load_keras` or `load_flax` gave a layer.

    Parameters
    ----------
    sources : mapping of str to str or None
        For each of the layer's tensors that was written, the array that it is from; None where it became 1 or 0, as
        the other layer does without.
    momentum, eps : float
        What the layer has now, in torch's convention.
    """

    sources: Mapping[str, str | None]
    momentum: float
    eps: float

    def __str__(self) -> str:
        parts = [f"{slot} from {name}" if name else f"{slot} neutral" for slot, name in self.sources.items()]
        return f"{', '.join(parts)}\nmomentum {self.momentum:g}, eps {self.eps:g}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows."""
        return {"sources": dict(self.sources), "momentum": self.momentum, "eps": self.eps}


def load_keras(
    layer: nn.Module,
    weights: Iterable[Any],
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-3,
    scale: bool = True,
    center: bool = True,
) -> Loading:
    """Have a batch-norm layer compute what a `BatchNormalization` layer of Keras or TensorFlow computes, in place.

    In inference it is then exactly the same function: variances are not converted (see `convert_variance`). In
    training it is too; only the running variance takes up the unbiased variance of the batch where Keras 3 takes up the
    biased one, unless the layer has ``stored_variance="biased"``, as `batchnorm.BatchNorm1d` can.

    Parameters
    ----------
    layer : torch.nn.Module
        A `BatchNorm1d`, `2d`, `3d`, `SyncBatchNorm` or subclass with as many channels. It keeps its dtype, device, mode
        and `num_batches_tracked`, which Keras does not count.
    weights : iterable of arrays, each of shape (channels,)
        What the Keras layer's ``get_weights()`` returns: gamma, beta, moving_mean, moving_variance.
    momentum : float, default 0.99
        The Keras layer's: the weight of the old value.
    epsilon : float, default 1e-3
        The Keras layer's.
    scale, center : bool, default True
        The Keras layer's. Without `scale` there is no gamma in `weights`, and the layer's weight becomes 1; without
        `center`, no beta, and the bias becomes 0. Both remain parameters: if you train on, and they should not move,
        set their ``requires_grad`` to False.

    Returns
    -------
    Loading
        What went where.

    Raises
    ------
    InputError
        If an array is missing, superfluous, of another shape, not finite or, as a variance, negative; if the layer
        lacks running statistics; if it lacks the weight for a gamma that is not 1, or the bias for a beta that is not
        0. Nothing is changed then.

    References
    ----------
    Keras, https://keras.io/api/layers/normalization_layers/batch_normalization/

    Examples
    --------
    With a Keras layer at hand, ``options = {key: getattr(keras_layer, key) for key in ("momentum", "epsilon", "scale",
    "center")}`` and ``load_keras(layer, keras_layer.get_weights(), **options)``.

    >>> layer = nn.BatchNorm1d(1).eval()
    >>> print(load_keras(layer, [[2.0], [1.0], [5.0], [8.999]], momentum=0.9))
    weight from gamma, bias from beta, running_mean from moving_mean, running_var from moving_variance
    momentum 0.1, eps 0.001
    >>> layer(torch.tensor([[8.0]]))
    tensor([[3.]], grad_fn=<NativeBatchNormBackward0>)
    >>> layer.momentum, layer.eps
    (0.1, 0.001)
    """
    names = [*["gamma"] * scale, *["beta"] * center, "moving_mean", "moving_variance"]
    arrays = list(weights)
    if len(arrays) != len(names):
        raise InputError(
            f"weights are {len(arrays)} arrays, expected {len(names)} with scale={scale} and center={center}: "
            f"{', '.join(names)}; give scale and center as the Keras layer has them"
        )
    return _load(
        layer, dict(zip(names, arrays, strict=True)), _KERAS_NAMES, convert_momentum(momentum, "keras"), epsilon
    )


def load_flax(
    layer: nn.Module,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    *,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
) -> Loading:
    """Have a batch-norm layer compute what a Flax `BatchNorm` computes, in place.

    In inference it is then exactly the same function: variances are not converted. In training it is as `load_keras`
    says.

    Parameters
    ----------
    layer : torch.nn.Module
        As for `load_keras`.
    params : mapping of str to array of shape (channels,)
        "scale" and "bias", of this one layer. Without "scale" (``use_scale=False``) the layer's weight becomes 1;
        without "bias" (``use_bias=False``) its bias becomes 0; without both, give ``{}``.
    batch_stats : mapping of str to array of shape (channels,)
        "mean" and "var", of this one layer.
    momentum : float, default 0.99
        The Flax layer's: the weight of the old value.
    epsilon : float, default 1e-5
        The Flax layer's.

    Returns
    -------
    Loading
        What went where.

    Raises
    ------
    InputError
        As for `load_keras`.

    References
    ----------
    Flax, https://flax.readthedocs.io/en/stable/api_reference/flax.linen/layers.html

    Examples
    --------
    >>> layer = nn.BatchNorm1d(1).eval()
    >>> _ = load_flax(layer, {"scale": [2.0], "bias": [1.0]}, {"mean": [5.0], "var": [4.0]}, epsilon=0.0)
    >>> layer(torch.tensor([[7.0]]))
    tensor([[3.]], grad_fn=<NativeBatchNormBackward0>)
    """
    _check_keys("params", params, optional=("scale", "bias"))
    _check_keys("batch_stats", batch_stats, required=("mean", "var"))
    return _load(layer, {**params, **batch_stats}, _FLAX_NAMES, convert_momentum(momentum, "flax"), epsilon)


@torch.no_grad()
def _load(layer: Any, arrays: Mapping[str, Any], names: Mapping[str, str], momentum: float, epsilon: float) -> Loading:
    """Put arrays into those of a layer's tensors that `names` pairs with theirs; check all before any is changed."""
    if not isinstance(layer, _BatchNorm):
        raise InputError(
            f"layer is a {type(layer).__name__}, expected a batch-norm layer, such as torch.nn.BatchNorm2d"
        )
    refuse_lazy({"": layer})
    if layer.running_mean is None:
        raise InputError(
            "the layer has no running statistics: build it with track_running_stats=True, or give it some by "
            "track_statistics"
        )
    if not 0 <= epsilon < math.inf:
        raise InputError(f"epsilon is {epsilon!r}, expected a number of at least 0")
    new = {slot: _checked(layer, slot, name, arrays[name]) for slot, name in names.items() if name in arrays}
    neutral = {"weight": torch.ones(()), "bias": torch.zeros(())}  # where the other layer does without
    filled = {slot: tensor for slot, tensor in (neutral | new).items() if getattr(layer, slot) is not None}
    for slot, tensor in filled.items():
        write(getattr(layer, slot), tensor)
    layer.momentum, layer.eps = momentum, float(epsilon)
    return Loading({slot: names[slot] if slot in new else None for slot in filled}, momentum, layer.eps)


def _checked(layer: Any, slot: str, name: str, array: Any) -> Tensor:
    """Return what goes into a layer's weight, bias, running_mean or running_var."""
    tensor = as_tensor(name, array)
    if tensor.shape != (layer.num_features,):
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected ({layer.num_features},) as the layer has")
    if slot == "running_var":
        as_variances(name, tensor)
    if not tensor.isfinite().all():
        raise InputError(f"{name} holds NaN or infinite values")
    own = getattr(layer, slot)
    if own is None:
        neutral = 1 if slot == "weight" else 0
        if (tensor != neutral).any():
            raise InputError(f"{name} is not all {neutral}, but the layer has no {slot}: build it with one")
    elif not tensor.to(own.dtype).isfinite().all():
        raise InputError(f"{name} exceeds the layer's {own.dtype}: make it float32 first, by layer.float()")
    return tensor


def _check_keys(
    name: str, mapping: Mapping[str, Any], *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> None:
    expected = required or optional
    if unknown := [key for key in mapping if key not in expected]:
        raise InputError(
            f"{name} has {named(unknown)}, expected {named(expected)} alone: give the part of this one layer"
        )
    if missing := [key for key in required if key not in mapping]:
        raise InputError(f"{name} lacks {named(missing)}, expected {named(expected)}")
