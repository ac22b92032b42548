"""Where the marks of an axis are, and what they are called."""

import math
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator

_STEPS = [1, 2, 2.5, 5, 10]
_FEW = 30.0  # the greatest value of a logarithmic axis by the least, with labels between the powers of ten
_STEPS_OF_POWERS = (1, 2, 5, 10, 20, 50, 100, 1000)
_DECADES = 9  # of an axis on which the numbers between powers of ten are marked
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Mark(NamedTuple):
    """A place on an axis, with its name; small ones are beside the axis alone, with no line across."""

    place: float
    name: str
    is_small: bool = False


def marks_between(kind: str, ends: tuple[float, float], most: int) -> list[Mark]:
    """Return the marks of an axis that is "linear", of "whole" numbers, of "percent" or "log"."""
    if kind == "log":
        found = _powers(*ends, most)
        if sum(bool(mark.name) for mark in found) > 1:
            return found
    scale = 100.0 if kind == "percent" else 1.0
    places = _evenly(ends[0] * scale, ends[1] * scale, most, whole=kind == "whole")
    suffix = " %" if kind == "percent" else ""
    return [Mark(place / scale, name + suffix) for place, name in zip(places, _names(places), strict=True)]


def _evenly(low: float, high: float, most: int, *, whole: bool) -> list[float]:
    locator = MaxNLocator(most, steps=_STEPS, integer=whole, min_n_ticks=1 if whole else 2)
    slack = 1e-9 * (high - low)
    return [place for place in map(float, locator.tick_values(low, high)) if low - slack <= place <= high + slack]


def _names(places: list[float]) -> list[str]:
    """Return numbers with as many digits as tell them apart."""
    if len(places) < 2:
        return [f"{place:g}" for place in places]
    step, largest = places[1] - places[0], max(map(abs, places))
    digits = next((n for n in range(7) if all(_is_close(round(place, n), place, step) for place in places)), 7)
    if largest < 1e6 and digits < 7:
        return [_signed(f"{place if round(place, digits) else 0.0:.{digits}f}") for place in places]
    significant = min(15, max(1, math.ceil(math.log10(largest / step)) + 2))
    return [_signed(f"{place:.{significant}g}") for place in places]


def _is_close(a: float, b: float, step: float) -> bool:
    return abs(a - b) < 1e-3 * step


def _signed(number: str) -> str:
    return number.replace("-", "−")


def _powers(low: float, high: float, most: int) -> list[Mark]:
    """Return powers of ten, and the numbers between them where there are few."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    step = next(step for step in _STEPS_OF_POWERS if last - first <= step * most)
    start = -(-first // step) * step
    found = [Mark(10.0**exponent, power_of_ten(exponent)) for exponent in range(start, last + 1, step)]
    if last - first >= _DECADES:
        return found
    for exponent in range(first - 1, last + 1):
        for digit in range(2, 10):
            place = digit * 10.0**exponent
            if low <= place <= high:
                is_named = high / low < _FEW and digit in (2, 5)
                found.append(Mark(place, _between(digit, exponent) if is_named else "", is_small=True))
    return found


def power_of_ten(exponent: int) -> str:
    """Return a power of ten as an axis has it."""
    return f"{10.0**exponent:g}" if -3 < exponent < 4 else f"10{str(exponent).translate(_SUPERSCRIPTS)}"


def _between(digit: int, exponent: int) -> str:
    return f"{digit * 10.0**exponent:g}" if -3 < exponent < 4 else f"{digit}·{power_of_ten(exponent)}"
