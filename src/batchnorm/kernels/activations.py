"""The activations, one entry each: torch's module, and the formula on tensors of the activation and its slope.

The entry's kernel for the CPU is a branch of `cpu._activate`. Kernels know an activation by its place in the
table, so `cpu.ACTIVATIONS` and `config.Activation` have the same names in the same order.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.config import Activation

_LEAKY_SLOPE = 0.01

# G. Klambauer et al., "Self-Normalizing Neural Networks", 2017, arXiv:1706.02515, section 3.
_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


class ActivationEntry(NamedTuple):
    """An activation f, of modules and of tensors."""

    module: Callable[[], nn.Module]
    apply: Callable[[Tensor, Tensor, Tensor], object]  # of y, a and slope: a ← f(y), slope ← f'(y)


def _relu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(F.relu(y))
    slope.copy_(y > 0)


def _elu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(F.elu(y))
    slope.copy_(a.clamp(max=0) + 1)


def _gelu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    distribution = (1 + torch.erf(y * math.sqrt(0.5))) / 2
    a.copy_(y * distribution)
    slope.copy_(distribution + y * torch.exp(-y * y / 2) / math.sqrt(2 * math.pi))


def _silu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    share = torch.sigmoid(y)
    a.copy_(y * share)
    slope.copy_(share * (1 + y * (1 - share)))


def _tanh(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(torch.tanh(y))
    slope.copy_(1 - a * a)


def _sigmoid(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(torch.sigmoid(y))
    slope.copy_(a * (1 - a))


def _selu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(F.selu(y))
    slope.copy_(torch.where(y > 0, _SELU_SCALE, a + _SELU_ALPHA * _SELU_SCALE))


def _leaky_relu(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(F.leaky_relu(y))
    slope.copy_(torch.where(y > 0, 1.0, _LEAKY_SLOPE))


def _identity(y: Tensor, a: Tensor, slope: Tensor) -> None:
    a.copy_(y)
    slope.fill_(1.0)


ACTIVATIONS: dict[Activation, ActivationEntry] = {
    "relu": ActivationEntry(nn.ReLU, _relu),
    "elu": ActivationEntry(nn.ELU, _elu),
    "gelu": ActivationEntry(nn.GELU, _gelu),
    "silu": ActivationEntry(nn.SiLU, _silu),
    "tanh": ActivationEntry(nn.Tanh, _tanh),
    "sigmoid": ActivationEntry(nn.Sigmoid, _sigmoid),
    "selu": ActivationEntry(nn.SELU, _selu),
    "leaky_relu": ActivationEntry(nn.LeakyReLU, _leaky_relu),
    "identity": ActivationEntry(nn.Identity, _identity),
}
ORDER = tuple(ACTIVATIONS)
