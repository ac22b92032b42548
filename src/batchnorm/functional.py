r"""Batch normalisation: the formula, in plain torch. Every faster version is held equal to this one.

The input ``x`` has shape (batch, features) or (batch, channels, *positions); dimension 1 is normalised,
so every statistic has shape (channels,). With n = elements per channel = batch × positions:

    training                                                                     shape
      m   = Σ x / n                                  batch mean                  (channels,)
      v   = Σ (x − m)² / n                           biased batch variance       (channels,)
      x̂   = (x − m) / √(v + ε)                       normalised                  like x
      y   = γ x̂ + β                                  scaled and shifted          like x

    its gradient, given dy = ∂loss/∂y                                            like x
      dβ  = Σ dy                                                                 (channels,)
      dγ  = Σ dy x̂                                                               (channels,)
      dx  = γ / √(v + ε) · (dy − dβ / n − x̂ dγ / n)                              like x

    beside every training step, with p = momentum, the weight of the newest batch
      running_mean ← (1 − p) · running_mean + p · m                              (channels,)
      running_var  ← (1 − p) · running_var  + p · v          "biased"            (channels,)
                     (1 − p) · running_var  + p · v n/(n−1)  "unbiased"

    with weights w an example of weight 2 counts as two: m = Σ w x / n, v = Σ w (x − m)² / n, n = Σ w

    in a stream a batch is normalised with the moments of a population that includes it: where it makes up a share a,
    and the rest has the moments r and u, which are held constant
      m'  = r + a (m − r)                                                        (channels,)
      v'  = (1 − a) u + a v + a (1 − a) (m − r)²                                 (channels,)
      dx  = γ / √(v' + ε) · (dy − a (dβ / n + x̂ dγ / n)),  x̂ = (x − m') / √(v' + ε)

    inference: the same y with fixed statistics in place of m and v: an affine map
      y   = s x + t,   s = γ / √(var + ε),   t = β − s · mean

Sources: S. Ioffe and C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", 2015, arXiv:1502.03167 (Algorithm 1; the gradient is in section 3, inference in
Algorithm 2). Merging moments: T. F. Chan, G. H. Golub and R. J. LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Moments",
    "Variance",
    "batch_moments",
    "batch_norm",
    "batch_norm_backward",
    "fold_into_following",
    "fold_into_preceding",
    "merge_moments",
    "normalize",
    "population_moments",
    "scale_and_shift",
    "stored_variance",
    "update_running",
]

Variance = Literal["biased", "unbiased"]


class Moments(NamedTuple):
    """Mean and *biased* variance per channel, and the number n of elements that they were taken over.

    With weights, n is the sum of them.
    """

    n: float
    mean: Tensor  # (channels,)
    var: Tensor  # (channels,)


def batch_moments(x: Tensor, weights: Tensor | None = None) -> Moments:
    """Return the moments of a batch over everything but dimension 1.

    Parameters
    ----------
    x : Tensor, shape (batch, channels) or (batch, channels, *positions)
        Floating point, any device.
    weights : Tensor, shape (batch,), optional
        How often each example counts; not negative. Without them, once.

    Returns
    -------
    Moments
        In the dtype of `x`; differentiable.

    Raises
    ------
    ValueError
        If `x` has fewer than two dimensions, or no element per channel; if there is not one weight for each example,
        one is below 0, or none is above.

    Examples
    --------
    >>> batch_moments(torch.tensor([[1.0, 0.0], [3.0, 0.0]]))
    Moments(n=2, mean=tensor([2., 0.]), var=tensor([1., 0.]))
    """
    count = _elements_per_channel(x)
    dims = _all_but_channels(x)
    if weights is None:
        var, mean = torch.var_mean(x, dim=dims, correction=0)
        return Moments(count, mean, var)
    if weights.shape != x.shape[:1] or (weights < 0).any():
        raise ValueError(
            f"weights have shape {tuple(weights.shape)} and the smallest is {weights.min().item():g}, "
            f"expected one of at least 0 for each of the {len(x)} examples"
        )
    total = weights.sum().item() * (count // len(x))
    if not total > 0:
        raise ValueError(f"the weights of the batch sum to {total:g}: a mean needs at least one above 0")
    w = weights.reshape(-1, *[1] * (x.dim() - 1))
    mean = (w * x).sum(dims) / total
    return Moments(total, mean, (w * (x - _per_channel(mean, x)).square()).sum(dims) / total)


def normalize(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-3,
) -> Tensor:
    """Return γ (x − mean) / √(var + ε) + β, with whatever statistics are given.

    With a batch's own moments this is the training function, with fixed statistics the inference function.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, *positions)
    mean, var : Tensor, shape (channels,)
    weight, bias : Tensor, shape (channels,), optional
        γ and β; without them, 1 and 0.
    eps : float, default 1e-3
        Added to the variance.

    Returns
    -------
    Tensor, shape of `x`
    """
    y = (x - _per_channel(mean, x)) * _per_channel((var + eps).rsqrt(), x)
    if weight is not None:
        y = y * _per_channel(weight, x)
    if bias is not None:
        y = y + _per_channel(bias, x)
    return y


def batch_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-3
) -> tuple[Tensor, Moments]:
    """Normalise a batch with its own moments, as in training, and return the result with these moments.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, *positions)
    weight, bias : Tensor, shape (channels,), optional
        γ and β; without them, 1 and 0.
    eps : float, default 1e-3
        Added to the variance.

    Returns
    -------
    y : Tensor, shape of `x`
    moments : Moments
        What `update_running` and `batch_norm_backward` need.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 1.

    Examples
    --------
    >>> y, moments = batch_norm(torch.tensor([[1.0], [3.0]]), eps=0.0)
    >>> y
    tensor([[-1.],
            [ 1.]])
    """
    moments = batch_moments(x)
    return normalize(x, moments.mean, moments.var, weight, bias, eps), moments


def batch_norm_backward(
    grad_y: Tensor,
    x: Tensor,
    moments: Moments,
    weight: Tensor | None = None,
    eps: float = 1e-3,
    share: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of `batch_norm`, written out.

    Parameters
    ----------
    grad_y : Tensor, shape of `x`
        ∂loss/∂y.
    x : Tensor, shape (batch, channels, *positions)
        What `batch_norm` was given.
    moments : Moments
        What `batch_norm` returned for `x`; with `share`, what `population_moments` did.
    weight : Tensor, shape (channels,), optional
        γ; without it, 1.
    eps : float, default 1e-3
        As given to `batch_norm`.
    share : float, default 1
        Of the batch in the population whose `moments` it was normalised with; the rest is held constant.

    Returns
    -------
    grad_x : Tensor, shape of `x`
    grad_weight, grad_bias : Tensor, shape (channels,)

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.
    """
    n, mean, var = moments
    dims = _all_but_channels(x)
    rstd = (var + eps).rsqrt()
    x_hat = (x - _per_channel(mean, x)) * _per_channel(rstd, x)
    grad_bias = grad_y.sum(dims)
    grad_weight = (grad_y * x_hat).sum(dims)
    scale = rstd if weight is None else weight * rstd
    grad_x = _per_channel(scale, x) * (
        grad_y - _per_channel(share * grad_bias / n, x) - x_hat * _per_channel(share * grad_weight / n, x)
    )
    return grad_x, grad_weight, grad_bias


