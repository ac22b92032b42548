"""The optimisers, one entry each: torch's for the autograd engine, a kernel for the fused one, the same state for both.

The name stands in `config.Optimizer`, too. The kernel stands under the same name in `kernels.cpu` and in
`kernels.tensors`, and takes::

    parameter, gradient, *states, now, decay, *arguments        all arrays flat; now = [rate, number of the step from 1]
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from batchnorm.config import Optimizer, TrainingConfig


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
    """

    kind: str
    make: Callable[..., torch.optim.Optimizer]
    kernel: str
    states: tuple[str, ...] = ()
    arguments: tuple[float | bool, ...] = ()
    counts_steps: bool = False


def _sgd(config: TrainingConfig) -> UpdateRule:
    if config.momentum == 0:
        return UpdateRule("sgd", torch.optim.SGD, "sgd")
    return UpdateRule(
        "momentum",
        partial(torch.optim.SGD, momentum=config.momentum, nesterov=config.nesterov),
        "sgd_momentum",
        states=("momentum_buffer",),
        arguments=(config.momentum, config.nesterov),
    )


def _adamw(config: TrainingConfig) -> UpdateRule:
    return UpdateRule(
        "adamw",
        partial(torch.optim.AdamW, betas=(config.beta_1, config.beta_2), eps=config.adam_eps),
        "adamw",
        states=("exp_avg", "exp_avg_sq"),
        arguments=(config.beta_1, config.beta_2, config.adam_eps),
        counts_steps=True,
    )


OPTIMIZERS: dict[Optimizer, Callable[[TrainingConfig], UpdateRule]] = {"sgd": _sgd, "adamw": _adamw}


def update_rule(config: TrainingConfig) -> UpdateRule:
    """Return the rule of the optimiser that a configuration names."""
    return OPTIMIZERS[config.optimizer](config)
