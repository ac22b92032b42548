"""What stands between the matrix products of a training step, fused for the CPU, on buffers that the caller owns.

The formulas are those of `batchnorm.functional`, which tests hold every kernel equal to. Arrays are C-contiguous,
``real`` is the dtype of the network (float32 or float64), n is the batch. Loops run along rows, so that they become
vector instructions; sums over the batch are taken in float64. Kernels keep NaN and infinity as they come, so that a
training that diverges is seen to.

``counts`` (n,) says how many examples each example stands for, usually one: with 2, it counts as if it stood in the
batch twice, in the moments as in the loss. What is written n below is then their sum, and every sum a weighted one.

Each kernel is compiled when it is first called, for this processor, and kept in numba's cache: in ``__pycache__``
beside this file, else in the user's cache, or where ``NUMBA_CACHE_DIR`` says.
"""

import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numba
import numpy as np

from batchnorm.kernels.elementary import OPTIONS, erf, exp, expm1, inlined, normal_pair, philox, sigmoid

# The names of `activations.ACTIVATIONS`, in its order; kernels are given the place. They are written out, as numba's
# cache notices a change of this file alone: whatever kernels are made of must show in it.
ACTIVATIONS = ("relu", "elu", "gelu", "silu", "tanh", "sigmoid", "selu", "leaky_relu", "identity")
_RELU, _ELU, _GELU, _SILU, _TANH, _SIGMOID, _SELU, _LEAKY_RELU, _IDENTITY = range(len(ACTIVATIONS))

# G. Klambauer et al., "Self-Normalizing Neural Networks", 2017, arXiv:1706.02515, section 3.
SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805
LEAKY_SLOPE = 0.01
LARGEST_LOG = 30.0  # of `tensors`

# The beginning of the SHA-256 of elementary.py, so that a change of it is one of this file.
ELEMENTARY = "c0533cee847287cd"


def kernel(function: Callable[..., None]) -> Any:
    """Compile a function when it is called, into the cache where there is one."""
    try:
        compiled = numba.njit(cache=True, **OPTIONS)(function)
    except RuntimeError:  # no folder can be written to: every process compiles
        return numba.njit(**OPTIONS)(function)
    save = compiled._cache.save_overload

    def save_if_possible(*args: Any) -> None:
        with suppress(OSError):  # a full disk: what was compiled serves this process
            save(*args)

    compiled._cache.save_overload = save_if_possible
    return compiled


# ---- gather ---------------------------------------------------------------------------------------------------------


@kernel
def gather(examples, indices, scale, batch):
    """Gather rows: batch[i] = scale · examples[indices[i]]."""
    real = batch.dtype.type
    factor = real(scale)
    for i in range(len(indices)):
        index = indices[i]
        if not 0 <= index < len(examples):
            raise IndexError("an index lies outside the examples")
        for j in range(batch.shape[1]):
            batch[i, j] = real(examples[index, j]) * factor


# ---- forward --------------------------------------------------------------------------------------------------------


@kernel
def normalize_activate(
    z,
    counts,
    weight,
    bias,
    running_mean,
    running_var,
    n_tracked,
    share,
    momentum,
    unbiased,
    eps,
    activation,
    sums,
    rstd,
    a,
    slope,
):
    """Normalise a batch with its own moments, move the running averages, apply the activation.

    With a share below 1 the moments are those of a population of which the batch makes up this share; the running
    averages are those of the rest.

    ::

        m = Σ z / n,  v = Σ (z − m)² / n                          over the batch
        d = m − running mean,  m ← running mean + share · d,
        v ← (1 − share) · running variance + share · v + share (1 − share) · d²
        running ← (1 − momentum) · running + momentum · (m, v)    v n/(n−1) if unbiased
        z ← (z − m) · rstd,  rstd = 1 / √(v + ε)                  x̂, kept for the gradient
        a = f(weight · x̂ + bias),  slope = f'(weight · x̂ + bias)
    """
    real = z.dtype.type
    n, width = z.shape
    mean, var = sums[0], sums[1]
    mean[:] = 0.0
    var[:] = 0.0
    size = _sum(counts)
    for i in range(n):
        for j in range(width):
            mean[j] += counts[i] * z[i, j]
    for j in range(width):
        mean[j] /= size
    for i in range(n):
        for j in range(width):
            difference = z[i, j] - mean[j]
            var[j] += counts[i] * difference * difference
    if share < 1:
        for j in range(width):
            distance = mean[j] - running_mean[j]
            mean[j] = running_mean[j] + share * distance
            between = share * (1 - share) * distance * distance
            var[j] = share * var[j] + size * ((1 - share) * running_var[j] + between)
    stored = 1.0 / (size - 1) if unbiased else 1.0 / size
    for j in range(width):
        running_mean[j] += real(momentum * (mean[j] - running_mean[j]))
        running_var[j] += real(momentum * (var[j] * stored - running_var[j]))
        rstd[j] = real(1.0 / math.sqrt(var[j] / size + eps))
    n_tracked[0] += 1
    for i in range(n):
        for j in range(width):
            z[i, j] = real(z[i, j] - mean[j]) * rstd[j]
        for j in range(width):
            a[i, j] = weight[j] * z[i, j] + bias[j]
        _activate(activation, a[i], slope[i])


