"""The optimisers, one entry each: torch's for the autograd engine, a kernel for the fused one, the same state for both.

The name stands in `config.Optimizer`, too. The kernel stands under the same name in `kernels.cpu` and in
`kernels.tensors`, and takes::

    parameter, gradient, *states, now, decay, *arguments        all arrays flat; now = [rate, number of the step from 1]

A gradient of 0 still moves a weight w: decay shrinks it, and momentum goes on. Such a step is a linear map of w and of
what moves it, u::

    SGD                       u = 0
    SGD with momentum         u = velocity
    AdamW                     u = average / (√square + eps)

so that any number of them is one product of matrices, the same for all weights: see `sparse.SparseLayer`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from batchnorm.config import Optimizer, TrainingConfig

Matrix = tuple[float, float, float, float]  # a, b, c, d: w ← a w + b u, u ← c w + d u


@dataclass(frozen=True)
class UpdateRule:
    """How an optimiser updates parameters, with the values that a configuration gives it.

    Parameters
    ----------
    kind : str
        Which state it keeps: only a rule of the same kind takes it up. Estimators' files hold it.
    make : callable
        Takes groups of parameters and ``lr``, and returns torch's optimiser.
    kernel : str
    states : tuple of str
        The tensors that are kept beside each parameter: torch's names, in the kernel's order.
    arguments : tuple of float or bool
        What the kernel gets after the decay.
    counts_steps : bool, default False
        Whether torch keeps the number of steps as well.
    missed : callable, optional
        Given rate, number of the step from 1 and decay, returns what that step does where the gradient is 0. None if
        that is no linear map.
    """

    kind: str
    make: Callable[..., torch.optim.Optimizer]
    kernel: str
    states: tuple[str, ...] = ()
    arguments: tuple[float | bool, ...] = ()
    counts_steps: bool = False
    missed: Callable[[float, float, float], Matrix] | None = None


def _sgd(config: TrainingConfig) -> UpdateRule:
    if config.momentum == 0:
        return UpdateRule("sgd", torch.optim.SGD, "sgd", missed=lambda rate, _, decay: (1 - rate * decay, 0, 0, 0))
    return UpdateRule(
        "momentum",
        partial(torch.optim.SGD, momentum=config.momentum, nesterov=config.nesterov),
        "sgd_momentum",
        states=("momentum_buffer",),
        arguments=(config.momentum, config.nesterov),
        missed=partial(_missed_momentum, config.momentum, config.nesterov),
    )


def _adamw(config: TrainingConfig) -> UpdateRule:
    return UpdateRule(
        "adamw",
        partial(torch.optim.AdamW, betas=(config.beta_1, config.beta_2), eps=config.adam_eps),
        "adamw",
        states=("exp_avg", "exp_avg_sq"),
        arguments=(config.beta_1, config.beta_2, config.adam_eps),
        counts_steps=True,
        # Beside eps the square must not fade before the average does.
        missed=partial(_missed_adamw, config.beta_1, config.beta_2) if config.beta_1 <= config.beta_2**2 else None,
    )


def _missed_momentum(momentum: float, nesterov: bool, rate: float, _: float, decay: float) -> Matrix:
    ahead, fresh = (momentum, 1.0) if nesterov else (1.0, 0.0)
    return 1 - rate * decay * (fresh + ahead), -rate * ahead * momentum, decay, momentum


def _missed_adamw(beta1: float, beta2: float, rate: float, step: float, decay: float) -> Matrix:
    fading = beta1 / math.sqrt(beta2)
    size = rate * math.sqrt(1 - beta2**step) / (1 - beta1**step)
    return 1 - rate * decay, -size * fading, 0.0, fading


OPTIMIZERS: dict[Optimizer, Callable[[TrainingConfig], UpdateRule]] = {"sgd": _sgd, "adamw": _adamw}


def update_rule(config: TrainingConfig) -> UpdateRule:
    """Return the rule of the optimiser that a configuration names."""
    return OPTIMIZERS[config.optimizer](config)
