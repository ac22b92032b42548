"""One configuration for a run, and the recipes: its fields are the command line's options and the run folder's record.

Imports neither torch nor numpy, so that ``batchnorm --help`` answers at once.
"""

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, get_args

from batchnorm.errors import InputError

Activation = Literal["relu", "elu", "gelu", "silu", "tanh", "sigmoid", "selu", "leaky_relu", "identity"]
Normalization = Literal["batch", "none"]
Variance = Literal["biased", "unbiased"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "one-cycle", "cosine"]
EngineName = Literal["auto", "fused", "autograd"]
Task = Literal["classification", "labels", "regression"]  # of a data set: one class, several labels at once, or values


@dataclass(frozen=True)
class TrainingConfig:
    """What a run does, whatever data it sees: the network, the optimisation, the evaluations, the seed.

    Parameters
    ----------
    hidden_layer_sizes : tuple of int, default (300, 100)
        Units of each hidden layer.
    activation : str, default "relu"
        "relu", "elu", "gelu", "silu", "tanh", "sigmoid", "selu", "leaky_relu" or "identity".
    normalization : {"batch", "none"}, default "batch"
        Whether batch normalisation stands before each activation.
    normalize_logits : bool, default False
        Whether it also stands on the output layer.
    bn_momentum : float, default 0.1
        Weight of the newest batch in the running averages, torch's convention: 1 − 0.1 = 0.9 is what TensorFlow
        and Keras call momentum.
    bn_eps : float, default 1e-3
        Added to the variance.
    bn_variance : {"unbiased", "biased"}, default "unbiased"
        Which batch variance the running average takes up: torch's or TensorFlow's.
    dropout : float, default 0
        Share of the hidden units that a training step drops.
    epochs : int, default 10
    batch_size : int, default 128
        Examples per step; a last batch of one is merged into the one before.
    optimizer : {"sgd", "adamw"}, default "sgd"
    learning_rate : float, default 0.1
        The schedule's peak.
    momentum : float, default 0.9
        Of SGD; AdamW ignores it.
    nesterov : bool, default True
        Whether SGD's momentum is Nesterov's.
    beta_1, beta_2 : float, default 0.9 and 0.999
        How much of AdamW's averages of the gradient and of its square stays in a step.
    adam_eps : float, default 1e-8
        What AdamW adds to the root of the averaged square.
    weight_decay : float, default 0
        On the weights of linear layers; never on biases or batch-norm parameters.
    schedule : {"constant", "one-cycle", "cosine"}, default "one-cycle"
        How the learning rate goes over the steps.
    input_noise : float, default 0
        Standard deviation of the normal noise that a training step adds to its inputs, after they were scaled.
    label_smoothing : float, default 0
        Share of the target that is spread over all classes, or of each label's over 0 and 1; values have none.
    evaluate_every : int, default 1
        Evaluate after epoch 0, every so many epochs, and after the last.
    early_stopping_patience : int, optional
        Stop after so many evaluations without a better validation accuracy, or of values a smaller validation loss, and
        keep the best weights.
    engine : {"auto", "fused", "autograd"}, default "auto"
        What computes the training step: "fused" trains a `DenseNetwork` several times as fast, "autograd" any network;
        "auto" takes the faster one that can. On the CPU "fused" needs numba, ``pip install 'batchnorm[fast]'``; without
        it dropout and noise draw other bits.
    seed : int, default 0
        Draws the weights, the order of the examples, the dropped units and the noise.

    Raises
    ------
    InputError
        If a value is outside its limits.
    """

    hidden_layer_sizes: tuple[int, ...] = (300, 100)
    activation: Activation = "relu"
    normalization: Normalization = "batch"
    normalize_logits: bool = False
    bn_momentum: float = 0.1
    bn_eps: float = 1e-3
    bn_variance: Variance = "unbiased"
    dropout: float = 0.0
    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    beta_1: float = 0.9
    beta_2: float = 0.999
    adam_eps: float = 1e-8
    weight_decay: float = 0.0
    schedule: Schedule = "one-cycle"
    input_noise: float = 0.0
    label_smoothing: float = 0.0
    evaluate_every: int = 1
    early_stopping_patience: int | None = None
    engine: EngineName = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden_layer_sizes", _check_sizes(self.hidden_layer_sizes))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        for name, limits in LIMITS.items():
            value = getattr(self, name)
            if not (value is None and name == "early_stopping_patience"):
                object.__setattr__(self, name, limits.check(name, value))
        for name in ("normalize_logits", "nesterov"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}, expected True or False")
        if self.normalization == "batch" and self.batch_size < 2:
            raise InputError(
                f"batch_size is {self.batch_size}, expected at least 2 with batch normalisation: "
                "a single example has no variance"
            )
        if self.nesterov and self.optimizer == "sgd" and self.momentum == 0:
            raise InputError("nesterov needs a momentum above 0: set momentum, or nesterov to False")

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that describe the network, as `DenseNetwork` takes them."""
        return {name: getattr(self, name) for name in _ARCHITECTURE}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from what `to_dict` returned, refusing unknown fields."""
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise InputError(f"the configuration has unknown fields: {', '.join(unknown)}")
        return cls(**values)


