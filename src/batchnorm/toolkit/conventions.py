"""Parameters from TensorFlow, Keras and Flax, in torch's conventions: momentum, ε, variance, the order of weights.

    theirs                                               torch's
      running ← k·running + (1 − k)·batch                  running ← (1 − p)·running + p·batch,     p = 1 − k
      ε = 1e-3 (Keras), 1e-5 (Flax), beside the variance   ε = 1e-5, at the same place
      average of v: Keras 3, Flax, Equinox; TensorFlow     average of v·n/(n−1), but for layers that say otherwise by
        1 and Keras 2 on all but fused 4-D inputs            ``stored_variance``
      x (batch, *positions, channels)                      x (batch, channels, *positions)
      kernel (*positions, in, out)                         weight (out, in, *positions)

In inference all of them compute y = γ (x − mean) / √(var + ε) + β. So what was stored is loaded as it is, whatever its
convention, and the function stays the same.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.errors import InputError
from batchnorm.functional import Variance
from batchnorm.results import Result
from batchnorm.toolkit.model import refuse_lazy

__all__ = [
    "Kernel",
    "Loading",
    "Source",
    "convert_kernel",
    "convert_momentum",
    "convert_variance",
    "load_flax",
    "load_keras",
]

Source = Literal["keras", "tensorflow", "flax", "equinox", "torch"]
Kernel = Literal["dense", "conv", "keras depthwise conv", "keras transposed conv", "flax transposed conv"]

_KERAS_NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_FLAX_NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
_AXES: dict[Kernel, str] = {
    "dense": "(in, out)",
    "conv": "(*positions, in, out)",
    "keras depthwise conv": "(*positions, in, multiplier)",
    "keras transposed conv": "(*positions, out, in)",
    "flax transposed conv": "(*positions, in, out)",
}


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


def convert_momentum(momentum: float, source: Source) -> float:
    """Return torch's momentum, the weight of the *newest batch*, for another library's: 1 − momentum.

    Everywhere but in torch, momentum is the weight of the *old value*.

    Parameters
    ----------
    momentum : float
        From 0 to 1.
    source : {"keras", "tensorflow", "flax", "equinox", "torch"}
        Whose it is. torch's is returned as it is.

    Returns
    -------
    float
        Subtracted in decimal, so that 0.99 gives exactly what 0.01 is, without the noise of 1 − 0.99.

    Raises
    ------
    InputError
        If `momentum` is not a number from 0 to 1, or `source` is unknown.

    Notes
    -----
    Of the first batch of all, Equinox with ``mode="ema"`` takes the statistics whole. With ``mode="batch"`` it divides
    what it stores by 1 − momentumᵗ after t batches when it is used; do so before you load it.

    References
    ----------
    pytorch#41559 (momentum meaning the opposite).

    Examples
    --------
    >>> convert_momentum(0.99, "keras")
    0.01
    >>> convert_momentum(0.1, "torch")
    0.1
    """
    if source not in get_args(Source):
        raise InputError(f"source is {source!r}, expected {_listed(get_args(Source), 'or')}")
    try:
        exact = Decimal(str(momentum))
        in_range = 0 <= exact <= 1
    except InvalidOperation:  # not a number; also from comparing NaN
        in_range = False
    if not in_range:
        weight_of = "newest batch" if source == "torch" else "old running value"
        raise InputError(
            f"momentum is {momentum!r}, expected a number from 0 to 1: for {source}, the weight of the {weight_of}"
        )
    return float(exact if source == "torch" else 1 - exact)


def convert_variance(var: Any, n: float, source: Variance, target: Variance) -> Tensor:
    """Return running variances in the other convention: v ↔ v·n/(n−1).

    Keras 3, Flax and Equinox store biased variances. So do TensorFlow 1 and Keras 2, except for inputs of four
    dimensions, for which their fused kernel stores unbiased ones. torch stores unbiased ones; of the layers here, those
    with ``stored_variance="biased"`` do not.

    A layer that is only *used* needs no conversion: it computes the same function with the variances that it was
    trained to use. One that is to be *trained on* by another library's rule may begin with what that rule would have
    stored; otherwise the difference fades as the average moves.

    Parameters
    ----------
    var : Tensor, array or sequence of float, shape (channels,)
        Not negative.
    n : float
        Elements per channel in each *batch of the training*: examples × positions. At least 2.
    source, target : {"biased", "unbiased"}
        What `var` is, and what is wanted.

    Returns
    -------
    Tensor, shape (channels,)
        A new one, in the dtype of `var`.

    Raises
    ------
    InputError
        If a variance is negative, NaN or infinite; if `n` is less than 2; if a convention is unknown.

    Examples
    --------
    >>> convert_variance([0.98], 50, "biased", "unbiased")
    tensor([1.])
    """
    for name, convention in (("source", source), ("target", target)):
        if convention not in get_args(Variance):
            raise InputError(f"{name} is {convention!r}, expected 'biased' or 'unbiased'")
    if not 2 <= n < math.inf:
        raise InputError(f"n is {n!r}, expected at least 2: the elements per channel in each batch of the training")
    tensor = _variances("var", _tensor("var", var))
    if source == target:
        return tensor
    return tensor * (n / (n - 1)) if target == "unbiased" else tensor * ((n - 1) / n)


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


def convert_kernel(kernel: Any, kind: Kernel, *, flattened: Sequence[int] | None = None) -> Tensor:
    """Return a kernel of Keras, TensorFlow or Flax in the order of torch's weights.

    ::

        kind                      given                           returned                            for torch's
        "dense"                   (in, out)                       (out, in)                           Linear
        "conv"                    (*positions, in, out)           (out, in, *positions)               Conv1d, 2d, 3d
        "keras depthwise conv"    (*positions, in, multiplier)    (in·multiplier, 1, *positions)      Conv, groups=in
        "keras transposed conv"   (*positions, out, in)           (in, out, *positions)               ConvTranspose
        "flax transposed conv"    (*positions, in, out)           (in, out, *positions), mirrored     ConvTranspose

    Parameters
    ----------
    kernel : array or Tensor
        Of a shape as above; up to three positions.
    kind : str
        "conv" also takes convolutions in groups, where the kernel's in is the number of channels in each, and so
        Flax's depthwise ones. A Flax `ConvTranspose` with ``transpose_kernel=True`` is a "keras transposed conv".
    flattened : sequence of int, optional
        Only for "dense", behind a layer that flattens positions and channels: their shape (*positions, channels)
        before. The columns of the result are in the order in which torch flattens (channels, *positions).

    Returns
    -------
    Tensor
        A new one, contiguous, in the dtype of `kernel`.

    Raises
    ------
    InputError
        If `kind` is unknown, or `kernel` has not the dimensions for it.

    Notes
    -----
    Biases need no conversion. Padding is not in the kernel: "valid" is torch's ``padding=0`` (for a transposed
    convolution, if no stride exceeds the kernel). "same" may pad one more behind than in front, which torch's
    convolutions with a stride cannot: use `torch.nn.functional.pad` before them.

    References
    ----------
    https://keras.io/api/layers/convolution_layers/, https://flax.readthedocs.io/en/stable/api_reference/flax.linen/

    Examples
    --------
    >>> convert_kernel(torch.zeros(3, 3, 16, 32), "conv").shape
    torch.Size([32, 16, 3, 3])
    >>> convert_kernel([[1.0], [2.0], [3.0], [4.0]], "dense", flattened=(2, 2))
    tensor([[1., 3., 2., 4.]])
    """
    if kind not in get_args(Kernel):
        raise InputError(f"kind is {kind!r}, expected {_listed(get_args(Kernel), 'or')}")
    tensor = _tensor("kernel", kernel)
    dims = (2,) if kind == "dense" else (3, 4, 5)
    if tensor.dim() not in dims:
        raise InputError(f"the kernel has shape {tuple(tensor.shape)}, expected {_AXES[kind]} for {kind!r}")
    if kind == "dense":
        return _dense_weight(tensor, flattened)
    if flattened is not None:
        raise InputError(f"flattened is {flattened!r} for {kind!r}: only a 'dense' kernel comes behind a flattening")
    *positions, second_last, last = range(tensor.dim())
    if kind == "keras depthwise conv":
        each = tensor.permute(second_last, last, *positions)  # (in, multiplier, *positions)
        return each.flatten(0, 1).unsqueeze(1).contiguous()
    if kind == "flax transposed conv":
        return tensor.permute(second_last, last, *positions).flip([dim + 2 for dim in positions]).contiguous()
    return tensor.permute(last, second_last, *positions).contiguous()


def _dense_weight(kernel: Tensor, flattened: Sequence[int] | None) -> Tensor:
    if flattened is None:
        return kernel.T.contiguous()
    n_inputs, n_outputs = kernel.shape
    if not flattened or math.prod(flattened) != n_inputs:
        raise InputError(
            f"flattened is {tuple(flattened)}, expected (*positions, channels) with a product of {n_inputs}, the "
            f"kernel's inputs"
        )
    unflattened = kernel.reshape(*flattened, n_outputs)  # (*positions, channels, out)
    *positions, channels, out = range(unflattened.dim())
    return unflattened.permute(out, channels, *positions).flatten(1).contiguous()


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
        getattr(layer, slot).copy_(tensor)
    layer.momentum, layer.eps = momentum, float(epsilon)
    return Loading({slot: names[slot] if slot in new else None for slot in filled}, momentum, layer.eps)


def _checked(layer: Any, slot: str, name: str, array: Any) -> Tensor:
    """Return what goes into a layer's weight, bias, running_mean or running_var."""
    tensor = _tensor(name, array)
    if tensor.shape != (layer.num_features,):
        raise InputError(f"{name} has shape {tuple(tensor.shape)}, expected ({layer.num_features},) as the layer has")
    if slot == "running_var":
        _variances(name, tensor)
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


def _variances(name: str, tensor: Tensor) -> Tensor:
    if not (tensor >= 0).all() or tensor.isinf().any():  # also NaN
        raise InputError(f"{name} holds negative, NaN or infinite values, which no variance is: look at their order")
    return tensor


def _tensor(name: str, array: Any) -> Tensor:
    """Return a copy of its own: arrays of JAX are read-only."""
    if isinstance(array, Tensor):
        return array.detach().clone()
    try:
        return torch.tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is a {type(array).__name__} that torch cannot read ({error}): give numpy.asarray of it"
        ) from error


def _check_keys(
    name: str, mapping: Mapping[str, Any], *, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()
) -> None:
    expected = required or optional
    if unknown := [key for key in mapping if key not in expected]:
        raise InputError(
            f"{name} has {_listed(unknown)}, expected {_listed(expected)} alone: give the part of this one layer"
        )
    if missing := [key for key in required if key not in mapping]:
        raise InputError(f"{name} lacks {_listed(missing)}, expected {_listed(expected)}")


def _listed(names: Sequence[str], conjunction: str = "and") -> str:
    *others, last = map(repr, names)
    return f"{', '.join(others)} {conjunction} {last}" if others else last