@kernel
def shift_activate(z, bias, activation, a, slope):
    """Add a bias and apply the activation: a = f(z + bias), slope = f'(z + bias)."""
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            a[i, j] = z[i, j] + bias[j]
        _activate(activation, a[i], slope[i])


@inlined
def _activate(activation, y, slope):
    """Apply an activation along one row: y ← f(y), slope = f'(y)."""
    real = y.dtype.type
    if activation == _RELU:
        for j in range(len(y)):
            slope[j] = real(0) if y[j] <= 0 else real(1)
            y[j] = real(0) if y[j] <= 0 else y[j]
    elif activation == _LEAKY_RELU:
        for j in range(len(y)):
            slope[j] = real(LEAKY_SLOPE) if y[j] <= 0 else real(1)
            y[j] *= slope[j]
    elif activation == _ELU:
        for j in range(len(y)):
            below = expm1(real(0) if y[j] > 0 else y[j])
            slope[j] = below + real(1)
            y[j] = y[j] if y[j] > 0 else below
    elif activation == _SELU:
        for j in range(len(y)):
            below = expm1(real(0) if y[j] > 0 else y[j]) * real(SELU_ALPHA)
            slope[j] = real(SELU_SCALE) * (real(1) if y[j] > 0 else below + real(SELU_ALPHA))
            y[j] = real(SELU_SCALE) * (y[j] if y[j] > 0 else below)
    elif activation == _GELU:
        for j in range(len(y)):  # Φ and φ: distribution and density of the standard normal
            distribution = real(0.5) * (real(1) + erf(y[j] * real(math.sqrt(0.5))))
            density = exp(real(-0.5) * y[j] * y[j]) * real(1 / math.sqrt(2 * math.pi))
            slope[j] = distribution + y[j] * density
            y[j] = y[j] * distribution
    elif activation == _SILU:
        for j in range(len(y)):
            share = sigmoid(y[j], real(1))
            slope[j] = share * (real(1) + y[j] * (real(1) - share))
            y[j] = y[j] * share
    elif activation == _TANH:
        for j in range(len(y)):
            power = expm1(real(-2) * abs(y[j]))  # tanh |y| = (1 − e^(−2|y|)) / (1 + e^(−2|y|))
            tanh = -power / (power + real(2))
            y[j] = -tanh if y[j] < 0 else tanh
            slope[j] = real(1) - tanh * tanh
    elif activation == _SIGMOID:
        for j in range(len(y)):
            y[j] = sigmoid(y[j], real(1))
            slope[j] = y[j] * (real(1) - y[j])
    else:
        for j in range(len(y)):
            slope[j] = real(1)


@inlined
def _sum(counts):
    total = 0.0
    for i in range(len(counts)):
        total += counts[i]
    return total


@kernel
def cross_entropy(logits, targets, counts, spread, loss, gradient):
    """Take the mean softmax cross-entropy with smoothed targets, and its gradient; targets (n, 1) are class numbers.

    ::

        q = (1 − Σ spread) · [class = target] + spread                spread (classes,)
        loss = −Σ q log p / n,   gradient = (p − q) / n,   p = softmax(logits)
    """
    real = logits.dtype.type
    n, classes = logits.shape
    rest, size = 1.0 - _sum(spread), _sum(counts)
    loss[0] = 0.0
    for i in range(n):
        target = targets[i, 0]
        if not 0 <= target < classes:
            raise IndexError("a label lies outside the classes")
        largest = logits[i, 0]
        for j in range(classes):
            largest = logits[i, j] if logits[i, j] > largest else largest
        total, average = 0.0, 0.0
        for j in range(classes):
            gradient[i, j] = exp(logits[i, j] - largest)
        for j in range(classes):
            total += gradient[i, j]
            average += spread[j] * (logits[i, j] - largest)
        loss[0] += counts[i] * (math.log(total) - rest * (logits[i, target] - largest) - average)
        for j in range(classes):
            gradient[i, j] = real((gradient[i, j] / total - spread[j]) * counts[i] / size)
        gradient[i, target] -= real(rest * counts[i] / size)
    loss[0] /= size


