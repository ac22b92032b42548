"""What a comparison shows, in sentences: each from its figures, whichever way they point."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from batchnorm.comparing.variations import said
from batchnorm.dynamics import HALF_FLAT
from batchnorm.network import layer_name

MEASURE_NAMES = {"accuracy": "validation accuracy", "r2": "validation R²"}
_UNEQUAL = 10  # times larger at one end of a network than at the other: worth a word
_MUCH = 0.1  # of units: worth a word
_MOST_RIVALS, _MOST_LISTED = 3, 6
Summary = Mapping[str, Any]


def describe(summary: Summary) -> list[str]:
    """Return the sentences."""
    return [*_scores(summary), *_sweeps(summary), *_divergence(summary), *_gradients(summary), *_silent_units(summary)]


def name_of(values: Mapping[str, Any]) -> str:
    """Return what is chosen, in words: batch norm is with or without. Of nothing it is ""."""
    norms = {"batch": "with batch norm", "none": "without batch norm"}
    words = [f"{name.replace('_', ' ')} {said(value)}" for name, value in values.items() if name != "normalization"]
    return ", ".join([norms[values["normalization"]], *words] if "normalization" in values else words)


def figure(spread: Mapping[str, Any] | None) -> str:
    """Return mean ± standard deviation."""
    if spread is None or spread["mean"] is None:
        return "–"
    return f"{spread['mean']:.4g}" if spread["sd"] is None else f"{spread['mean']:.4f} ± {spread['sd']:.4f}"


def begin(words: str) -> str:
    """Begin a sentence."""
    return f"{words[:1].upper()}{words[1:]}"


def focus(summary: Summary) -> list[dict[str, Any]]:
    """Return the arms to look into: of those that differ in what is swept alone, the best one."""
    arms = {arm["name"]: arm for arm in summary["arms"]}
    if summary["sweep"] is None:
        return paired(list(arms.values()))
    return [arms[group["best"] or group["arms"][0]] for group in paired(summary["sweep"]["groups"])]


def paired(alike: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return arms, or groups of them, with what differs in normalization alone side by side.

    Where there are too many to be shown, the first ones are then with and without it.
    """
    same: dict[str, list[dict[str, Any]]] = {}
    for one in alike:
        others = {name: value for name, value in one["values"].items() if name != "normalization"}
        same.setdefault(str(others), []).append(one)
    return [one for pair in same.values() for one in pair]


def _scores(summary: Summary) -> Iterator[str]:
    known = sorted((a for a in summary["arms"] if a["score"]["n"]), key=lambda arm: -arm["score"]["mean"])
    what = MEASURE_NAMES[summary["measure"]]
    if not known:
        yield "Every training diverged."
        return
    best = known[0]
    yield f"Best {what}: {figure(best['score'])}{_comma(best['label'])}."
    if not any(arm["learns"] for arm in summary["arms"]):
        yield f"None learns: who always predicts the same reaches {summary['chance']:.4g}."
        return
    shown = {arm["name"] for arm in focus(summary)} - {best["name"]}
    rivals = [arm for arm in known if arm["name"] in shown]
    for arm in rivals[:_MOST_RIVALS]:
        apart = best["score"]["mean"] - arm["score"]["mean"]
        noise = math.hypot(best["score"]["sd"] or 0, arm["score"]["sd"] or 0)
        judged = "which is within the spread over seeds" if apart <= noise else f"{apart:.4f} less"
        yield f"{begin(arm['label'])}: {figure(arm['score'])}, {judged}."


def _sweeps(summary: Summary) -> Iterator[str]:
    if summary["sweep"] is None or not any(arm["score"]["n"] for arm in summary["arms"]):
        return
    name = summary["sweep"]["name"].replace("_", " ")
    for group in summary["sweep"]["groups"]:
        it = f"{group['label']}, it" if group["label"] else "it"
        if group["highest"] is None:
            yield f"{begin(it)} learns at no {name} that was tried."
        elif len(group["learns_at"]) == len(group["arms"]):
            yield f"{begin(it)} learns at every {name} that was tried, up to {said(group['highest'])}."
        else:
            values = ", ".join(map(said, group["learns_at"]))
            yield f"{begin(it)} learns at {name} {values}, and at no other that was tried."


def _divergence(summary: Summary) -> Iterator[str]:
    diverged = [arm for arm in summary["arms"] if arm["diverged"]]
    if diverged:
        n = sum(arm["diverged"] for arm in diverged)
        trainings = "1 training" if n == 1 else f"{n} trainings"
        names = "; ".join(arm["label"] for arm in diverged[:_MOST_LISTED])
        where = f": {names}{_more(diverged, _MOST_LISTED)}" if names else ""
        yield f"{trainings} diverged, as the loss or a weight became infinite or NaN{where}."


def _gradients(summary: Summary) -> Iterator[str]:
    """Compare the first layer's gradient with the last hidden one's, at the start."""
    for arm in focus(summary)[:4]:
        norms = [layer["gradient_norm"] for layer in arm["layers"]["start"]]
        if len(norms) < 3 or norms[0] is None or norms[-2] is None:
            continue
        first, last = norms[0], norms[-2]
        sizes = f"norm {first:.2g} in the first layer and {last:.2g} in the last hidden one"
        yield f"At the start{_comma(arm['label'])}, the gradient has {sizes}: {_judged(first, last)}."


def _judged(first: float, last: float) -> str:
    if min(first, last) == 0:
        return "some layers get none at all"
    if last / first >= _UNEQUAL:
        return "it vanishes on its way back through the layers"
    if first / last >= _UNEQUAL:
        return "it explodes on its way back through the layers"
    return "of the same order of magnitude"


def _silent_units(summary: Summary) -> Iterator[str]:
    for arm in focus(summary)[:4]:
        for kind, what in (("dead", "of the units are dead"), ("saturated", "of the activations are saturated")):
            layers = arm["layers"]["end"]
            as_usual = HALF_FLAT if kind == "saturated" else ()  # which is worth no word
            shares = [0.0 if layer["activation"] in as_usual else layer[kind] or 0.0 for layer in layers]
            if (share := max(shares, default=0.0)) >= _MUCH:
                where = layer_name(shares.index(share), len(shares))
                yield f"At the end{_comma(arm['label'])}, {share:.0%} {what} in {where}."


def _comma(label: str) -> str:
    return f", {label}" if label else ""


def _more(items: Sequence[Any], shown: int) -> str:
    return f" and {len(items) - shown} others" if len(items) > shown else ""
