"""The training step through autograd: gather a batch, forward, loss, gradients, update, running statistics."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from batchnorm.data.dataset import Examples
from batchnorm.training.config import TrainingConfig
from batchnorm.training.draws import add_noise_

ADAMW_BETAS, ADAMW_EPS = (0.9, 0.999), 1e-8


class AutogradEngine:
    """Train any `torch.nn.Module` through torch's autograd and optimisers.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits (batch, n_classes); on the device of `examples`.
    examples : Examples
    config : TrainingConfig
    """

    def __init__(self, network: nn.Module, examples: Examples, config: TrainingConfig):
        self.network, self.examples = network, examples
        self.label_smoothing, self.input_noise = config.label_smoothing, config.input_noise
        self.optimizer = make_optimizer(network, config)

    @torch.enable_grad()  # whatever the caller is in
    def step(self, indices: NDArray[np.int64], learning_rate: float) -> float:
        """Train on the examples at `indices` (batch,) and return their mean loss before the update."""
        if not self.network.training:
            self.network.train()  # in this mode the forward pass updates the running statistics as well
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        inputs, labels = self.examples.batch(torch.from_numpy(indices).to(self.examples.labels.device))
        if self.input_noise:
            add_noise_(inputs, self.input_noise)
        logits = self.network(inputs)  # (batch, n_classes)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state as flat, named tensors."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value
            for index, values in state.items()
            for name, value in values.items()
            if value is not None
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` returned."""
        nested: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            index, name = key.split(".")
            nested.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": nested, "param_groups": groups})


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return torch's optimiser for the configuration.

    Weight decay pulls at weights only: vectors (biases, and γ and β of normalisation layers) are left out. SGD adds
    it to the gradient, AdamW shrinks the weight beside the step.

    References
    ----------
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=ADAMW_BETAS, eps=ADAMW_EPS)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.nesterov)
