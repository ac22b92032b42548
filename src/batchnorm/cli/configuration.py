"""The options that are the fields of a configuration, declared once for all commands that train."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any

import typer

from batchnorm.config import Activation, EngineName, Normalization, Optimizer, Schedule, TrainingConfig, Variance

_PLACE = "overrides"  # the parameter that stands for all of them


def _parse_sizes(text: str) -> tuple[int, ...]:
    """Read units per layer; of no text there are no hidden layers."""
    try:
        return tuple(map(int, text.split(","))) if text.strip() else ()
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 300,100") from None


_OPTIONS: dict[str, tuple[Any, str, dict[str, Any]]] = {  # by field its type, its help, and more of the option
    "seed": (int, "Draws weights, order, dropped units and noise.", {}),
    "hidden_layer_sizes": (Any, "Units per layer.", {"parser": _parse_sizes, "metavar": "SIZES"}),
    "activation": (Activation, "After each hidden layer.", {}),
    "normalization": (Normalization, "What stands before each activation.", {}),
    "normalize_logits": (bool, "Batch norm on the output layer too.", {}),
    "bn_momentum": (float, "Weight of the newest batch (1 − Keras' momentum).", {}),
    "bn_eps": (float, "Added to the variance.", {}),
    "bn_variance": (Variance, "What is averaged: torch's or TensorFlow's.", {}),
    "dropout": (float, "Share of hidden units dropped.", {}),
    "epochs": (int, "Times through the training set.", {}),
    "batch_size": (int, "Examples per step.", {}),
    "optimizer": (Optimizer, "What takes the steps.", {}),
    "learning_rate": (float, "The schedule's peak.", {}),
    "momentum": (float, "Of SGD.", {}),
    "nesterov": (bool, "Nesterov's momentum.", {}),
    "beta_1": (float, "What stays of AdamW's average of the gradient.", {}),
    "beta_2": (float, "What stays of its average of the squared gradient.", {}),
    "adam_eps": (float, "Added to the root of that average.", {}),
    "weight_decay": (float, "Not on batch norm and biases.", {}),
    "schedule": (Schedule, "Of the learning rate.", {}),
    "input_noise": (float, "Standard deviation of noise on the inputs.", {}),
    "label_smoothing": (float, "Share of the target spread over all classes.", {}),
    "evaluate_every": (int, "Epochs between evaluations.", {}),
    "early_stopping_patience": (int, "Stop after so many evaluations without improvement.", {}),
    "engine": (EngineName, "What computes the step.", {}),
}


def configured(defaults: TrainingConfig) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option per field of the configuration.

    They take the place of its parameter `overrides`, which gets those that were given, by field.

    Parameters
    ----------
    defaults : TrainingConfig
        Whose values their help shows.
    """

    def extend(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def extended(**arguments: Any) -> None:
            of_fields = {field.name: arguments.pop(field.name) for field in fields(TrainingConfig)}
            overrides = {name: value for name, value in of_fields.items() if value is not None}
            command(**arguments, **{_PLACE: overrides})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            parameters.extend(_parameters(defaults) if parameter.name == _PLACE else [parameter])
        extended.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        extended.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return extended

    return extend


def _parameters(defaults: TrainingConfig) -> list[inspect.Parameter]:
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[kind | None, typer.Option(help=_help(what, getattr(defaults, name)), **options)],
        )
        for name, (kind, what, options) in _OPTIONS.items()
    ]


def _help(what: str, value: Any) -> str:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    elif isinstance(value, tuple):
        value = ",".join(map(str, value))
    return what if value is None else f"{what} [default: {value}]"
