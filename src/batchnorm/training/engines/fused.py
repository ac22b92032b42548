"""The fused engine: the training step of a `DenseNetwork`, derived by hand, on buffers that are allocated once.

For each layer, with x its input, W its weight, f its activation::

    forward     z = x Wᵀ                                      (batch, out)   torch
                a = f(BN(z)), slope = f'(BN(z))               (batch, out)   kernels
    backward    ∂z from ∂a                                    (batch, out)   kernels
                ∂x = ∂z W                                     (batch, in)    torch
                ∂W = ∂zᵀ x                                    (out, in)      torch
    update      W, and the vectors γ, β, bias                                kernels

The matrix products are torch's; the kernels between them are those of `kernels.cpu` on the CPU, of `kernels.tensors`
elsewhere. Plain SGD without decay takes its step inside the product on the CPU: W ← W − rate · ∂zᵀ x. Of inputs that
are mostly zero, x, only what is not is multiplied: `sparse.SparseLayer`.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.config import TrainingConfig
from batchnorm.data import Examples, ExamplesLike, StreamedExamples, Table, loss_of
from batchnorm.errors import InputError
from batchnorm.kernels import activations, tensors
from batchnorm.kernels.draws import draw_keys_
from batchnorm.losses import Loss
from batchnorm.network import BatchNorm1d, DenseNetwork
from batchnorm.training.engines.optimizers import update_rule
from batchnorm.training.engines.sparse import SparseLayer

_RUNS_BEFORE_CAPTURE = 3  # the libraries of a CUDA device set themselves up in the first

Call = Callable[[], object]


def obstacle_to_fusing(network: nn.Module, examples: ExamplesLike) -> str | None:
    """Say why the fused engine cannot train a network on examples, or return None if it can."""
    if not isinstance(network, DenseNetwork):
        return f"it is a {type(network).__name__}, not a DenseNetwork"
    alteration = network.alteration()
    if alteration is not None:
        return alteration
    parameters = list(network.parameters())
    if len({parameter.data_ptr() for parameter in parameters}) < len(parameters):
        return "layers share a tensor"
    if not all(parameter.requires_grad for parameter in parameters):
        return "some of its parameters are frozen"
    if {p.dtype for p in parameters} not in ({torch.float32}, {torch.float64}):
        return "its parameters are not all float32"
    if not all(tensor.is_contiguous() for tensor in (*parameters, *network.buffers())):
        return "some of its parameters are not contiguous in memory"
    if examples.labels.device.type != "cpu" and examples.weights is not None:
        return "the examples have weights, which it takes on the CPU only"
    if isinstance(examples, StreamedExamples):
        return None if examples.labels.device.type == "cpu" else "the inputs are not in the device's memory"
    assert isinstance(examples, Examples)
    if examples.inputs.dtype not in (torch.uint8, torch.float32, torch.float64):
        return f"the inputs are {examples.inputs.dtype}, not uint8 or float32".replace("torch.", "")
    return None


@dataclass
class _Layer:
    """A linear layer and what follows it up to the next one, with its buffers for the largest batch."""

    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,): of the linear layer or, where there is one, of the batch norm
    z: Tensor  # (batch, out): what the product gives; with batch norm, x̂ afterwards
    a: Tensor  # (batch, out)
    slope: Tensor  # (batch, out): ∂a/∂(what the activation is applied to)
    gradient: Tensor  # (batch, out): ∂loss/∂a, then ∂loss/∂z
    sums: Tensor  # (2, out), float64: scratch
    rstd: Tensor  # (out,)
    norm: BatchNorm1d | None = None
    gamma: Tensor | None = None  # (out,)
    activation: int = activations.ORDER.index("identity")
    dropout: float = 0.0
    mask: Tensor | None = None  # (batch, out)


class FusedEngine:
    """Train a `DenseNetwork` by a step that is written out, several times as fast as through autograd.

    From the same seed it agrees with `AutogradEngine` to rounding. On the CPU a step allocates nothing: it is a list of
    calls on fixed buffers, made once for each size of batch.

    Parameters
    ----------
    network : DenseNetwork
        One to which there is no `obstacle_to_fusing`; on the device of `examples`. It is the tensors that it holds now
        that are trained; their ``grad`` stays None.
    examples : ExamplesLike
    config : TrainingConfig
    kernels : module, optional
        What stands between the matrix products: `kernels.cpu` on the CPU, `kernels.tensors` elsewhere.
    loss : Loss, optional
        Of values; by default that of labels of their kind.
    """

    def __init__(
        self,
        network: DenseNetwork,
        examples: ExamplesLike,
        config: TrainingConfig,
        kernels: ModuleType | None = None,
        loss: Loss | None = None,
    ):
        self.network, self.examples, self.config = network, examples, config
        self.loss = loss or Loss.of(examples.labels, config.label_smoothing)
        device, dtype = examples.labels.device, next(network.parameters()).dtype
        self._on_host = device.type == "cpu"
        self._kernels = kernels or _kernels_for(device)
        self._compiled = self._kernels is not tensors
        self._view: Callable[[Tensor], Tensor | NDArray[Any]] = Tensor.numpy if self._compiled else _itself
        self._captures = device.type == "cuda"
        new = partial(torch.empty, dtype=dtype, device=device)

        # What each step is given; on the CPU the step reads the same memory, elsewhere it is copied.
        self._capacity = min(len(examples), config.batch_size + 1)  # a last example alone joins the batch before
        self._given_indices = np.zeros(self._capacity, dtype=np.int64)
        self._given_now = np.zeros(3)  # learning rate, number of the step from 1, deviation of the noise
        self._indices = torch.from_numpy(self._given_indices).to(device)
        self._now = torch.from_numpy(self._given_now).to(device)

        self._rule = update_rule(config)
        self._sparse: SparseLayer | None = None
        if (table := self._sparse_table()) is not None:
            first = next(network.parameters()).detach()
            self._sparse = SparseLayer(first, table, self._rule, config.weight_decay, self._capacity)
        self._inputs = new(self._capacity, 0 if self._sparse else network.in_features)
        if examples.weights is not None and not self._compiled:
            raise InputError("torch's operators take no weights")
        self._labels = examples.labels.reshape(len(examples), -1)
        n_outputs = 1 if loss_of(examples.labels) == "cross_entropy" else network.n_classes
        if self._labels.shape[1] != n_outputs:  # a kernel would read beyond them
            raise InputError(f"labels of shape {tuple(examples.labels.shape)}, expected {n_outputs} for each example")
        kind = torch.int64 if loss_of(examples.labels) == "cross_entropy" else dtype
        self._targets = new(self._capacity, self._labels.shape[1], dtype=kind)
        self._counts = torch.ones(self._capacity, dtype=dtype, device=device)
        self._loss_parameter: Any = self.loss.parameter
        if self.loss.name in ("cross_entropy", "binary_cross_entropy"):
            self._loss_parameter = self._view(torch.from_numpy(self.loss.spread(network.n_classes)).to(device))
        self._loss = torch.zeros(1, dtype=torch.float64, device=device)
        self._layers = _read_layers(network, self._capacity, new)
        n_draws = bool(config.input_noise) + sum(layer.mask is not None for layer in self._layers)
        self._keys = torch.zeros(n_draws, 1, dtype=torch.int64)

        trained = [parameter.detach() for parameter in network.parameters()]  # the same memory
        # The order of the autograd engine's groups: what decays, then what does not.
        self._parameters = [p for p in trained if p.dim() > 1] + [p for p in trained if p.dim() <= 1]
        # Not with weight decay: its factor of the weight, 1 − rate · decay, would be rounded in every step.
        self._steps_inside = self._compiled and self._rule.kernel == "sgd" and not config.weight_decay
        dense = self._parameters[1:] if self._sparse else self._parameters
        self._gradients = {p.data_ptr(): torch.zeros_like(p) for p in dense if p.dim() <= 1 or not self._steps_inside}
        self._states = [{name: torch.zeros_like(p) for name in self._rule.states} for p in dense]
        if self._sparse:
            self._states.insert(0, self._sparse.states)
        self._runs: dict[tuple[int, float | None], Call] = {}  # the step, by size of batch and its share in a stream
        self._n_runs: Counter[tuple[int, float | None]] = Counter()

    def step(
        self,
        indices: NDArray[np.int64],
        learning_rate: float,
        share: float | None = None,
        noise: float | None = None,
    ) -> float:
        """Train on the examples at `indices` (batch,) and return their mean loss before the update."""
        n = len(indices)
        kind = n, share
        if kind not in self._runs:
            self._check_size(n, share)
            self._runs[kind] = partial(_run, self._calls(n, share))
        elif self._captures and self._n_runs[kind] == _RUNS_BEFORE_CAPTURE:
            self._runs[kind] = tensors.captured(self._runs[kind], self._indices.device)
        self._n_runs[kind] += 1
        self._given_indices[:n] = indices
        self._given_now[0] = learning_rate
        self._given_now[1] += 1
        self._given_now[2] = self.config.input_noise if noise is None else noise
        if not self._on_host:
            self._indices.copy_(torch.from_numpy(self._given_indices))
            self._now.copy_(torch.from_numpy(self._given_now))
        self._runs[kind]()
        return float(self._view(self._loss)[0])

    def write_back(self) -> None:
        """Bring the network up to date where a copy is trained."""
        if self._sparse:
            self._sparse.write_back()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the optimiser's state as flat tensors with torch's names."""
        self.write_back()
        state = {f"{i}.{name}": t.contiguous() for i, kept in enumerate(self._states) for name, t in kept.items()}
        if self._rule.counts_steps:
            state |= {
                f"{i}.step": torch.tensor(self._given_now[1], dtype=torch.float32) for i in range(len(self._states))
            }
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take up a state that `state_dict` returned."""
        expected = {f"{i}.{name}": t.shape for i, kept in enumerate(self._states) for name, t in kept.items()}
        if self._rule.counts_steps:
            expected |= {f"{i}.step": torch.Size() for i in range(len(self._states))}
        if state and state.keys() != expected.keys():
            raise ValueError(f"the optimiser's state has {sorted(state)}, expected {sorted(expected)}")
        for name, tensor in state.items():
            if tensor.shape != expected[name]:
                raise ValueError(
                    f"the optimiser's {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name])}"
                )
        for i, kept in enumerate(self._states):
            for name, tensor in kept.items():
                tensor.copy_(state.get(f"{i}.{name}", torch.zeros(())))
        self._given_now[1] = state["0.step"].item() if "0.step" in state else 0

    def _sparse_table(self) -> Table | None:
        """Return the table of which inputs are read without their zeros, or None if they are read with them."""
        if self._rule.missed is None or self.config.input_noise or not self._compiled:
            return None
        table = self.examples.table if isinstance(self.examples, StreamedExamples) else None
        return table if table is not None and table.keeps_zeros else None

    def _check_size(self, n: int, share: float | None) -> None:
        # One example has no variance of its own.
        least = 2 if share is None and any(layer.norm for layer in self._layers) else 1
        if not least <= n <= self._capacity:
            raise ValueError(f"a batch of {n} examples, expected {least} to {self._capacity}")

    def _calls(self, n: int, share: float | None) -> list[Call]:
        """Return what a step on a batch of `n` does, in order: each call has its part of the buffers."""
        keys = iter(self._keys)
        calls = self._gathering(n, keys)
        backward: list[Call] = []  # of the last layer first
        x: Tensor | None = None if self._sparse else self._inputs[:n]
        dx: Tensor | None = None  # where ∂loss/∂x goes: not for the inputs, of which nobody asks it
        for layer in self._layers:
            forward, back = self._between_products(layer, n, share)
            calls += [self._product(layer, x, n), forward]
            if layer.mask is not None:
                calls += self._dropping(layer, layer.mask[:n], next(keys), n)
            backward = [back, *self._products_back(layer, x, dx, n), *backward]
            x, dx = layer.a[:n], layer.gradient[:n]
        return [*calls, self._taking_loss(n), *backward, *self._updates()]

    def _gathering(self, n: int, keys: Iterator[Tensor]) -> list[Call]:
        """Return the calls that bring a batch into the buffers, and noise onto its inputs."""
        kernels, view, examples = self._kernels, self._view, self.examples
        x, targets, counts = self._inputs[:n], self._targets[:n], self._counts[:n]
        indices = view(self._indices[:n])
        calls: list[Call] = []
        if self._compiled and len(self._keys):
            calls.append(partial(draw_keys_, self._keys))
        if self._sparse:
            pass  # its product reads them
        elif isinstance(examples, StreamedExamples):
            calls.append(partial(examples.table.read, self._given_indices[:n], x.numpy()))
        else:
            assert isinstance(examples, Examples)
            calls.append(partial(kernels.gather, view(examples.inputs.flatten(1)), indices, examples.scale, view(x)))
        calls.append(partial(kernels.gather, view(self._labels), indices, 1, view(targets)))
        if examples.weights is not None:
            calls.append(partial(kernels.gather, view(examples.weights[:, None]), indices, 1, view(counts[:, None])))
        if self.config.input_noise:
            calls.append(partial(kernels.add_noise, view(next(keys)), view(self._now[2:]), view(x.flatten())))
        return calls

    def _between_products(self, layer: _Layer, n: int, share: float | None) -> tuple[Call, Call]:
        """Return what follows a layer's product, up to its activation, and the way back through it."""
        kernels, view = self._kernels, self._view
        z, a, slope, gradient = (view(t[:n]) for t in (layer.z, layer.a, layer.slope, layer.gradient))
        assert layer.bias is not None
        bias, grad_bias = view(layer.bias), view(self._gradients[layer.bias.data_ptr()])
        sums, norm = view(layer.sums), layer.norm
        if norm is None or layer.gamma is None:
            return (
                partial(kernels.shift_activate, z, bias, layer.activation, a, slope),
                partial(kernels.shift_activate_backward, gradient, slope, sums, grad_bias),
            )
        gamma, grad_gamma = view(layer.gamma), view(self._gradients[layer.gamma.data_ptr()])
        counts, rstd, x_hat = view(self._counts[:n]), view(layer.rstd), z  # normalising turns z into x̂
        running = [view(t) for t in (norm.running_mean, norm.running_var, norm.num_batches_tracked.reshape(1))]
        unbiased = norm.stored_variance == "unbiased"
        moving = (1.0, norm.momentum, unbiased) if share is None else (share, 1.0, False)
        how = (*moving, norm.eps, layer.activation)
        forward, back = kernels.normalize_activate, kernels.normalize_activate_backward
        return (
            partial(forward, z, counts, gamma, bias, *running, *how, sums, rstd, a, slope),
            partial(back, gradient, counts, slope, x_hat, gamma, rstd, moving[0], sums, grad_gamma, grad_bias),
        )

    def _dropping(self, layer: _Layer, mask: Tensor, key: Tensor, n: int) -> list[Call]:
        """Return the calls that drop units of a layer."""
        kernels, view = self._kernels, self._view
        return [
            partial(kernels.draw_mask, view(key), layer.dropout, view(mask.flatten())),
            partial(kernels.drop, view(mask), view(layer.a[:n]), view(layer.slope[:n])),
        ]

    def _product(self, layer: _Layer, x: Tensor | None, n: int) -> Call:
        """Return the product of a layer's input, None for sparse ones, with its weight."""
        if x is None:
            assert self._sparse is not None
            return partial(self._sparse.product, self._given_indices[:n], layer.z[:n].numpy(), self._given_now)
        return partial(torch.mm, x, layer.weight.t(), out=layer.z[:n])

    def _products_back(self, layer: _Layer, x: Tensor | None, dx: Tensor | None, n: int) -> list[Call]:
        """Return the products of a layer's backward pass: the gradient of its input before its weight moves."""
        dz, weight = layer.gradient[:n], layer.weight
        if x is None:
            assert self._sparse is not None
            return [partial(self._sparse.descend, self._given_indices[:n], dz.numpy(), self._given_now)]
        calls: list[Call] = [] if dx is None else [partial(torch.mm, dz, weight, out=dx)]
        if self._steps_inside:
            return [*calls, partial(self._descend, weight, dz.t(), x)]
        return [*calls, partial(torch.mm, dz.t(), x, out=self._gradients[weight.data_ptr()])]

    def _descend(self, weight: Tensor, dz_t: Tensor, x: Tensor) -> None:
        """Take a step of plain SGD inside the product that gives the gradient."""
        weight.addmm_(dz_t, x, alpha=-self._given_now[0])

    def _taking_loss(self, n: int) -> Call:
        """Return the call that takes the loss of the last layer's outputs, and its gradient."""
        view, last = self._view, self._layers[-1]
        kernel, parameter = getattr(self._kernels, self.loss.name), self._loss_parameter
        outputs, targets, counts = view(last.a[:n]), view(self._targets[:n]), view(self._counts[:n])
        return partial(kernel, outputs, targets, counts, parameter, view(self._loss), view(last.gradient[:n]))

    def _updates(self) -> list[Call]:
        """Return the optimiser's step for each parameter that did not take it inside its product."""
        kernel, view = getattr(self._kernels, self._rule.kernel), self._view
        calls: list[Call] = []
        for parameter, state in zip(self._parameters, self._states, strict=True):
            gradient = self._gradients.get(parameter.data_ptr())
            if gradient is None:
                continue
            flat = [view(t.flatten()) for t in (parameter, gradient, *state.values())]
            decay = self.config.weight_decay if parameter.dim() > 1 else 0.0
            calls.append(partial(kernel, *flat, view(self._now), decay, *self._rule.arguments))
        return calls


