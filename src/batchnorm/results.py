"""What every verb returns: something that prints itself, shows itself in a notebook, and becomes a dict."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

from batchnorm import markup

Item = TypeVar("Item", covariant=True)


class Result(ABC):
    """What a verb has done or found. A subclass says how it prints (``__str__``) and what it holds (`to_dict`)."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""

    def to_json(self) -> str:
        """Return all of it as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def _repr_html_(self) -> str:
        return markup.html(markup.preformatted(str(self)))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # IPython would print a dataclass's own repr, with every number of every tensor, and store it in the notebook.
        return {"text/plain": str(self), "text/html": self._repr_html_()}


class SequenceResult(Result, Sequence[Item]):
    """A result that is a sequence as well, equal to a list of the same.

    Parameters
    ----------
    items : iterable
    """

    def __init__(self, items: Iterable[Item]):
        self._items = tuple(items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return list(self._items[index]) if isinstance(index, slice) else self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SequenceResult | list | tuple):
            return list(self) == list(other)
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]  # like a list's

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"
