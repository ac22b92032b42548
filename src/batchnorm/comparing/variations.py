"""What is varied: names and values, as they are typed or given, and the arms that they make."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from batchnorm.config import LIMITS, Limits, TrainingConfig
from batchnorm.errors import InputError
from batchnorm.files import checksum

DEFAULT_VARIATIONS: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"normalization": ("batch", "none"), "learning_rate": (0.01, 0.1, 1.0, 10.0, 100.0)}
)
_OWN = {  # besides the configuration's fields
    "depth": Limits(int, 1, 1000),
    "initial_scale": Limits(float, 0, 1e30, excluded=(0,)),
}
_FIELDS = {field.name: field for field in fields(TrainingConfig) if field.name != "seed"}
NAMES = (*_FIELDS, *_OWN)  # of what can be varied
_SAID = {True: "yes", False: "no", None: "none", (): "none"}  # of a value; 1 and 0 are no flags
_LONGEST_NAME = 150  # of a folder, in characters
_MOST_ARMS = 1000


@dataclass(frozen=True)
class Arm:
    """One choice among the variations: what is trained from several seeds.

    Parameters
    ----------
    values : mapping of str to value
        Of what is varied.
    config : TrainingConfig
        With the first seed.
    initial_scale : float
        What the weights are multiplied with, once they are drawn.
    """

    values: Mapping[str, Any]
    config: TrainingConfig
    initial_scale: float

    @property
    def name(self) -> str:
        """What it is called to people: "normalization=batch, learning_rate=0.1"."""
        return ", ".join(f"{name}={said(value)}" for name, value in self.values.items())

    @property
    def folder_name(self) -> str:
        """What its runs' folders are called."""
        name = ",".join(f"{name}={said(value)}" for name, value in sorted(self.values.items()))
        return name if len(name) <= _LONGEST_NAME else f"arm-{checksum(name)[:16]}"

    def without(self, name: str) -> tuple[tuple[str, Any], ...]:
        """Return what tells it from arms that differ in more than one of the variations."""
        return tuple((other, value) for other, value in self.values.items() if other != name)


def parse_variations(texts: Iterable[str]) -> dict[str, tuple[Any, ...]]:
    """Read variations such as "learning_rate=0.1,1" and "hidden_layer_sizes=300-100,64".

    Parameters
    ----------
    texts : iterable of str
        Each a name, "=", and values between commas. Numbers of units are joined by "-"; flags are "yes" or "no"; "none"
        stands for no hidden layers, and for no early stopping.

    Raises
    ------
    InputError
        If one is none, or a name is there twice.
    """
    variations: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise InputError(f"{text!r} is no variation: expected a name and values, as in learning_rate=0.1,1")
        _check_name(name)
        if name in variations:
            raise InputError(f"{name} is varied twice: give all of its values at once, as in {name}=…,…")
        variations[name] = tuple(_parse(name, value.strip()) for value in values.split(","))
    return variations


def arms_of(config: TrainingConfig, variations: Mapping[str, Sequence[Any]]) -> list[Arm]:
    """Return an arm per combination of values, the first name's values slowest.

    Parameters
    ----------
    config : TrainingConfig
        What is not varied.
    variations : mapping of str to sequence
        By name the values; those of the configuration are checked by it.

    Raises
    ------
    InputError
        If there is no such name, a name has no values or the same twice, or a combination makes no configuration.
    """
    checked = {name: _checked_values(name, values) for name, values in variations.items()}
    if not checked:
        raise InputError("nothing is varied: name something, as in normalization=batch,none")
    if (n_arms := math.prod(map(len, checked.values()))) > _MOST_ARMS:
        raise InputError(f"the variations make {n_arms:,} arms, expected at most {_MOST_ARMS:,}: vary less at once")
    return [_arm(config, dict(zip(checked, choice, strict=True))) for choice in itertools.product(*checked.values())]


def said(value: Any) -> str:
    """Return a value as `parse_variations` reads it."""
    if isinstance(value, bool | None | tuple) and value in _SAID:
        return _SAID[value]
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _check_name(name: str) -> None:
    if name == "seed":
        raise InputError(
            "seeds are what each arm is trained from, and not varied: give their number by seeds=",
            on_command_line="seeds are what each arm is trained from, and not varied: give their number by --seeds",
        )
    if name not in NAMES:
        near = get_close_matches(name, NAMES, n=1)
        meant = f", did you mean {near[0]}?" if near else ":"
        raise InputError(f"there is no {name!r} to vary{meant} known are {', '.join(NAMES)}")


def _parse(name: str, text: str) -> Any:
    """Return one typed value; whether it is within its limits is checked with the others."""
    kind = _OWN[name].kind if name in _OWN else LIMITS[name].kind if name in LIMITS else None
    if name == "early_stopping_patience" and text == "none":
        return None
    if name == "hidden_layer_sizes":
        return () if text == "none" else _sizes(text)
    if kind is not None:
        return _number(name, kind, text)
    if isinstance(_FIELDS[name].default, bool):
        flags = {"yes": True, "true": True, "no": False, "false": False}
        if text.lower() not in flags:
            raise InputError(f"{name} is {text!r}, expected yes or no")
        return flags[text.lower()]
    return text


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(map(int, text.split("-")))
    except ValueError:
        message = f"hidden_layer_sizes is {text!r}, expected numbers of units joined by -, such as 300-100"
        raise InputError(message) from None


def _number(name: str, kind: type[int] | type[float], text: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise InputError(f"{name} is {text!r}, expected a {'whole ' if kind is int else ''}number") from None


def _checked_values(name: str, values: Any) -> list[Any]:
    _check_name(name)
    if isinstance(values, str | bytes) or not isinstance(values, Iterable) or not (found := list(values)):
        raise InputError(f"{name} is to be varied over {values!r}, expected a list of values")
    if name in _OWN:
        found = [_OWN[name].check(name, value) for value in found]
    else:  # one at a time: what a field makes of a value, and what it refuses
        found = [getattr(_replaced(TrainingConfig(nesterov=False), **{name: value}), name) for value in found]
    if twice := [value for value in found if found.count(value) > 1]:
        raise InputError(f"{name} has the value {said(twice[0])} twice: leave one out")
    return found


def _arm(config: TrainingConfig, values: dict[str, Any]) -> Arm:
    changes = {name: value for name, value in values.items() if name not in _OWN}
    try:
        changed = replace(config, **changes)
        if "depth" in values:
            changed = replace(changed, hidden_layer_sizes=_deepened(changed.hidden_layer_sizes, values["depth"]))
    except InputError as error:
        raise InputError(f"{Arm(values, config, 1.0).name}: {error}") from error
    return Arm(MappingProxyType(values), changed, values.get("initial_scale", 1.0))


def _replaced(config: TrainingConfig, **changes: Any) -> TrainingConfig:
    """Change fields of which others may say that the change is none: they are checked once all are known."""
    if changes.get("batch_size") == 1:
        changes["normalization"] = "none"
    return replace(config, **changes)


def _deepened(sizes: tuple[int, ...], depth: int) -> tuple[int, ...]:
    """Repeat the last hidden layer."""
    if not sizes:
        raise InputError("depth repeats the last hidden layer, and there is none: give hidden_layer_sizes")
    if depth < len(sizes):
        raise InputError(
            f"depth is {depth}, and there are {len(sizes)} hidden layers, {said(sizes)}, of which it repeats the last: "
            "give fewer hidden_layer_sizes, or a larger depth"
        )
    return (*sizes, *itertools.repeat(sizes[-1], depth - len(sizes)))
