"""What the estimators' parameters may be, and what they mean for a training."""

import math
import numbers
import warnings
from collections.abc import Mapping, Set
from typing import Any, get_args

from batchnorm.config import LIMITS, Activation, EngineName, Limits, Optimizer, Schedule, TrainingConfig
from batchnorm.errors import InputError
from batchnorm.losses import Loss
from batchnorm.training import batch_slices

STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 1000, 20, 200  # of epochs="auto"
LARGEST_AUTO_BATCH = 32
AUTO_NOISE, MOST_NOISE = 0.4, 0.2  # of input_noise="auto": variance for each column per row; deviation
# Of alpha, as decay in a step each time that fewer examples stand behind the weights; values are learnt more closely.
_FEW_CLASSES, _FEW_VALUES = 0.6, 0.03
_MOST_TAKEN = 0.9  # of a weight in a step, by that decay
FEWEST_IN_BATCH = 4  # smaller ones are normalised with the rows before them
STREAM_RATE = 0.3  # of the peak of an annealed schedule: the rate of a training whose end nobody knows

# The estimator's name, which is MLPClassifier's, for a field of the configuration.
_FIELD = {
    "alpha": "weight_decay",
    "learning_rate_init": "learning_rate",
    "epsilon": "adam_eps",
}
_NUMBERS = ("dropout", "input_noise", "label_smoothing", "bn_momentum", "bn_eps", "momentum", "beta_1", "beta_2")
_LIMITS: dict[str, Limits] = {
    **{name: LIMITS[_FIELD.get(name, name)] for name in (*_FIELD, *_NUMBERS)},
    "batch_size": Limits(int, 2, math.inf),  # a single example has no variance
    "validation_fraction": Limits(float, 0, 1, excluded=(0, 1)),
    **dict.fromkeys(("epochs", "max_iter"), LIMITS["epochs"]),
    "tol": Limits(float, -math.inf, math.inf),  # -inf: never stop for that reason
    "n_iter_no_change": Limits(float, 1, math.inf),  # infinity: likewise
    "power_t": Limits(float, 0, math.inf, excluded=(math.inf,)),
    "max_fun": Limits(int, 1, math.inf),
    "quantile": Limits(float, 0, 1, excluded=(0, 1)),
}
_SWITCHES = ("normalize_logits", "standardize", "shuffle", "nesterovs_momentum", "warm_start", "early_stopping")
_CHOICES: dict[str, tuple[Any, ...]] = {
    "activation": (*get_args(Activation), "logistic"),
    "optimizer": get_args(Optimizer),
    "schedule": (*get_args(Schedule), "invscaling", "adaptive"),
    "statistics": ("running", "population"),
    "engine": get_args(EngineName),
    "solver": (None, *get_args(Optimizer), "adam", "lbfgs"),
    "learning_rate": (None, "constant", "invscaling", "adaptive"),
    "loss": ("squared_error", "absolute_error", "quantile", "poisson"),
}
_AUTO = ("batch_size", "epochs", "input_noise", "max_iter")


def check_parameters(name: str, parameters: dict[str, Any]) -> None:
    """Check the parameters of the estimator of this name.

    Raises
    ------
    ValueError
        Which parameter is wrong, what it may be, and what it is.
    """

    def refuse(parameter: str, expected: object) -> None:
        raise ValueError(
            f"The {parameter!r} parameter of {name} must be {expected}. Got {parameters[parameter]!r} instead."
        )

    for parameter, value in parameters.items():
        if parameter in _CHOICES and value not in _CHOICES[parameter]:
            refuse(parameter, f"one of {', '.join(map(repr, _CHOICES[parameter]))}")
        if parameter in _SWITCHES and value not in (True, False):
            refuse(parameter, "True or False")
        if parameter in _LIMITS:
            automatic = parameter in _AUTO
            if automatic and isinstance(value, str) and value == "auto":
                continue
            try:
                _LIMITS[parameter].check(parameter, value)
            except InputError:
                refuse(parameter, f"{_LIMITS[parameter].expected(value)}{' or auto' if automatic else ''}")
    sizes = _listed(parameters["hidden_layer_sizes"])
    if not all(isinstance(size, numbers.Integral) and not isinstance(size, bool) and int(size) >= 1 for size in sizes):
        kind = type(parameters["hidden_layer_sizes"]).__name__
        refuse("hidden_layer_sizes", f"a whole number at least 1, or a tuple, list or array of such; it is a {kind}")
    categories = parameters["categorical_features"]
    if isinstance(categories, str) and categories != "from_dtype":
        refuse("categorical_features", "None, 'from_dtype', or names, numbers or a mask of columns")
    weights = parameters.get("class_weight")
    if not (
        weights is None or isinstance(weights, dict | list) or (isinstance(weights, str) and weights == "balanced")
    ):
        refuse("class_weight", "None, 'balanced', a dict of class to weight, or a list of such dicts")