@torch.no_grad()
def update_running(
    running_mean: Tensor,
    running_var: Tensor,
    moments: Moments,
    momentum: float = 0.1,
    variance: Variance = "unbiased",
) -> None:
    """Move the running averages towards a batch's moments, in place.

    Parameters
    ----------
    running_mean, running_var : Tensor, shape (channels,)
        Changed in place.
    moments : Moments
        Of the newest batch.
    momentum : float, default 0.1
        The weight of the *newest batch*, as in torch. TensorFlow and Keras give the same name to the weight of
        the *old value*: their 0.9 is our 0.1.
    variance : {"unbiased", "biased"}, default "unbiased"
        Which batch variance is averaged: v·n/(n−1), as torch does, or v, as TensorFlow does on the output of a
        dense layer and Keras everywhere.

    Raises
    ------
    ValueError
        If `variance` is "unbiased" and the moments come from a single element.
    """
    new_var = stored_variance(moments, variance)  # first, as it may raise: then neither average has moved
    running_mean.lerp_(moments.mean.to(running_mean.dtype), momentum)
    running_var.lerp_(new_var.to(running_var.dtype), momentum)


def stored_variance(moments: Moments, variance: Variance = "unbiased") -> Tensor:
    """Return the variance in the convention that a layer stores: v, or v·n/(n−1).

    Examples
    --------
    >>> moments = Moments(50, torch.zeros(1), torch.tensor([0.98]))
    >>> stored_variance(moments, "biased"), stored_variance(moments, "unbiased")
    (tensor([0.9800]), tensor([1.]))
    """
    if variance == "biased":
        return moments.var
    if variance != "unbiased":
        raise ValueError(f"variance is {variance!r}, expected 'biased' or 'unbiased'")
    if moments.n < 2:
        raise ValueError(f"an unbiased variance needs at least 2 elements per channel, got {moments.n}")
    return moments.var * (moments.n / (moments.n - 1))


def merge_moments(*sets: Moments) -> Moments:
    """Return the moments of several sets of elements together, exactly, in float64.

    With δᵢ = meanᵢ − mean₀ and N = Σ nᵢ::

        δ̄ = Σ nᵢ δᵢ / N,      mean = mean₀ + δ̄,      var = Σ nᵢ (varᵢ + (δᵢ − δ̄)²) / N

    Elements are what counts, not batches; the variance *between* the sets is in the result; and nothing cancels when
    means are large, as E[x²] − E[x]² does.

    References
    ----------
    Chan, Golub and LeVeque 1979.

    Examples
    --------
    >>> x = torch.tensor([[1.0], [3.0], [8.0]])
    >>> merge_moments(batch_moments(x[:2]), batch_moments(x[2:])).mean
    tensor([4.], dtype=torch.float64)
    """
    count = sum(n for n, _, _ in sets)
    if count == 0:
        raise ValueError("all sets of moments are empty: there is nothing to merge")
    means, variances = (torch.stack(statistic).double() for statistic in zip(*(part[1:] for part in sets), strict=True))
    parts = means.new_tensor([n / count for n, _, _ in sets])
    deltas = means - means[0]
    mean = parts @ deltas
    return Moments(count, means[0] + mean, parts @ (variances + (deltas - mean).square()))


