"""From the records of all cells to figures: means over seeds, layer by layer, and who learns at which learning rate."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from batchnorm.comparing.cells import MOMENTS, Record
from batchnorm.comparing.plan import ComparisonPlan
from batchnorm.comparing.variations import Arm
from batchnorm.comparing.words import name_of
from batchnorm.config import Task
from batchnorm.data import Dataset

_MEASURES: Mapping[Task, str] = {"classification": "accuracy", "labels": "accuracy", "regression": "r2"}
_SIZES = ("gradient_norm", "update_ratio", "weight_norm")  # of which the median over seeds is told: they are ratios
_SHARES = ("dead", "saturated")
_SWEEP = 3  # values of a number


def summarize(plan: ComparisonPlan, records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return what a comparison came to, as plain JSON values.

    Parameters
    ----------
    plan : ComparisonPlan
    records : mapping of str to sequence of Record
        By the arm's name one for each seed.
    """
    measure, chance = _MEASURES[plan.dataset.task], chance_of(plan.dataset)
    scores = [score for of_arm in records.values() for r in of_arm if (score := r.score(measure)) is not None]
    best = max(scores, default=chance)
    threshold = chance + (best - chance) / 2
    differing = _differing(plan.arms)
    arms = [
        {
            "name": arm.name,
            "label": name_of({name: value for name, value in arm.values.items() if name in differing}),
            **_summary_of(arm, records[arm.name], measure, chance, threshold),
        }
        for arm in plan.arms
    ]
    return {
        **plan.to_dict(),
        "task": plan.dataset.task,
        "measure": measure,
        "chance": chance,
        "best": best,
        "threshold": threshold,
        "arms": arms,
        "sweep": _sweep(plan.arms, arms),
    }


def chance_of(dataset: Dataset) -> float:
    """Return the validation figure of who always predicts the same: the commonest class or labels; of values R² 0."""
    if dataset.task == "regression":
        return 0.0
    _, counts = torch.unique(dataset.validation.labels.cpu(), dim=0, return_counts=True)
    return int(counts.max()) / len(dataset.validation)


def _summary_of(arm: Arm, records: Sequence[Record], measure: str, chance: float, threshold: float) -> dict[str, Any]:
    scores = [record.score(measure) for record in records]
    looked = next((record for record in records if record.looks), records[0])
    learnt = sum(score is not None and score > chance and score >= threshold for score in scores)
    return {
        "values": dict(arm.values),
        "hidden_layer_sizes": list(arm.config.hidden_layer_sizes),
        "learning_rate": arm.config.learning_rate,
        "initial_scale": arm.initial_scale,
        "score": spread(scores),
        "learnt": learnt,
        "learns": 2 * learnt > len(records),
        "diverged": sum(record.diverged is not None for record in records),
        "runs": [
            {"seed": r.seed, "run": f"cells/{r.run}", "score": score, "diverged": r.diverged}
            for r, score in zip(records, scores, strict=True)
        ],
        "curves": _curves(records, measure),
        "layers": {moment: _layers(records, moment) for moment in MOMENTS},
        "updates": _updates(records),
        "looks": {moment: looked.look(moment) for moment in MOMENTS},
    }


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return how many of some figures there are, their mean, and with two or more their standard deviation."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return {
        "n": len(known),
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
    }


def _curves(records: Sequence[Record], measure: str) -> list[dict[str, Any]]:
    """Return the figures of each evaluation, over the seeds that came so far."""
    names = [f"{part}_{name}" for part in ("train", "validation") for name in ("loss", measure)]
    by_epoch: dict[int, list[dict[str, Any]]] = {}
    for record in records:
        for evaluation in record.history:
            by_epoch.setdefault(evaluation["epoch"], []).append(evaluation)
    return [
        {"epoch": epoch, "step": found[0]["step"]} | {name: spread([e[name] for e in found]) for name in names}
        for epoch, found in sorted(by_epoch.items())
    ]


def _layers(records: Sequence[Record], moment: str) -> list[dict[str, Any]]:
    """Return, layer by layer, the median over seeds of sizes and the mean of shares; [] where nobody looked."""
    looks = [look["layers"] for record in records if (look := record.look(moment)) is not None]
    return [
        {name: same[0][name] for name in ("name", "norm", "activation", "units")}
        | {name: _middle([layer[name] for layer in same]) for name in _SIZES}
        | {name: spread([layer[name] for layer in same])["mean"] for name in _SHARES}
        for same in zip(*looks, strict=True)
    ]


def _updates(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Return, look by look, the update-to-weight ratio of each layer: its median over seeds."""
    by_step: dict[int, list[list[dict[str, Any]]]] = {}
    for record in records:
        for look in record.looks:
            if look["epoch"] >= 0:
                by_step.setdefault(look["step"], []).append(look["layers"])
    return [
        {"step": step, "ratios": [_middle([la["update_ratio"] for la in same]) for same in zip(*looks, strict=True)]}
        for step, looks in sorted(by_step.items())
    ]


def _middle(values: Sequence[float | None]) -> float | None:
    """Return the median of what is known: of sizes that differ by powers of ten, a mean is the largest one's."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _sweep(arms: Sequence[Arm], summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return who learns at which learning rates, or at which values of another number; None if no number is swept."""
    name = _swept(arms)
    if name is None:
        return None
    groups: dict[tuple[tuple[str, Any], ...], list[Mapping[str, Any]]] = {}
    for arm, summary in zip(arms, summaries, strict=True):
        groups.setdefault(arm.without(name), []).append(summary)
    differing = _differing(arms)
    return {
        "name": name,
        "groups": [
            {
                "label": name_of({other: value for other, value in values if other in differing}),
                "values": dict(values),
                **_of_group(name, sorted(group, key=lambda arm: arm["values"][name])),
            }
            for values, group in groups.items()
        ],
    }


def _swept(arms: Sequence[Arm]) -> str | None:
    """Return what is swept: the learning rate, or the number with the most values, if there are several."""
    values = {name: {arm.values[name] for arm in arms} for name in arms[0].values}
    if len(values.get("learning_rate", ())) > 1:
        return "learning_rate"
    numbers = {
        name: len(found)
        for name, found in values.items()
        if len(found) >= _SWEEP and all(type(value) in (int, float) for value in found)
    }
    return max(numbers, key=lambda name: numbers[name], default=None)


def _of_group(name: str, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    learns_at = [arm["values"][name] for arm in group if arm["learns"]]
    best = max((arm for arm in group if arm["score"]["n"]), key=lambda arm: arm["score"]["mean"], default=None)
    return {
        "learns_at": learns_at,
        "highest": max(learns_at, default=None),
        "is_highest_tried": bool(learns_at) and learns_at[-1] == group[-1]["values"][name],
        "best": best and best["name"],
        "arms": [arm["name"] for arm in group],
    }


def _differing(arms: Sequence[Arm]) -> set[str]:
    """Return the names of what is not the same in all arms."""
    return {name for name in arms[0].values if any(arm.values[name] != arms[0].values[name] for arm in arms)}