def _listed(sizes: Any) -> list[Any]:
    """Return the parts of an ordered collection, or the thing itself: text and mappings are no lists of numbers."""
    if isinstance(sizes, str | bytes | Mapping | Set) or not hasattr(sizes, "__len__"):
        return [sizes]
    return list(sizes) if getattr(sizes, "shape", None) != () else [sizes]


def optimizer_of(parameters: dict[str, Any]) -> Any:
    """Return the optimiser: `solver`, which is MLPClassifier's word for it, where it is given, or ours."""
    solver = parameters["solver"]
    return parameters["optimizer"] if solver is None else "sgd" if solver == "sgd" else "adamw"


def schedule_of(parameters: dict[str, Any]) -> Any:
    """Return how the learning rate goes: as `learning_rate` says, MLPClassifier's word for it, where it is given.

    As there, it is constant for any optimiser but SGD.
    """
    rate = parameters["learning_rate"]
    if rate is None:
        return parameters["schedule"]
    return rate if optimizer_of(parameters) == "sgd" else "constant"


def takes_batches(estimator: Any) -> bool:
    """Tell whether an estimator has `partial_fit`, or say why not: as in scikit-learn, not with lbfgs."""
    if estimator.solver == "lbfgs":
        raise AttributeError("partial_fit is not available with solver='lbfgs': set solver to 'adam' or 'sgd'")
    return True


def is_annealed(parameters: dict[str, Any]) -> bool:
    """Tell whether the learning rate ends at 0, so that the number of epochs is part of the schedule."""
    return schedule_of(parameters) in ("one-cycle", "cosine")


def quantile_of(parameters: dict[str, Any]) -> float:
    """Return the quantile that a regressor of such a loss predicts: the absolute error is least at the median."""
    return 0.5 if parameters["loss"] == "absolute_error" else float(parameters["quantile"])


def loss_of_values(parameters: dict[str, Any]) -> Loss:
    """Return the loss that a regressor asks for."""
    name = parameters["loss"]
    return Loss("quantile", quantile_of(parameters)) if name in ("absolute_error", "quantile") else Loss(name)


