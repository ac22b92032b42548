"""Arithmetic on symbols for sizes: `max`, `min`, `int` and `float` of one are symbols, as sums and `math.ceil` are.

Python has `int` and `float` return numbers, never symbols. So a function that calls them with a symbol raises `Asked`,
and is run again with a code object in which these two names stand for functions of ours: only such a function, and only
if it does nothing with the names but call them, since ``type(n) is int`` would not hold of ours.
"""

import builtins
import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from math import ceil, floor, trunc
from types import CodeType, FunctionType
from typing import Any, TypeVar

from torch.fx import Proxy

from batchnorm.toolkit.structure.symbols import symbols_in

__all__ = ["Asked", "Symbol", "Turns", "all_ways", "arithmetic"]

_MOST_WAYS = 16

Way = TypeVar("Way")
_CONVERSIONS = {"int": int, "float": float}
_OURS = "_batchnorm_{}"


class Asked(TypeError):  # noqa: N818
    """A symbol was asked for its number, by the code of a function."""

    def __init__(self, code: CodeType):
        super().__init__(f"{code.co_name} converts a symbol to a number")
        self.code = code
        self._answered = False

    def answered_by(self, convert: Callable[[CodeType], bool]) -> bool:
        """Tell whether the code gets a symbol if it is run again."""
        self._answered = self._answered or convert(self.code)
        return self._answered


class Symbol(Proxy):
    """A symbol that can be rounded, and says whose code asks for a number."""

    def __ceil__(self) -> Proxy:
        """Return ⌈x⌉."""
        return _applied(ceil, self)

    def __floor__(self) -> Proxy:
        """Return ⌊x⌋."""
        return _applied(floor, self)

    def __trunc__(self) -> Proxy:
        """Return x without its fraction."""
        return _applied(trunc, self)

    def __round__(self, *digits: Any) -> Proxy:
        """Return x rounded."""
        return _applied(round, self, *digits)

    def __int__(self) -> int:
        """Raise `Asked`."""
        raise Asked(sys._getframe(1).f_code)

    def __float__(self) -> float:
        """Raise `Asked`."""
        raise Asked(sys._getframe(1).f_code)


class Turns:
    """Which way code goes where it asks something of sizes alone: as it is told, then by the answer no.

    Parameters
    ----------
    told : list of bool

    Attributes
    ----------
    taken : list of bool
        Every turn, from the first one on.
    """

    def __init__(self, told: list[bool]):
        self._told = told
        self.taken: list[bool] = []

    def next(self) -> bool:
        """Return an answer."""
        position = len(self.taken)
        self.taken.append(position < len(self._told) and self._told[position])
        return self.taken[-1]


def all_ways(trace: Callable[[Turns], Way], convert: Callable[[CodeType], bool]) -> list[Way]:
    """Trace code once for each way that sizes may lead through it.

    Raises
    ------
    ValueError
        If there are too many.
    """
    ways: list[Way] = []
    told: list[bool] | None = []
    while told is not None:
        turns = Turns(told)
        try:
            ways.append(trace(turns))
        except Asked as asked:
            if not asked.answered_by(convert):
                raise
        else:
            told = _other_way(turns.taken)
        if len(ways) > _MOST_WAYS:
            raise ValueError("there are too many ways through its code")
    return ways


def _other_way(taken: list[bool]) -> list[bool] | None:
    """Return the turns of the next way, or None after the last."""
    while taken and taken[-1]:
        taken = taken[:-1]
    return [*taken[:-1], True] if taken else None


@contextmanager
def arithmetic() -> Iterator[Callable[[CodeType], bool]]:
    """Have `max` and `min` of answers give symbols; yield what makes the conversions of a code object give some.

    That returns whether it could. All threads see these functions; of numbers they make what Python's do.
    """
    with ExitStack() as stack:
        for function in (max, min):
            _replace(stack, builtins, function.__name__, _of_answers(function))
        for name, conversion in _CONVERSIONS.items():
            setattr(builtins, _OURS.format(name), _of_answers(conversion))
            stack.callback(delattr, builtins, _OURS.format(name))

        def convert(code: CodeType) -> bool:
            functions = [f for f in gc.get_referrers(code) if type(f) is FunctionType and f.__code__ is code]
            shadowed = any(name in function.__globals__ for function in functions for name in _CONVERSIONS)
            if not functions or shadowed or not _only_calls(code, set(_CONVERSIONS)):
                return False
            names = tuple(_OURS.format(name) if name in _CONVERSIONS else name for name in code.co_names)
            for function in functions:
                _replace(stack, function, "__code__", code.replace(co_names=names))
            return True

        yield convert


def _only_calls(code: CodeType, names: set[str]) -> bool:
    """Tell whether code takes each of some names from the built-in ones, to call it at once, if it takes it at all."""
    taken = [instruction for instruction in dis.get_instructions(code) if instruction.argval in names]
    # The lowest bit says that a call follows.
    return bool(taken) and all(i.opname == "LOAD_GLOBAL" and i.arg is not None and i.arg & 1 for i in taken)


def _of_answers(function: Callable[..., Any]) -> Callable[..., Any]:
    def of_answers(*args: Any, **kwargs: Any) -> Any:
        symbols = [*symbols_in((args, kwargs))]
        if symbols and all(symbol.node.meta["kind"] == "answer" for symbol in symbols):
            return symbols[0].tracer.create_proxy("call_function", function, args, kwargs)
        return function(*args, **kwargs)

    return of_answers


def _applied(function: Callable[..., Any], symbol: Proxy, *args: Any) -> Proxy:
    result: Proxy = symbol.tracer.create_proxy("call_function", function, (symbol, *args), {})
    return result


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
