"""How weights begin: He for layers that an activation follows, Glorot for the output layer."""

import math

import torch
from torch import Tensor, nn

# Cutting a normal distribution at two standard deviations takes 22.6 % of its variance; TensorFlow's initialiser
# makes up for it with this rounded factor, and so draws a variance 0.6 % above 2/fan-in.
_CUT_CORRECTION = 1.3


def he_truncated_normal_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill a weight (out, in) in place: normal, cut off at two standard deviations, variance 2/in.

    It is what TensorFlow's ``variance_scaling_initializer()`` draws.

    References
    ----------
    K. He, X. Zhang, S. Ren and J. Sun, "Delving Deep into Rectifiers", 2015, arXiv:1502.01852, section 2.2.
    """
    std = math.sqrt(_CUT_CORRECTION * 2 / weight.shape[1])
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


def glorot_uniform_(weight: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Fill a weight (out, in) in place: uniform within ±√(6 / (in + out)), what TensorFlow's dense layers default to.

    References
    ----------
    X. Glorot and Y. Bengio, "Understanding the difficulty of training deep feedforward neural networks", 2010,
    section 4.2.1.
    """
    return nn.init.xavier_uniform_(weight, generator=generator)
