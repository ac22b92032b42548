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
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from batchnorm.errors import InputError, in_words
from batchnorm.functional import Variance

__all__ = [
    "Kernel",
    "Source",
    "as_tensor",
    "as_variances",
    "convert_kernel",
    "convert_momentum",
    "convert_variance",
    "named",
]

Source = Literal["keras", "tensorflow", "flax", "equinox", "torch"]
Kernel = Literal["dense", "conv", "keras depthwise conv", "keras transposed conv", "flax transposed conv"]

_AXES: dict[Kernel, str] = {
    "dense": "(in, out)",
    "conv": "(*positions, in, out)",
    "keras depthwise conv": "(*positions, in, multiplier)",
    "keras transposed conv": "(*positions, out, in)",
    "flax transposed conv": "(*positions, in, out)",
}


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
        raise InputError(f"source is {source!r}, expected {named(get_args(Source), 'or')}")
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
    tensor = as_variances("var", as_tensor("var", var))
    if source == target:
        return tensor
    return tensor * (n / (n - 1)) if target == "unbiased" else tensor * ((n - 1) / n)


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
        raise InputError(f"kind is {kind!r}, expected {named(get_args(Kernel), 'or')}")
    tensor = as_tensor("kernel", kernel)
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


def as_variances(name: str, tensor: Tensor) -> Tensor:
    """Return variances, or refuse what cannot be any."""
    if not (tensor >= 0).all() or tensor.isinf().any():  # also NaN
        raise InputError(f"{name} holds negative, NaN or infinite values, which no variance is: look at their order")
    return tensor


def as_tensor(name: str, array: Any) -> Tensor:
    """Return a copy of its own: arrays of JAX are read-only."""
    if isinstance(array, Tensor):
        return array.detach().clone()
    try:
        return torch.tensor(array)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is a {type(array).__name__} that torch cannot read ({in_words(error)}): give numpy.asarray of it"
        ) from error


def named(names: Sequence[str], conjunction: str = "and") -> str:
    """Name things in a message."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} {conjunction} {last}" if others else last
