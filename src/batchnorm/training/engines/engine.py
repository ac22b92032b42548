"""What takes training steps: the two engines have one face."""

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import TrainingConfig
from batchnorm.data import ExamplesLike
from batchnorm.errors import InputError, install_command
from batchnorm.kernels import compiled_kernels
from batchnorm.losses import Loss
from batchnorm.network import DenseNetwork
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.fused import FusedEngine, obstacle_to_fusing

_told: set[object] = set()  # that numba is missing: ways of warning, by the method of a monitor's class


class Engine(Protocol):
    """What takes training steps. It changes the parameters and buffers of the network that it was made for."""

    def step(
        self,
        indices: NDArray[np.int64],
        learning_rate: float,
        share: float | None = None,
        noise: float | None = None,
    ) -> float:
        """Train on the examples at `indices` (batch,) and return their mean loss before the update.

        In a stream, batch norm takes the moments of a population of which the batch makes up `share`, the running
        averages are of the rest, and afterwards of all of it. Where the configuration has noise, `noise` is another
        standard deviation of it.
        """

    def write_back(self) -> None:
        """Bring the network up to date: of sparse inputs an engine may train a copy of the first weight."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state as flat tensors with torch's names: each engine takes up the other's."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` returned."""


def make_engine(
    network: nn.Module,
    examples: ExamplesLike,
    config: TrainingConfig,
    warn: Callable[[str], None] = warnings.warn,
    n_classes: int | None = None,
    loss: Loss | None = None,
) -> Engine:
    """Return the engine that the configuration names; for "auto" the fused one where it can train the network.

    Parameters
    ----------
    network : torch.nn.Module
    examples : ExamplesLike
    config : TrainingConfig
    warn : callable
        Is told, the first time, that "auto" does without the fused engine because numba is missing.
    n_classes : int, optional
        How many logits any other module must give in training; by default any number.
    loss : Loss, optional
        Of values; by default that of labels of their kind.

    Raises
    ------
    InputError
        If "fused" is asked for and cannot.
    """
    if config.engine == "autograd":
        return AutogradEngine(network, examples, config, n_classes, loss)
    obstacle = obstacle_to_fusing(network, examples)
    if obstacle is not None:
        if config.engine == "fused":
            raise InputError(f"engine fused cannot train this network: {obstacle}; take engine autograd or auto")
        return AutogradEngine(network, examples, config, n_classes, loss)
    if examples.labels.device.type == "cpu" and compiled_kernels() is None:
        if config.engine == "fused":
            raise InputError(
                f"engine fused needs numba on the CPU: {install_command('fast')}, or take engine autograd or auto"
            )
        _tell_of_numba(warn)
        return AutogradEngine(network, examples, config, n_classes, loss)
    assert isinstance(network, DenseNetwork)
    return FusedEngine(network, examples, config, loss=loss)


def _tell_of_numba(warn: Callable[[str], None]) -> None:
    """Warn once in a process, whatever the number of trainings; a monitor that is silent does not speak for others."""
    way = getattr(warn, "__func__", None)
    if way not in _told:
        _told.add(way)
        warn(f"training through autograd, which is slower: the fused engine needs numba ({install_command('fast')})")
