"""The training step through autograd: gather a batch, forward, loss, gradients, update, running statistics."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import TrainingConfig
from batchnorm.data import NETWORK_OUTPUTS, ExamplesLike, as_columns, task_of
from batchnorm.errors import InputError, raised_by_network
from batchnorm.kernels.draws import add_noise_
from batchnorm.losses import Loss, mean_loss
from batchnorm.network import BatchNorm1d, input_dtype
from batchnorm.training.engines.optimizers import update_rule


class AutogradEngine:
    """Train any `torch.nn.Module` through torch's autograd and optimisers.

    Parameters
    ----------
    network : torch.nn.Module
        Inputs (batch, *feature_shape) to logits or values (batch, outputs), of one also (batch,); on the device of
        `examples`.
    examples : ExamplesLike
        Their weights count in the loss and, in a `BatchNorm1d` of ours, in the moments of a batch.
    config : TrainingConfig
    n_classes : int, optional
        How many logits the network must give for classes; by default any number.
    loss : Loss, optional
        Of values; by default that of labels of their kind.
    """

    def __init__(
        self,
        network: nn.Module,
        examples: ExamplesLike,
        config: TrainingConfig,
        n_classes: int | None = None,
        loss: Loss | None = None,
    ):
        self.network, self.examples, self.input_noise = network, examples, config.input_noise
        self.loss = loss or Loss.of(examples.labels, config.label_smoothing)
        self.optimizer, rule = make_optimizer(network, config), update_rule(config)
        self._states = {*rule.states, *(("step",) if rule.counts_steps else ())}
        # A module may give the optimiser some of its parameters only.
        self._known = {id(p) for p in (*network.parameters(), *dict(network.named_parameters()).values())}
        self._takes_sparse = config.optimizer == "sgd" and not (config.momentum or config.weight_decay)
        self._checked, self._n_classes = False, n_classes
        self._dtype = input_dtype(network)
        self._norms = [module for module in network.modules() if isinstance(module, BatchNorm1d)]

    @torch.enable_grad()  # whatever the caller is in
    def step(
        self,
        indices: NDArray[np.int64],
        learning_rate: float,
        share: float | None = None,
        noise: float | None = None,
    ) -> float:
        """Train on the examples at `indices` (batch,) and return their mean loss before the update."""
        if not self.network.training:
            self.network.train()  # in this mode the forward pass updates the running statistics as well
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        with raised_by_network("the network cannot be trained"):
            places = torch.from_numpy(indices).to(self.examples.labels.device)
            return self._step(places, share, self.input_noise if noise is None else noise)

    def _step(self, places: Tensor, share: float | None, noise: float) -> float:
        inputs, labels = self.examples.batch(places, self._dtype)
        if self.input_noise:
            add_noise_(inputs, noise)
        weights = None if self.examples.weights is None else self.examples.weights[places].to(self._dtype)
        with self._told(weights, share):
            loss = mean_loss(self._outputs(inputs, labels), labels, self.loss, weights)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not self._checked:
            self._check_parameters()
        self.optimizer.step()
        return loss.item()

    def _outputs(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the network's outputs, which in training may be others than in inference."""
        outputs = as_columns(self.network(inputs), labels)
        n_outputs = labels.shape[1] if labels.dim() > 1 else self._n_classes
        is_table = isinstance(outputs, Tensor) and outputs.dim() == 2 and len(outputs) == len(labels)
        if not is_table or n_outputs not in (None, outputs.shape[1]):
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"a {type(outputs).__name__}"
            raise InputError(
                f"the network turns a batch of {len(labels)} into {shape} in training, expected "
                f"{NETWORK_OUTPUTS[task_of(labels)]} of shape ({len(labels)}, {n_outputs or 'classes'}) as in inference"
            )
        kept: Tensor = outputs
        return kept

    def _check_parameters(self) -> None:
        """Check what only the first step shows: that the optimiser has all parameters, and takes their gradients."""
        self._checked = True
        for name, parameter in self.network.named_parameters():
            if id(parameter) not in self._known:
                raise InputError(
                    f"the parameter {name} was made in the first training step, too late for the optimiser: "
                    "make it in __init__, or when the network is first called in inference mode"
                )
            if parameter.grad is not None and parameter.grad.is_sparse and not self._takes_sparse:
                raise InputError(
                    f"the parameter {name} has sparse gradients, which plain SGD alone takes: set its layer's sparse "
                    "to False, or optimizer to 'sgd', momentum to 0, nesterov to False and weight_decay to 0"
                )
        if all(parameter.grad is None for group in self.optimizer.param_groups for parameter in group["params"]):
            raise InputError(
                "no parameter of the network has a gradient after a training step: behind them is a layer that passes "
                "none, such as a quantized one, so train the network before it is quantized"
            )

    @contextmanager
    def _told(self, counts: Tensor | None, share: float | None) -> Iterator[None]:
        """Tell batch norm of the batch: what it cannot see in its inputs."""
        for norm in self._norms:
            norm.counts, norm.share = counts, share
        try:
            yield
        finally:
            for norm in self._norms:
                norm.counts, norm.share = None, None

    def write_back(self) -> None:
        """Do nothing: it is the network itself that is trained."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state as flat, named tensors."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{index}.{name}": value.float() if name == "step" else value  # whatever the default dtype is
            for index, values in state.items()
            for name, value in values.items()
            if value is not None
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` returned."""
        nested: dict[int, dict[str, Tensor]] = {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for key, value in state.items():
            index, name = key.split(".")
            _check_kept(key, value, parameters[int(index)])
            nested.setdefault(int(index), {})[name] = value
        for number, kept in nested.items():
            if kept.keys() != self._states:
                raise ValueError(
                    f"the optimiser's state of parameter {number} is {sorted(kept)}, expected {sorted(self._states)}"
                )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": nested, "param_groups": groups})


def _check_kept(key: str, value: Tensor, parameter: Tensor) -> None:
    """Check what is kept beside a parameter before torch, which does not, meets it in a step."""
    counts_steps = key.endswith(".step")
    shape = torch.Size() if counts_steps else parameter.shape
    is_complex = parameter.is_complex() and not counts_steps
    if value.shape != shape:
        raise ValueError(f"the optimiser's {key} has shape {tuple(value.shape)}, expected {tuple(shape)}")
    if value.is_complex() != is_complex or not (value.is_floating_point() or is_complex):
        kind = "complex" if is_complex else "real floating-point"
        raise ValueError(f"the optimiser's {key} is {value.dtype}, expected {kind} numbers")


def make_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return torch's optimiser for the configuration.

    Weight decay pulls at weights only: vectors (biases, and γ and β of normalisation layers) are left out. SGD adds
    it to the gradient, AdamW shrinks the weight beside the step.

    References
    ----------
    I. Loshchilov and F. Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.optimizer == "adamw":
        _check_adam_eps(config.adam_eps, {parameter.dtype for parameter in parameters})
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    return update_rule(config).make(groups, lr=config.learning_rate)


def _check_adam_eps(eps: float, dtypes: set[torch.dtype]) -> None:
    for dtype in dtypes:
        if not torch.tensor(eps, dtype=dtype).abs() > 0:
            raise InputError(
                f"adam_eps is {eps:g}, which is 0 in the network's {dtype}: set it to 1e-4 or so, or optimizer to 'sgd'"
            )