@kernel
def binary_cross_entropy(logits, targets, counts, spread, loss, gradient):
    """Take the cross-entropy of independent labels, summed over them, and its gradient; targets (n, labels) are 0 or 1.

    ::

        q = (1 − Σ spread) · target + spread of 1                     spread (labels, 2), of 0 and of 1
        loss = −Σ (q log p + (1 − q) log (1 − p)) / n,   gradient = (p − q) / n,   p = 1 / (1 + e^(−logit))
    """
    real = logits.dtype.type
    n, labels = logits.shape
    size = _sum(counts)
    loss[0] = 0.0
    for i in range(n):
        for j in range(labels):
            logit = logits[i, j]
            wanted = (1.0 - spread[j, 0] - spread[j, 1]) * targets[i, j] + spread[j, 1]
            power = math.exp(-abs(logit))  # log (1 + e^x) = max(x, 0) + log (1 + e^(−|x|)), which never overflows
            loss[0] += counts[i] * (max(logit, 0.0) + math.log1p(power) - wanted * logit)
            share = (power if logit < 0 else 1.0) / (1.0 + power)
            gradient[i, j] = real((share - wanted) * counts[i] / size)
    loss[0] /= size


@kernel
def squared_error(outputs, targets, counts, smoothing, loss, gradient):
    """Take half the squared error, its mean over all outputs, and its gradient; smoothing has no meaning here.

    ::

        loss = Σ (output − target)² / (2 n outputs),   gradient = (output − target) / (n outputs)
    """
    real = outputs.dtype.type
    n, width = outputs.shape
    size = _sum(counts)
    loss[0] = 0.0
    for i in range(n):
        for j in range(width):
            difference = outputs[i, j] - targets[i, j]
            loss[0] += counts[i] * difference * difference
            gradient[i, j] = real(difference * counts[i] / (size * width))
    loss[0] /= 2.0 * size * width


@kernel
def quantile(outputs, targets, counts, share, loss, gradient):
    """Take the quantile (pinball) loss at `share`, its mean over all outputs, and its gradient, 0 at the target itself.

    ::

        loss = Σ (share · (target − output)⁺ + (1 − share) · (output − target)⁺) / (n outputs)
        gradient = (−share where output < target,  1 − share where output > target) / (n outputs)
    """
    real = outputs.dtype.type
    n, width = outputs.shape
    size = _sum(counts)
    loss[0] = 0.0
    for i in range(n):
        for j in range(width):
            difference = outputs[i, j] - targets[i, j]
            slope = 0.0 if difference == 0 else -share if difference < 0 else 1.0 - share
            loss[0] += counts[i] * slope * difference
            gradient[i, j] = real(slope * counts[i] / (size * width))
    loss[0] /= size * width


@kernel
def poisson(outputs, targets, counts, smoothing, loss, gradient):
    """Take half the Poisson deviance from e^output, its mean over all outputs, and its gradient; no smoothing.

    ::

        loss = Σ (e^output − target · output + target · log target − target) / (n outputs)
        gradient = (e^output − target) / (n outputs)

    Beyond `LARGEST_LOG` e^output goes on as its tangent.
    """
    real = outputs.dtype.type
    n, width = outputs.shape
    size = _sum(counts)
    loss[0] = 0.0
    for i in range(n):
        for j in range(width):
            output, target = outputs[i, j], targets[i, j]
            bounded = real(LARGEST_LOG) if output > LARGEST_LOG else output
            power = exp(bounded)
            constant = target * math.log(target) - target if target > 0 else 0.0
            loss[0] += counts[i] * (power * (1.0 + (output - bounded)) - target * output + constant)
            gradient[i, j] = real((power - target) * counts[i] / (size * width))
    loss[0] /= size * width


# ---- backward -------------------------------------------------------------------------------------------------------


@kernel
def normalize_activate_backward(gradient, counts, slope, x_hat, weight, rstd, share, sums, grad_weight, grad_bias):
    """Go back through `normalize_activate`: `gradient` is ∂loss/∂a, and becomes ∂loss/∂z.

    ::

        dy = gradient · slope
        dβ = Σ dy,  dγ = Σ dy x̂
        dz = weight · rstd · (dy − share · count · (dβ / n + x̂ dγ / n))
    """
    real = gradient.dtype.type
    n, width = gradient.shape
    size = _sum(counts)
    d_bias, d_weight = sums[0], sums[1]
    d_bias[:] = 0.0
    d_weight[:] = 0.0
    for i in range(n):
        for j in range(width):
            gradient[i, j] *= slope[i, j]
        for j in range(width):
            d_bias[j] += gradient[i, j]
        for j in range(width):
            d_weight[j] += gradient[i, j] * x_hat[i, j]
    for j in range(width):
        grad_bias[j] = real(d_bias[j])
        grad_weight[j] = real(d_weight[j])
        d_bias[j] *= share
        d_bias[j] /= size
        d_weight[j] *= share
        d_weight[j] /= size
    for i in range(n):
        for j in range(width):
            centered = gradient[i, j] - counts[i] * real(d_bias[j]) - counts[i] * x_hat[i, j] * real(d_weight[j])
            gradient[i, j] = weight[j] * rstd[j] * centered