def for_one_epoch(parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of one epoch in a training whose end nobody knows: a rate cannot be annealed to it."""
    rate = {"schedule": "constant", "learning_rate_init": STREAM_RATE * parameters["learning_rate_init"]}
    noise = {"input_noise": 0.0} if parameters["input_noise"] == "auto" else {}  # what comes once is not overfitted
    return parameters | {"epochs": 1, "max_iter": "auto"} | noise | (rate if is_annealed(parameters) else {})


def is_streamed(parameters: dict[str, Any], n_examples: int) -> bool:
    """Tell whether batches of a fit, in order or small, say too little of all data to be normalised on their own."""
    size = batch_size_of(parameters)
    return size < n_examples and (size < FEWEST_IN_BATCH or not parameters["shuffle"])


def wanted_epochs(parameters: dict[str, Any], n_batches: int) -> float:
    """Return how long a training is without a cap; infinity: until nothing improves."""
    if parameters["epochs"] != "auto":
        return int(parameters["epochs"])
    if not is_annealed(parameters):
        return math.inf
    return min(max(math.ceil(STEPS / n_batches), FEWEST_EPOCHS), MOST_EPOCHS)


def _epochs(parameters: dict[str, Any], n_batches: int) -> int:
    """Return how long a training is at most."""
    wanted, cap = wanted_epochs(parameters, n_batches), parameters["max_iter"]
    if cap == "auto":
        cap = wanted if math.isfinite(wanted) else MOST_EPOCHS
    if parameters["solver"] == "lbfgs":
        cap = min(cap, parameters["max_fun"])
    return int(min(wanted, cap))


def batch_size_of(parameters: dict[str, Any]) -> int:
    """Return how many examples a step asks for."""
    size = parameters["batch_size"]
    return LARGEST_AUTO_BATCH if size == "auto" else int(size)


def make_config(
    parameters: dict[str, Any], n_examples: int, seed: int, *, concentration: float = 1.0, n_columns: int = 0
) -> TrainingConfig:
    """Return the configuration of a training.

    Parameters
    ----------
    parameters : dict
        Of the estimator, checked.
    n_examples : int
        Of an epoch.
    seed : int
    concentration : float, default 1
        How many times fewer examples stand behind them; the weights decay as many times faster.
    n_columns : int, default 0
        Of dense inputs: noise on sparse ones would fill them.
    """
    p = parameters
    size = batch_size_of(p)
    # Divided by the batch asked for, not by what it holds: no matter how often every example counts or is there.
    decay = p["alpha"] / size
    if p["learning_rate_init"] * decay >= 1:
        raise ValueError(
            f"alpha={p['alpha']:g} takes a share of learning_rate_init · alpha / batch_size = "
            f"{p['learning_rate_init'] * decay:g} of each weight in a step: it must stay below 1"
        )
    # Few heavy examples are soon learnt by heart, whatever the batch.
    more = decay + (_FEW_VALUES if "loss" in p else _FEW_CLASSES) * p["alpha"] * (concentration - 1)
    decay = max(decay, min(more, _MOST_TAKEN / p["learning_rate_init"]))
    n_batches = len(batch_slices(n_examples, size))
    noise = p["input_noise"]
    if noise == "auto":  # a single batch holds weights that are copies to the bit: which noise would not be
        noise = (
            min(MOST_NOISE, math.sqrt(AUTO_NOISE * n_columns * concentration / n_examples)) if n_batches > 1 else 0.0
        )
    if p["solver"] == "lbfgs":
        warnings.warn("solver='lbfgs' takes no batches, which batch norm lives on: AdamW is used", stacklevel=5)
    return TrainingConfig(
        hidden_layer_sizes=tuple(int(size) for size in _listed(p["hidden_layer_sizes"])),
        activation="sigmoid" if p["activation"] == "logistic" else p["activation"],
        normalize_logits=bool(p["normalize_logits"]),
        bn_momentum=p["bn_momentum"],
        bn_eps=p["bn_eps"],
        bn_variance="biased",  # it does not depend on the scale of sample weights
        dropout=p["dropout"],
        epochs=_epochs(p, n_batches),
        batch_size=size,
        optimizer=optimizer_of(p),
        learning_rate=p["learning_rate_init"],
        momentum=p["momentum"],
        nesterov=bool(p["nesterovs_momentum"] and p["momentum"] > 0),
        beta_1=p["beta_1"],
        beta_2=p["beta_2"],
        adam_eps=p["epsilon"],
        weight_decay=decay,
        schedule=schedule_of(p) if is_annealed(p) else "constant",  # the others depend on how the training goes
        input_noise=noise,
        engine=p["engine"],
        seed=seed,
    )


def unfinished(parameters: dict[str, Any], epochs: int) -> str:
    """Say that a training was not over after so many epochs."""
    if is_annealed(parameters) or parameters["epochs"] != "auto":
        cap = "max_fun" if parameters["solver"] == "lbfgs" and parameters["max_fun"] == epochs else "max_iter"
        return (
            f"{cap}={epochs} ended the training before its time: increase it or, if that is how long it is to be, set "
            f"epochs={epochs} and no cap"
        )
    return (
        f"the loss still improved by more than tol={parameters['tol']:g} after max_iter={epochs} epochs: "
        "increase max_iter, or take an annealed schedule, which comes to its end by itself"
    )