_ARCHITECTURE = (
    "hidden_layer_sizes",
    "activation",
    "normalization",
    "normalize_logits",
    "bn_momentum",
    "bn_eps",
    "bn_variance",
    "dropout",
)


class Limits(NamedTuple):
    """Which numbers an option may be."""

    kind: type[int] | type[float]
    low: float
    high: float
    excluded: tuple[float, ...] = ()

    def check(self, name: str, value: Any) -> int | float:
        """Return the value as a plain int or float, or say what was expected."""
        try:
            number = operator.index(value) if self.kind is int else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool | str) or not self.low <= number <= self.high or number in self.excluded:
            raise InputError(f"{name} is {value!r}, expected {self.expected(value)}")
        return number

    def expected(self, value: Any) -> str:
        """Say what was expected in the place of a value; float32's limits matter to what is beyond them alone."""
        if isinstance(value, int | float):
            if self.high == _LARGEST and value > self.high:
                return f"{self} and at most {self.high:g}"
            if self.low == _SMALLEST and 0 < value < self.low:
                return f"{self} and at least {self.low:g}: it is 0 in float32"
        return str(self)

    def __str__(self) -> str:
        kind = "a whole number" if self.kind is int else "a number"
        is_open = self.high >= _LARGEST
        low = 0 if self.low == _SMALLEST else self.low
        above = "above" if low in self.excluded or low < self.low else "at least" if is_open else "from"
        if is_open:
            return f"{kind} {above} {low:g}"
        return f"{kind} {above} {low:g} {'below' if self.high in self.excluded else 'to'} {self.high:g}"


_SMALLEST, _LARGEST = 2.0**-149, (2 - 2**-23) * 2.0**127  # above 0 that a float32 holds
_POSITIVE = Limits(float, _SMALLEST, _LARGEST)
_NOT_NEGATIVE = Limits(float, 0, _LARGEST)
_COUNT = Limits(int, 1, math.inf)
_FRACTION = Limits(float, 0, 1, excluded=(1,))
LIMITS = {
    "bn_momentum": Limits(float, _SMALLEST, 1),
    "bn_eps": _POSITIVE,
    "dropout": _FRACTION,
    "epochs": _COUNT,
    "batch_size": _COUNT,
    "learning_rate": _POSITIVE,
    "momentum": _FRACTION,
    "beta_1": _FRACTION,
    "beta_2": _FRACTION,
    "adam_eps": _POSITIVE,
    "weight_decay": _NOT_NEGATIVE,
    "input_noise": _NOT_NEGATIVE,
    "label_smoothing": _FRACTION,
    "evaluate_every": _COUNT,
    "early_stopping_patience": _COUNT,
    "seed": Limits(int, 0, 2**63 - 1),
}
N_SEEDS = Limits(int, 2, 10_000)  # of a training from several
N_COMPARED_SEEDS, N_JOBS = Limits(int, 1, 1000), Limits(int, 1, 1024)  # of a comparison
_CHOICES: dict[str, tuple[str, ...]] = {
    "activation": get_args(Activation),
    "normalization": get_args(Normalization),
    "bn_variance": get_args(Variance),
    "optimizer": get_args(Optimizer),
    "schedule": get_args(Schedule),
    "engine": get_args(EngineName),
}


def _check_sizes(sizes: Any) -> tuple[int, ...]:
    try:
        checked = tuple(operator.index(size) for size in sizes)
    except TypeError:
        checked = (0,)
    if not all(1 <= size < 2**31 for size in checked) or isinstance(sizes, bytes):
        raise InputError(f"hidden_layer_sizes is {sizes!r}, expected positive whole numbers such as (300, 100)")
    return checked


recipes: Mapping[str, TrainingConfig] = MappingProxyType(
    {
        # The tutorial to the letter. Its momentum of 0.9 is TensorFlow's: 1 - 0.9 = 0.1 here. TensorFlow stores
        # the biased variance of a dense layer's output. eps is the default of tf.layers.batch_normalization.
        "classic": TrainingConfig(
            hidden_layer_sizes=(300, 100),
            activation="elu",
            normalization="batch",
            normalize_logits=True,
            bn_momentum=0.1,
            bn_eps=1e-3,
            bn_variance="biased",
            epochs=40,
            batch_size=50,
            optimizer="sgd",
            learning_rate=0.01,
            momentum=0.0,
            nesterov=False,
            schedule="constant",
            evaluate_every=5,
        ),
    }
)
"""Configurations that have a name, by it: "classic" is a TensorFlow 1 tutorial to the letter."""

# What is compared without another configuration: few epochs, each of which is evaluated.
COMPARED = replace(recipes["classic"], epochs=10, evaluate_every=1)


def as_option(name: str, value: Any) -> list[str]:
    """Return a field of a configuration as the words that set it on the command line.

    Examples
    --------
    >>> as_option("hidden_layer_sizes", (300, 100)), as_option("nesterov", False)
    (['--hidden-layer-sizes', '300,100'], ['--no-nesterov'])
    """
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return [f"--{option}", text]
