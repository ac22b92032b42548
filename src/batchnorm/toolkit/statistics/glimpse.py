"""Whether the first batch shows layers the same when it is run again, by itself."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from batchnorm.functional import Moments
from batchnorm.toolkit.model import Feed, NormLayer, inputs_seen
from batchnorm.toolkit.statistics.reached import Reached

_ROUNDING = 1e-4  # standard deviations, or a few units in the last place: an arithmetic need not repeat itself


class EnoughError(BaseException):
    """Ends a forward pass that has shown all that was wanted; no model's `except Exception` catches it."""


def glimpse(x: Tensor) -> Tensor:
    """Return something of what reaches a layer, at little cost: the first example's means over its positions."""
    return x[:1].double().mean([0, *range(2, x.dim())]) if len(x) else x.new_zeros(0)


def shown_otherwise(
    feed: Feed,
    batch: Any,
    layers: Mapping[str, NormLayer],
    shown: Mapping[str, Tensor],
    found: Mapping[str, Reached],
    tolerance: float = 0.0,
) -> tuple[list[str], list[str]]:
    """Run a batch again; return the layers that it shows something else, in their first call, and those it passes by.

    Parameters
    ----------
    shown : mapping of str to Tensor
        What each layer was shown (see `glimpse`).
    tolerance : float
        Standard deviations of a layer's population that count as the same, beyond rounding.
    """
    layers = {name: layers[name] for name in shown}
    called: set[str] = set()
    others: list[str] = []
    thread = threading.get_ident()

    def compare(name: str, _: NormLayer, x: Tensor) -> None:
        moments = found[name].moments if name in found else None
        if name not in called and not _alike(shown[name], glimpse(x), moments, max(tolerance, _rounding(x))):
            others.append(name)
        called.add(name)
        if len(called) == len(layers) and threading.get_ident() == thread:  # not in one of the model's own
            raise EnoughError

    with inputs_seen(layers, compare), suppress(EnoughError):
        feed.run(batch)
    return others, [name for name in layers if name not in called]


def _rounding(x: Tensor) -> float:
    return max(_ROUNDING, 4 * torch.finfo(x.dtype).eps) if x.is_floating_point() else 0.0


def _alike(a: Tensor, b: Tensor, moments: Moments | None, tolerance: float) -> bool:
    """Tell whether two glimpses differ by no more than some standard deviations of the layer's population."""
    if a.shape != b.shape or moments is None or not len(a):
        return a.shape == b.shape
    scale = moments.var.sqrt() + torch.maximum(a.abs(), b.abs())
    return bool((((a - b).abs() <= tolerance * scale) | (a.isnan() & b.isnan()) | (a == b)).all())