def _read_layers(network: DenseNetwork, capacity: int, new: Callable[..., Tensor]) -> list[_Layer]:
    """Return the network's layers, each with what follows the linear one, and new buffers for them."""
    layers: list[_Layer] = []
    for module in network:
        if isinstance(module, nn.Linear):
            width = module.out_features
            layers.append(
                _Layer(
                    weight=module.weight.detach(),
                    bias=None if module.bias is None else module.bias.detach(),
                    z=new(capacity, width),
                    a=new(capacity, width),
                    slope=new(capacity, width),
                    gradient=new(capacity, width),
                    sums=new(2, width, dtype=torch.float64),
                    rstd=new(width),
                )
            )
            continue
        layer = layers[-1]
        if isinstance(module, BatchNorm1d):
            layer.norm, layer.gamma, layer.bias = module, module.weight.detach(), module.bias.detach()
        elif isinstance(module, nn.Dropout):
            layer.dropout, layer.mask = module.p, torch.empty_like(layer.z)
        else:
            layer.activation = activations.ORDER.index(network.architecture["activation"])
    return layers


def _kernels_for(device: torch.device) -> ModuleType:
    """Return what stands between the matrix products on a device; numba is imported for the CPU alone."""
    if device.type != "cpu":
        return tensors
    from batchnorm.kernels import cpu

    return cpu


def _run(calls: list[Call]) -> None:
    for call in calls:
        call()


def _itself(tensor: Tensor) -> Tensor:
    return tensor