@kernel
def shift_activate_backward(gradient, slope, sums, grad_bias):
    """Go back through `shift_activate`: `gradient` is ∂loss/∂a, and becomes ∂loss/∂z; dbias = Σ dz."""
    real = gradient.dtype.type
    n, width = gradient.shape
    d_bias = sums[0]
    d_bias[:] = 0.0
    for i in range(n):
        for j in range(width):
            gradient[i, j] *= slope[i, j]
        for j in range(width):
            d_bias[j] += gradient[i, j]
    for j in range(width):
        grad_bias[j] = real(d_bias[j])


# ---- dropout and noise ----------------------------------------------------------------------------------------------
# Each draw is a function of a key and of the element's place, and keeps no state.


@kernel
def draw_mask(key, rate, mask):
    """Draw a flat mask: 0 with probability rate, else 1 / (1 − rate)."""
    kept = mask.dtype.type(1 / (1 - rate))
    threshold = np.uint32(round(rate * (2**32 - 1)))
    half, seed = len(mask) // 2, key[0]
    for i in range(half):
        a, b = philox(i, seed)
        mask[i] = kept if a >= threshold else mask.dtype.type(0)
        mask[half + i] = kept if b >= threshold else mask.dtype.type(0)
    if len(mask) % 2:
        mask[-1] = kept if philox(half, seed)[0] >= threshold else mask.dtype.type(0)


@kernel
def drop(mask, a, slope):
    """Drop units: a ← a · mask, slope ← slope · mask, as what is dropped passes no gradient."""
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            a[i, j] *= mask[i, j]
        for j in range(a.shape[1]):
            slope[i, j] *= mask[i, j]


@kernel
def add_noise(key, deviation, inputs):
    """Add deviation[0] · (draws of the standard normal) to flat inputs."""
    size, seed = inputs.dtype.type(deviation[0]), key[0]
    half = len(inputs) // 2
    for i in range(half):
        a, b = normal_pair(i, seed)
        inputs[i] += size * a
        inputs[half + i] += size * b
    if len(inputs) % 2:
        inputs[-1] += size * normal_pair(half, seed)[0]


# ---- update ---------------------------------------------------------------------------------------------------------
# All arrays are flat; now = [learning rate, number of this step from 1].


@kernel
def sgd(parameter, gradient, now, decay):
    """Take a step of plain SGD: parameter ← parameter − rate · (gradient + decay · parameter)."""
    real = parameter.dtype.type
    rate, decay_ = real(now[0]), real(decay)
    for i in range(len(parameter)):
        parameter[i] -= rate * (gradient[i] + decay_ * parameter[i])


@kernel
def sgd_momentum(parameter, gradient, velocity, now, decay, momentum, nesterov):
    """Take a step of SGD with momentum, in torch's form.

    ::

        g = gradient + decay · parameter
        velocity ← momentum · velocity + g
        parameter ← parameter − rate · (g + momentum · velocity   if nesterov else   velocity)
    """
    real = parameter.dtype.type
    rate, decay_, momentum_ = real(now[0]), real(decay), real(momentum)
    ahead, fresh = (momentum_, real(1)) if nesterov else (real(1), real(0))
    for i in range(len(parameter)):
        g = gradient[i] + decay_ * parameter[i]
        v = momentum_ * velocity[i] + g
        velocity[i] = v
        parameter[i] -= rate * (fresh * g + ahead * v)


@kernel
def adamw(parameter, gradient, average, square, now, decay, beta1, beta2, eps):
    """Take a step of AdamW: I. Loshchilov and F. Hutter, 2017, arXiv:1711.05101, Algorithm 2.

    ::

        average ← beta1 · average + (1 − beta1) · gradient
        square  ← beta2 · square + (1 − beta2) · gradient²
        parameter ← (1 − rate · decay) · parameter
                    − rate · (average / (1 − beta1ᵗ)) / (√(square / (1 − beta2ᵗ)) + eps)
    """
    real = parameter.dtype.type
    rate, t = now[0], now[1]
    shrink = real(1 - rate * decay)
    step = real(rate / (1 - beta1**t))
    correction = real(1 / math.sqrt(1 - beta2**t))
    rest1, rest2, eps_ = real(1 - beta1), real(1 - beta2), real(eps)
    for i in range(len(parameter)):
        m = average[i] + rest1 * (gradient[i] - average[i])
        v = real(beta2) * square[i] + rest2 * gradient[i] * gradient[i]
        average[i], square[i] = m, v
        parameter[i] = shrink * parameter[i] - step * m / (math.sqrt(v) * correction + eps_)
