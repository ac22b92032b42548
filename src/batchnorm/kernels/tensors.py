"""What stands between the matrix products, through torch's operators: for devices that are not a CPU.

The same functions as in `kernels.cpu`, on tensors, in place; out of `batchnorm.functional` where it has them.
What only a kernel needs (its key, its scratch for sums) is taken and not used; all counts are 1. Nothing here waits
for the device.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from batchnorm.functional import Moments, batch_moments, batch_norm_backward, population_moments, update_running
from batchnorm.kernels.activations import ACTIVATIONS, ORDER

# Of a Poisson mean over that of all targets, which no one target exceeds more than n times: e^30 is 10^13.
LARGEST_LOG = 30.0


def gather(examples: Tensor, indices: Tensor, scale: float, batch: Tensor) -> None:
    """Gather rows, and scale them."""
    batch.copy_(examples[indices])
    if scale != 1:
        batch.mul_(scale)


def normalize_activate(
    z: Tensor,
    counts: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    n_tracked: Tensor,
    share: float,
    momentum: float,
    unbiased: bool,
    eps: float,
    activation: int,
    sums: Tensor,
    rstd: Tensor,
    a: Tensor,
    slope: Tensor,
) -> None:
    """Normalise a batch, move the running averages, apply the activation; z becomes x̂."""
    moments = batch_moments(z)
    if share < 1:
        moments = population_moments(running_mean, running_var, moments, share)
    update_running(running_mean, running_var, moments, momentum, "unbiased" if unbiased else "biased")
    n_tracked += 1
    rstd.copy_((moments.var + eps).rsqrt())
    z.sub_(moments.mean).mul_(rstd)
    _activate(activation, z * weight + bias, a, slope)


def normalize_activate_backward(
    gradient: Tensor,
    counts: Tensor,
    slope: Tensor,
    x_hat: Tensor,
    weight: Tensor,
    rstd: Tensor,
    share: float,
    sums: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
) -> None:
    """Go back through `normalize_activate`."""
    # x̂ is normalised: with mean 0 and √(v + ε) = 1 the formula does nothing to it, and rstd is multiplied here.
    whitened = Moments(len(x_hat), torch.zeros_like(rstd), torch.ones_like(rstd))
    grad_z, d_weight, d_bias = batch_norm_backward(gradient * slope, x_hat, whitened, weight * rstd, 0.0, share)
    gradient.copy_(grad_z)
    grad_weight.copy_(d_weight)
    grad_bias.copy_(d_bias)


def shift_activate(z: Tensor, bias: Tensor, activation: int, a: Tensor, slope: Tensor) -> None:
    """Add a bias and apply the activation."""
    _activate(activation, z + bias, a, slope)


def shift_activate_backward(gradient: Tensor, slope: Tensor, sums: Tensor, grad_bias: Tensor) -> None:
    """Go back through `shift_activate`."""
    gradient.mul_(slope)
    grad_bias.copy_(gradient.sum(0))


def cross_entropy(
    logits: Tensor, targets: Tensor, counts: Tensor, spread: Tensor, loss: Tensor, gradient: Tensor
) -> None:
    """Take the mean softmax cross-entropy with smoothed targets, and its gradient."""
    wanted = spread.to(logits).repeat(len(logits), 1)
    wanted.scatter_add_(1, targets, (1 - spread.sum()).to(logits).expand(targets.shape))
    loss.copy_(F.cross_entropy(logits, wanted))
    gradient.copy_(logits.softmax(1).sub_(wanted).div_(len(logits)))


def binary_cross_entropy(
    logits: Tensor, targets: Tensor, counts: Tensor, spread: Tensor, loss: Tensor, gradient: Tensor
) -> None:
    """Take the cross-entropy of independent labels, summed over them, and its gradient."""
    n = len(logits)
    wanted = targets * (1 - spread.sum(1)).to(logits) + spread[:, 1].to(logits)
    loss.copy_(F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / n)
    gradient.copy_(logits.sigmoid().sub_(wanted).div_(n))


def squared_error(
    outputs: Tensor, targets: Tensor, counts: Tensor, smoothing: float, loss: Tensor, gradient: Tensor
) -> None:
    """Take half the squared error, its mean over all outputs, and its gradient."""
    difference = outputs - targets
    loss.copy_(difference.square().mean() / 2)
    gradient.copy_(difference.div_(outputs.numel()))


def quantile(outputs: Tensor, targets: Tensor, counts: Tensor, share: float, loss: Tensor, gradient: Tensor) -> None:
    """Take the quantile loss, its mean over all outputs, and its gradient, 0 at the target itself."""
    difference = outputs - targets
    above, below = ((difference * sign > 0).to(outputs.dtype) for sign in (1, -1))
    slope = (1 - share) * above - share * below
    loss.copy_((slope * difference).mean())
    gradient.copy_(slope.div_(outputs.numel()))


def poisson(outputs: Tensor, targets: Tensor, counts: Tensor, smoothing: float, loss: Tensor, gradient: Tensor) -> None:
    """Take half the Poisson deviance from e^output, its mean over all outputs, and its gradient."""
    bounded = outputs.clamp(max=LARGEST_LOG)
    power = bounded.exp()
    constant = torch.xlogy(targets, targets) - targets
    loss.copy_((power * (1 + (outputs - bounded)) - targets * outputs + constant).mean())
    gradient.copy_(power.sub_(targets).div_(outputs.numel()))


def draw_mask(key: Tensor, rate: float, mask: Tensor) -> None:
    """Draw a mask: 0 with probability rate, else 1 / (1 − rate)."""
    mask.bernoulli_(1 - rate).div_(1 - rate)


def drop(mask: Tensor, a: Tensor, slope: Tensor) -> None:
    """Drop units, and what would go back through them."""
    a.mul_(mask)
    slope.mul_(mask)


def add_noise(key: Tensor, deviation: Tensor, inputs: Tensor) -> None:
    """Add deviation · (draws of the standard normal)."""
    inputs.add_(torch.randn_like(inputs) * deviation)


def sgd(parameter: Tensor, gradient: Tensor, now: Tensor, decay: float) -> None:
    """Take a step of plain SGD."""
    rate = now[0].to(parameter.dtype)
    parameter.sub_(rate * torch.add(gradient, parameter, alpha=decay))


def sgd_momentum(
    parameter: Tensor, gradient: Tensor, velocity: Tensor, now: Tensor, decay: float, momentum: float, nesterov: bool
) -> None:
    """Take a step of SGD with momentum."""
    g = torch.add(gradient, parameter, alpha=decay)
    velocity.mul_(momentum).add_(g)
    rate = now[0].to(parameter.dtype)
    parameter.sub_(rate * (torch.add(g, velocity, alpha=momentum) if nesterov else velocity))


def adamw(
    parameter: Tensor,
    gradient: Tensor,
    average: Tensor,
    square: Tensor,
    now: Tensor,
    decay: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Take a step of AdamW."""
    rate, t = now[0], now[1]
    average.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    step = (rate / (1 - beta1**t)).to(parameter.dtype)
    correction = (1 - beta2**t).rsqrt().to(parameter.dtype)
    parameter.mul_((1 - rate * decay).to(parameter.dtype))
    parameter.sub_(step * average / (square.sqrt() * correction + eps))


def captured(run: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Record what a function launches as a CUDA graph, and return what launches it all at once.

    Where that is not possible, return the function itself.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):  # a graph records the current device alone
        try:
            with torch.cuda.graph(graph):
                run()
        except RuntimeError:
            return run

    def replay(run: object = run) -> None:  # it holds on to the run: the graph reads the memory that it owns
        with torch.cuda.device(device):
            graph.replay()

    return replay


def _activate(activation: int, y: Tensor, a: Tensor, slope: Tensor) -> None:
    ACTIVATIONS[ORDER[activation]].apply(y, a, slope)
