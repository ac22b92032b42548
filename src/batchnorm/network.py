"""The network: linear layers, each with batch normalisation before its activation."""

import copy
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, get_args

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from batchnorm import functional
from batchnorm.config import Activation, Normalization, TrainingConfig, Variance
from batchnorm.errors import InputError
from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.kernels.draws import drawn_mask_like
from batchnorm.memory import check_memory
from batchnorm.network_table import network_html
from batchnorm.toolkit.model import affine, as_tracking, deep_copy, has_hooks


class BatchNorm1d(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, with the choice of which variance its running average takes up.

    Parameters
    ----------
    num_features : int
    eps : float, default 1e-3
    momentum : float or None, default 0.1
        Weight of the newest batch (TensorFlow and Keras: of the old value, so their 0.9). None: the plain mean over all
        batches so far.
    stored_variance : {"unbiased", "biased"}, default "unbiased"
        "unbiased" is torch's, to the bit; "biased" is TensorFlow's for dense layers, and Keras'.
    dtype : torch.dtype, optional
        torch's default one without it.

    See Also
    --------
    batchnorm.functional : The formula.
    """

    running_mean: Tensor  # never None here: a layer without running averages would have nothing to infer with
    running_var: Tensor
    num_batches_tracked: Tensor
    # Of the batch in training, set by the engine: how often each example counts (batch,), and in a stream the batch's
    # share in the population that it is normalised with, which the running averages are of.
    counts: Tensor | None
    share: float | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-3,
        momentum: float | None = 0.1,
        stored_variance: Variance = "unbiased",
        dtype: torch.dtype | None = None,
    ):
        if stored_variance not in get_args(Variance):
            raise InputError(f"stored_variance is {stored_variance!r}, expected 'unbiased' or 'biased'")
        super().__init__(num_features, eps=eps, momentum=momentum, dtype=dtype)
        self.stored_variance, self.counts, self.share = stored_variance, None, None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (batch, features): with the batch's moments in training, else with the running averages."""
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            pass  # it knows no Proxy
        elif _is_traced(self, x):
            return _traced_as_a_whole(self, x)
        # Written out as torch does it where it is torch's: TorchScript, which compiles this, knows no super().
        self._check_input_dim(x)
        moving = self.training and self.track_running_stats
        momentum = 0.0 if self.momentum is None else self.momentum
        if moving:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(self.num_batches_tracked)
        if moving and (self.counts is not None or self.share is not None):
            return self._normalize_told(x, momentum)
        if moving and self.stored_variance == "biased":
            # torch's kernel only stores the unbiased variance: let it write into scratch and take the bias back.
            mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
            y = F.batch_norm(x, mean, var, self.weight, self.bias, training=True, momentum=1.0, eps=self.eps)
            n = x.numel() // self.num_features
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(var * ((n - 1) / n), momentum)
            return y
        kept = not self.training or self.track_running_stats
        running_mean, running_var = (self.running_mean, self.running_var) if kept else (None, None)
        by_batch = self.training or running_mean is None
        return F.batch_norm(x, running_mean, running_var, self.weight, self.bias, by_batch, momentum, self.eps)

    @torch.jit.unused
    def _normalize_told(self, x: Tensor, momentum: float) -> Tensor:
        """Normalise a batch of which the engine has told something."""
        moments, stored = functional.batch_moments(x, self.counts), self.stored_variance
        if self.share is not None:
            moments = functional.population_moments(self.running_mean, self.running_var, moments, self.share)
            momentum, stored = 1.0, "biased"
        functional.update_running(self.running_mean, self.running_var, moments, momentum, stored)
        return functional.normalize(x, moments.mean, moments.var, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Name the convention in the printed network."""
        return f"{super().extra_repr()}, stored_variance={self.stored_variance!r}"  # type: ignore[no-untyped-call]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, which on the CPU draws as the fused engine does: faster than torch does."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop units (batch, features) in training, and scale up the others."""
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            if _is_traced(self, x):
                return _traced_as_a_whole(self, x)
            return x * drawn_mask_like(x, self.p) if self.training else x
        return F.dropout(x, self.p, self.training)


def _is_traced(layer: nn.Module, x: Any) -> bool:
    """Tell whether `torch.fx` looks into a layer, as part of a model: it keeps torch's own alone whole."""
    return isinstance(x, Proxy) and getattr(x.tracer, "root", None) is not layer


def _traced_as_a_whole(layer: nn.Module, x: Any) -> Tensor:
    """Return what stands for a layer's output, as `torch.fx` records one of torch's own."""
    called: Tensor = x.tracer.create_proxy("call_module", x.tracer.path_of_module(layer), (x,), {})
    return called


def layer_name(place: int, n: int) -> str:
    """Return what the linear layer at a place, from 0, of a `DenseNetwork` that has n is called in words."""
    return f"hidden {place + 1}" if place < n - 1 else "output"


class DenseNetwork(nn.Sequential):
    """A dense network: linear → batch normalisation → activation, repeated, and an output layer of logits.

    It is a `torch.nn.Sequential` of torch's own layers (the batch-norm layers are `torch.nn.BatchNorm1d`), so its
    `state_dict` loads into one written by hand. A linear layer that feeds a batch-norm layer has no bias: the mean
    subtraction would cancel it. A new network is in inference mode; `batchnorm.fit` puts it into training mode for
    the time of the training.

    Parameters
    ----------
    in_features : int
    hidden_layer_sizes : sequence of int
        Units per hidden layer; may be empty.
    n_classes : int
        Outputs: one per class, label or value.
    activation : str, default "relu"
        One of those that `TrainingConfig` names.
    normalization : {"batch", "none"}, default "batch"
    normalize_logits : bool, default False
        Whether a batch-norm layer follows the output layer too.
    bn_momentum : float, default 0.1
        Weight of the newest batch in the running averages (TensorFlow and Keras: of the old value, so their 0.9).
    bn_eps : float, default 1e-3
        Added to the variance.
    bn_variance : {"unbiased", "biased"}, default "unbiased"
        Which batch variance the running average takes up: torch's or TensorFlow's.
    dropout : float, default 0
        Share of hidden units dropped in training, after each activation.
    generator : torch.Generator, optional
        Draws the weights; torch's global one by default. Hidden layers: He's truncated normal; output layer:
        Glorot's uniform; biases 0.
    dtype : torch.dtype, optional
        Of the parameters; torch's default one without it.

    Raises
    ------
    InputError
        If a size is not positive or an option is unknown.

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2 (where to normalise).

    Examples
    --------
    >>> network = DenseNetwork(784, (300, 100), 10, activation="elu", normalize_logits=True)
    >>> network(torch.zeros(2, 28, 28)).shape
    torch.Size([2, 10])
    >>> network.training
    False
    """

    def __init__(
        self,
        in_features: int,
        hidden_layer_sizes: Sequence[int],
        n_classes: int,
        *,
        activation: Activation = "relu",
        normalization: Normalization = "batch",
        normalize_logits: bool = False,
        bn_momentum: float = 0.1,
        bn_eps: float = 1e-3,
        bn_variance: Variance = "unbiased",
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
    ):
        in_features = _check_size("in_features", in_features)
        n_classes = _check_size("n_classes", n_classes)
        config = TrainingConfig(  # the one place that checks each option's limits
            hidden_layer_sizes=tuple(hidden_layer_sizes),
            activation=activation,
            normalization=normalization,
            normalize_logits=normalize_logits,
            bn_momentum=bn_momentum,
            bn_eps=bn_eps,
            bn_variance=bn_variance,
            dropout=dropout,
        )
        super().__init__()
        self.in_features, self.n_classes = in_features, n_classes
        self.architecture = config.architecture

        sizes = [in_features, *config.hidden_layer_sizes]
        for fan_in, fan_out in itertools.pairwise(sizes):
            self._append_linear(fan_in, fan_out, he_truncated_normal_, normalization == "batch", generator, dtype)
            self.append(ACTIVATIONS[activation].module())
            if dropout > 0:
                self.append(Dropout(dropout))
        normalize_output = normalize_logits and normalization == "batch"
        self._append_linear(sizes[-1], n_classes, glorot_uniform_, normalize_output, generator, dtype)
        self.eval()

    @classmethod
    def from_config(cls, config: TrainingConfig, in_features: int, n_classes: int) -> Self:
        """Build the network that a configuration describes, in float32, its weights drawn with its seed."""
        check_memory((in_features, *config.hidden_layer_sizes, n_classes))
        generator = torch.Generator().manual_seed(config.seed)
        return cls(in_features, n_classes=n_classes, generator=generator, dtype=torch.float32, **config.architecture)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, n_classes) for inputs (batch, in_features), or of any shape that flattens to it."""
        x = x.flatten(1)  # (batch, in_features)
        for layer in self:
            x = layer(x)
        return x  # (batch, n_classes)

    def folded(self) -> nn.Sequential:
        """Return a copy that computes what this network now computes in inference, without any batch-norm work."""
        return nn.Sequential(nn.Flatten(), *fold_layers(layer for layer in self if not isinstance(layer, Dropout)))

    def _repr_html_(self) -> str:
        return network_html(self, [self.in_features, *self.architecture["hidden_layer_sizes"], self.n_classes])

    def alteration(self) -> str | None:
        """Say how this is no longer the network that `__init__` builds, or return None if it is.

        Only then may another way of computing it take its place.
        """
        if type(self) is not DenseNetwork:
            return f"it is a {type(self).__name__}, not a DenseNetwork"
        kinds, options, shapes = _built(self.in_features, self.n_classes, tuple(self.architecture.items()))
        modules = dict(self.named_modules())
        if _kinds(modules) != kinds or [module.extra_repr() for module in modules.values()] != options:
            return "its layers are not those that it was built with"
        if _shapes(modules) != shapes:
            return "its tensors are not those that it was built with"
        tensors = [tensor for module in modules.values() for _, tensor in _tensors(module)]
        if len({id(tensor) for tensor in tensors}) < len(tensors):
            return "layers share a tensor"
        if any(type(tensor) not in (Tensor, nn.Parameter) for tensor in tensors):
            return "its tensors are of a class that may compute otherwise"
        if has_hooks(self) or any("forward" in vars(module) for module in modules.values()):
            return "it has hooks, which would not be called"
        return None

    def __getitem__(self, index: slice | int) -> nn.Module:
        """Return a layer, or a slice of them as a plain `torch.nn.Sequential`."""
        layers = list(self)[index]
        return nn.Sequential(*layers) if isinstance(layers, list) else layers

    def _append_linear(
        self,
        fan_in: int,
        fan_out: int,
        initialize_: Callable[[Tensor, torch.Generator | None], Tensor],
        normalized: bool,
        generator: torch.Generator | None,
        dtype: torch.dtype | None,
    ) -> None:
        linear = _unfilled_linear(fan_in, fan_out, bias=not normalized, dtype=dtype)
        if _holds_values(linear.weight):
            initialize_(linear.weight, generator)
        self.append(linear)
        if normalized:
            bn = self.architecture
            self.append(BatchNorm1d(fan_out, bn["bn_eps"], bn["bn_momentum"], bn["bn_variance"], dtype))
        else:
            nn.init.zeros_(linear.bias)


def copied(network: DenseNetwork, device: torch.device) -> DenseNetwork:
    """Copy a network to a device, in a fraction of `copy.deepcopy`'s time if its layers are of the kinds it builds."""
    known = (BatchNorm1d, nn.Linear, Dropout, *(entry.module for entry in ACTIVATIONS.values()))
    plain = type(network) is DenseNetwork and all(type(layer) in known for layer in network)
    return _copied(network, {}, device) if plain else copy.deepcopy(network).to(device)


def _copied(module: Any, tensors: dict[int, Tensor], device: torch.device) -> Any:
    """Copy a module that consists of tensors, each once, of modules, and of what does not change."""
    new = module.__new__(type(module))
    vars(new).update({k: v.copy() if isinstance(v, dict | set) else v for k, v in vars(module).items()})
    for held in (new._parameters, new._buffers):
        for name, tensor in held.items():
            if tensor is not None and id(tensor) not in tensors:
                copied = tensor.detach().to(device, copy=True)
                is_parameter = isinstance(tensor, nn.Parameter)
                tensors[id(tensor)] = nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
            held[name] = tensors.get(id(tensor))
    new._modules.update({name: _copied(child, tensors, device) for name, child in module._modules.items()})
    return new


@torch.no_grad()
def fold_layers(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """Return copies of layers that compute in inference what these compute, one after the other.

    Each `BatchNorm1d` that follows a linear layer becomes part of it, folded in float64.

    Parameters
    ----------
    layers : iterable of torch.nn.Module
        In the order of their execution. They are not changed.

    Returns
    -------
    list of torch.nn.Module

    References
    ----------
    Ioffe and Szegedy 2015, arXiv:1502.03167, Algorithm 2, step 11.

    Examples
    --------
    >>> fold_layers([nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3), nn.ReLU()])
    [Linear(in_features=2, out_features=3, bias=True), ReLU()]
    """
    folded: list[nn.Module] = []
    before: nn.Module | None = None
    for layer in layers:
        if isinstance(layer, nn.BatchNorm1d) and layer.running_mean is not None and type(before) is nn.Linear:
            folded[-1] = _folded_linear(before, layer)
        else:
            folded.append(deep_copy(layer))
        before = layer
    return folded


class _UnfilledLinear(nn.Linear):
    def reset_parameters(self) -> None:
        """Draw nothing: torch's global generators are another thread's, perhaps."""


def _unfilled_linear(in_features: int, out_features: int, **options: Any) -> nn.Linear:
    """Return a linear layer of torch's whose parameters are still to be filled."""
    linear: nn.Linear = _UnfilledLinear(in_features, out_features, **options)
    linear.__class__ = nn.Linear
    return linear


def _holds_values(parameter: Tensor) -> bool:
    """Tell whether there is anything to fill: not on the device meta, nor in a mode of fake tensors."""
    return not parameter.is_meta and type(parameter) is nn.Parameter


def _folded_linear(linear: nn.Linear, norm: nn.BatchNorm1d) -> nn.Linear:
    scale, shift = (tensor.to(linear.weight.device) for tensor in affine(as_tracking(norm)))
    bias = None if linear.bias is None else linear.bias.double()
    weight, bias = functional.fold_into_preceding(linear.weight.double(), bias, scale, shift)
    new = _unfilled_linear(linear.in_features, linear.out_features, device="meta")
    new.weight = nn.Parameter(weight.to(linear.weight.dtype))
    new.bias = nn.Parameter(bias.to(linear.weight.dtype))
    return new


@functools.lru_cache(maxsize=64)
def _built(
    in_features: int, n_classes: int, architecture: tuple[tuple[str, Any], ...]
) -> tuple[dict[str, type[nn.Module]], list[str], dict[tuple[str, str], torch.Size]]:
    """Return the types of a new network's modules, the options that they print, and the shapes of its tensors."""
    with torch.device("meta"):
        modules = dict(DenseNetwork(in_features, n_classes=n_classes, **dict(architecture)).named_modules())
    return _kinds(modules), [module.extra_repr() for module in modules.values()], _shapes(modules)


def _kinds(modules: dict[str, nn.Module]) -> dict[str, type[nn.Module]]:
    return {name: type(module) for name, module in modules.items()}


def _shapes(modules: dict[str, nn.Module]) -> dict[tuple[str, str], torch.Size]:
    """Return the shapes of those tensors that go into a `state_dict`, by module and name."""
    return {
        (place, name): tensor.shape
        for place, module in modules.items()
        for name, tensor in _tensors(module)
        if name not in module._non_persistent_buffers_set
    }


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield a module's own parameters and buffers, by name."""
    for name, tensor in itertools.chain(module._parameters.items(), module._buffers.items()):
        if tensor is not None:
            yield name, tensor


def _check_size(name: str, size: int) -> int:
    """Return a size as a plain int, which goes into a run's files."""
    try:
        checked = operator.index(size)
    except TypeError:
        raise InputError(f"{name} is {size!r}, expected a whole number") from None
    if checked < 1:
        raise InputError(f"{name} is {size}, expected at least 1")
    return checked


def input_dtype(network: nn.Module) -> torch.dtype:
    """Return the type that a network takes inputs in: that of its first floating-point parameter."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)


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
