"""Values nested in tuples, lists and dicts, as batches and outputs are."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor


def map_nested(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a value with a function applied to what its tuples, lists and dicts, nested in any way, hold."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):  # a named tuple
        return type(value)(*(map_nested(function, part) for part in value))
    if isinstance(value, tuple | list):
        return type(value)(map_nested(function, part) for part in value)
    if isinstance(value, Mapping):
        return {key: map_nested(function, part) for key, part in value.items()}
    return function(value)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in a value: itself, or those of tuples, lists, dicts and data classes, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors_in(part)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))