def population_moments(mean: Tensor, var: Tensor, batch: Moments, share: float) -> Moments:
    """Return the moments of a population of which a batch makes up a share, exactly, in the batch's dtype.

    Parameters
    ----------
    mean, var : Tensor, shape (channels,)
        Of the rest of the population.
    batch : Moments
    share : float
        Above 0; 1 if there is nothing but the batch.

    Returns
    -------
    Moments
        With the n of the batch; differentiable.

    Examples
    --------
    >>> one = Moments(1, torch.tensor([3.0]), torch.tensor([0.0]))
    >>> population_moments(torch.tensor([1.0]), torch.tensor([1.0]), one, 0.5)
    Moments(n=1, mean=tensor([2.]), var=tensor([1.5000]))
    """
    merged = merge_moments(Moments(1 - share, mean, var), batch._replace(n=share))
    return Moments(batch.n, merged.mean.to(batch.mean.dtype), merged.var.to(batch.var.dtype))


def scale_and_shift(
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-3,
) -> tuple[Tensor, Tensor]:
    """Return s and t with which inference is y = s·x + t: s = γ/√(var + ε), t = β − s·mean.

    Parameters are those of `normalize`; both results have shape (channels,).
    """
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = -scale * mean
    if bias is not None:
        shift = shift + bias
    return scale, shift


def fold_into_preceding(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    *,
    groups: int = 1,
    transposed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fold a scale and shift into the linear or convolution layer *before* it: s (W x + b) + t.

    Parameters
    ----------
    weight : Tensor, shape (out, in / groups, *kernel)
        Outputs first, as `torch.nn.Linear` and `torch.nn.Conv2d` store it; (in, out / groups, *kernel) if `transposed`.
    bias : Tensor, shape (out,), or None
    scale, shift : Tensor, shape (out,)
        From `scale_and_shift`.
    groups : int, default 1
        Of the convolution; they matter only if it is transposed.
    transposed : bool, default False
        Whether it is a transposed convolution.

    Returns
    -------
    weight, bias : Tensor
        W' = diag(s) W and b' = s b + t.
    """
    if transposed:
        grouped = weight.reshape(groups, -1, *weight.shape[1:])  # (groups, in / groups, out / groups, *kernel)
        folded = (grouped * _along(2, scale, grouped, groups)).reshape(weight.shape)
    else:
        folded = weight * scale.reshape(-1, *[1] * (weight.dim() - 1))
    return folded, shift if bias is None else scale * bias + shift


def fold_into_following(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    *,
    groups: int = 1,
    transposed: bool = False,
) -> tuple[Tensor, Tensor]:
    """Fold a scale and shift into the linear or convolution layer *after* it: W (s x + t) + b.

    For a convolution this holds where the whole kernel lies on the input: not at a border padded with zeros, and of the
    transposed ones only where the kernel is one position and the stride is 1. If t = 0, it holds everywhere.

    Parameters
    ----------
    weight : Tensor, shape (out, in / groups, *kernel)
        If `transposed`, (in, out / groups, *kernel).
    bias : Tensor, shape (out,), or None
    scale, shift : Tensor, shape (in,)
        From `scale_and_shift`.
    groups : int, default 1
        Of the convolution.
    transposed : bool, default False
        Whether it is a transposed convolution.

    Returns
    -------
    weight, bias : Tensor
        W' = W diag(s) and b' = b + W t, summed over the kernel.
    """
    # (groups, out / groups, in / groups, *kernel); if transposed, in before out
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    inputs = 1 if transposed else 2
    folded = (grouped * _along(inputs, scale, grouped, groups)).reshape(weight.shape)
    added = (grouped * _along(inputs, shift, grouped, groups)).sum((inputs, *range(3, grouped.dim()))).flatten()
    return folded, added if bias is None else bias + added


def _elements_per_channel(x: Tensor) -> int:
    if x.dim() < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}, expected (batch, channels, *positions)")
    count = x.shape[0] * x[0, 0].numel() if x.numel() else 0
    if count == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}: a mean needs at least one element per channel")
    return count


def _all_but_channels(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.dim()))


def _per_channel(statistic: Tensor, x: Tensor) -> Tensor:
    """Shape a statistic (channels,) so that it broadcasts against x: (channels, 1, …)."""
    return statistic.reshape(-1, *[1] * (x.dim() - 2))


def _along(dim: int, statistic: Tensor, grouped: Tensor, groups: int) -> Tensor:
    """Shape a statistic (channels,) so that it broadcasts against weights (groups, …) along one of their dimensions."""
    return statistic.reshape(groups, *(-1 if d == dim else 1 for d in range(1, grouped.dim())))
