"""What takes training steps: the two engines have one face."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import TrainingConfig
from batchnorm.data import ExamplesLike
from batchnorm.errors import InputError
from batchnorm.network import DenseNetwork
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.fused import FusedEngine, obstacle_to_fusing


class Engine(Protocol):
    """What takes training steps. It changes the parameters and buffers of the network that it was made for."""

    def step(self, indices: NDArray[np.int64], learning_rate: float) -> float:
        """Train on the examples at `indices` (batch,) and return their mean loss before the update."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state as flat tensors with torch's names: each engine takes up the other's."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` returned."""


def make_engine(network: nn.Module, examples: ExamplesLike, config: TrainingConfig) -> Engine:
    """Return the engine that the configuration names; for "auto" the fused one where it can train the network.

    Raises
    ------
    InputError
        If "fused" is asked for and cannot.
    """
    if config.engine == "autograd":
        return AutogradEngine(network, examples, config)
    obstacle = obstacle_to_fusing(network, examples)
    if obstacle is None:
        assert isinstance(network, DenseNetwork)
        return FusedEngine(network, examples, config)
    if config.engine == "fused":
        raise InputError(f"engine fused cannot train this network: {obstacle}; take engine autograd or auto")
    return AutogradEngine(network, examples, config)
