"""What a comparison shows, in sentences: each from its figures, whichever way they point."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchnorm.comparing.variations import said

_NAMES = {"accuracy": "validation accuracy", "r2": "validation R²"}
_UNEQUAL = 10  # times larger at one end of a network than at the other: worth a word
_MUCH = 0.1  # of units: worth a word
Summary = Mapping[str, Any]


def describe(summary: Summary) -> list[str]:
    """Return the sentences."""
    return [*_scores(summary), *_rates(summary), *_divergence(summary), *_gradients(summary), *_silent_units(summary)]


def name_of(values: Mapping[str, Any]) -> str:
    """Return what is chosen, in words: batch norm is with or without."""
    norms = {"batch": "with batch norm", "none": "without batch norm"}
    words = [f"{name.replace('_', ' ')} {said(value)}" for name, value in values.items() if name != "normalization"]
    return ", ".join([norms[values["normalization"]], *words] if "normalization" in values else words) or "the network"


def figure(spread: Mapping[str, Any] | None) -> str:
    """Return mean ± standard deviation."""
    if spread is None or spread["mean"] is None:
        return "–"
    return f"{spread['mean']:.4g}" if spread["sd"] is None else f"{spread['mean']:.4f} ± {spread['sd']:.4f}"


def focus(summary: Summary) -> list[dict[str, Any]]:
    """Return the arms to look into: of those that differ in the learning rate alone, the best one."""
    arms = {arm["name"]: arm for arm in summary["arms"]}
    if not summary["learning_rates"]:
        return list(arms.values())
    return [arms[sweep["best"] or sweep["arms"][0]] for sweep in summary["learning_rates"]]


def _scores(summary: Summary) -> Iterator[str]:
    known = sorted((a for a in summary["arms"] if a["score"]["n"]), key=lambda arm: -arm["score"]["mean"])
    what = _NAMES[summary["measure"]]
    if not known:
        yield "Every training diverged."
        return
    best = known[0]
    yield f"Best {what}: {figure(best['score'])}, {name_of(best['values'])}."
    if not any(arm["learns"] for arm in summary["arms"]):
        yield f"None learns: who always predicts the same reaches {summary['chance']:.4g}."
        return
    rivals = [arm for arm in focus(summary) if arm["score"]["n"] and arm["name"] != best["name"]]
    for arm in rivals[:3]:
        apart = best["score"]["mean"] - arm["score"]["mean"]
        noise = math.hypot(best["score"]["sd"] or 0, arm["score"]["sd"] or 0)
        judged = "which is within the spread over seeds" if apart <= noise else f"{apart:.4f} less"
        yield f"{_begin(name_of(arm['values']))}: {figure(arm['score'])}, {judged}."


def _rates(summary: Summary) -> Iterator[str]:
    for sweep in summary["learning_rates"]:
        who = name_of(sweep["values"])
        if sweep["highest"] is None:
            yield f"{_begin(who)}, it learns at none of the learning rates."
        else:
            last = ", the highest that was tried" if sweep["is_highest_tried"] else ""
            yield f"{_begin(who)}, it still learns at a learning rate of {said(sweep['highest'])}{last}."


def _divergence(summary: Summary) -> Iterator[str]:
    diverged = [arm for arm in summary["arms"] if arm["diverged"]]
    if diverged:
        n = sum(arm["diverged"] for arm in diverged)
        trainings = "1 training" if n == 1 else f"{n} trainings"
        names = "; ".join(name_of(arm["values"]) for arm in diverged[:6])
        yield f"{trainings} diverged, as the loss or a weight became infinite or NaN: {names}{_more(diverged, 6)}."


def _gradients(summary: Summary) -> Iterator[str]:
    """Compare the first layer's gradient with the last hidden one's, at the start."""
    for arm in focus(summary)[:4]:
        norms = [layer["gradient_norm"] for layer in arm["layers"]["start"]]
        if len(norms) < 3 or norms[0] is None or norms[-2] is None:
            continue
        first, last = norms[0], norms[-2]
        who = name_of(arm["values"])
        sizes = f"norm {first:.2g} in the first layer, {last:.2g} in the last hidden one"
        if min(first, last) == 0:
            yield f"At the start, {who}, a layer gets no gradient at all: {sizes}."
        elif last / first >= _UNEQUAL:
            yield f"At the start, {who}, the gradient vanishes on its way back through the layers: {sizes}."
        elif first / last >= _UNEQUAL:
            yield f"At the start, {who}, the gradient grows on its way back through the layers: {sizes}."
        else:
            yield f"At the start, {who}, the gradient is of about the same size in all layers: {sizes}."


def _silent_units(summary: Summary) -> Iterator[str]:
    for arm in focus(summary)[:4]:
        for kind, what in (("dead", "units that pass no gradient on"), ("saturated", "activations on their flat part")):
            layers = [layer for layer in arm["layers"]["end"] if (layer[kind] or 0) >= _MUCH]
            if layers:
                most = max(layers, key=lambda layer: layer[kind])
                yield f"At the end, {name_of(arm['values'])}, {most[kind]:.0%} of layer {most['name']} are {what}."


def _begin(words: str) -> str:
    """Begin a sentence."""
    return f"{words[0].upper()}{words[1:]}"


def _more(items: Sequence[Any], shown: int) -> str:
    return f" and {len(items) - shown} others" if len(items) > shown else ""
