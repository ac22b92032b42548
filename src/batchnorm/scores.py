"""How good predictions of labels and of values are: numbers, and the lines that tell them. Needs numpy alone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Weights = NDArray[np.float64] | None


def label_scores(right: NDArray[np.bool_], weights: Weights = None) -> dict[str, Any]:
    """Return the share of rows in which all labels are right, and of each label.

    Parameters
    ----------
    right : array, shape (rows, labels)
        Whether each label was predicted as it is.
    weights : array, shape (rows,), optional
    """
    each = np.average(right, axis=0, weights=weights)
    return {
        "accuracy": float(np.average(right.all(axis=1), weights=weights)),
        "accuracy_of_labels": [float(share) for share in each],
    }


def value_scores(predicted: NDArray[Any], target: NDArray[Any], weights: Weights = None) -> dict[str, Any]:
    """Return R², the root of the mean squared error and the mean absolute error, as scikit-learn has them.

    R² is 1 − Σ (p − t)² / Σ (t − mean t)², its mean over several targets, and None of a single row; of a target that is
    constant it is 1 where all predictions are right, and otherwise 0. The errors are lists of several targets.

    Parameters
    ----------
    predicted, target : array, shape (rows,) or (rows, targets)
    weights : array, shape (rows,), optional
    """
    errors = (target - predicted).reshape(len(target), -1)
    centred = (target - np.average(target, axis=0, weights=weights)).reshape(len(target), -1)
    squared, spread = (np.average(part**2, axis=0, weights=weights) for part in (errors, centred))
    is_constant = spread == 0
    shares = np.where(is_constant, (squared != 0) * 1.0, squared / np.where(is_constant, 1.0, spread))
    rmse, mae = np.sqrt(squared).tolist(), np.average(np.abs(errors), axis=0, weights=weights).tolist()
    return {
        "r2": float(np.mean(1 - shares)) if len(target) > 1 else None,
        "rmse": rmse[0] if target.ndim == 1 else rmse,
        "mae": mae[0] if target.ndim == 1 else mae,
    }


def score_lines(scores: Mapping[str, Any], targets: Sequence[str], part: str = "test") -> Iterator[str]:
    """Yield the lines that say how good predictions of some rows are."""
    if "accuracy" in scores:
        more = {"balanced_accuracy": "balanced", "log_loss": "log-loss", "brier": "Brier score"}
        rest = "".join(f", {name} {scores[key]:.4g}" for key, name in more.items() if key in scores)
        yield f"{part} accuracy {scores['accuracy']:.4f}{rest}"
        for name, share in zip(targets, scores.get("accuracy_of_labels", ()), strict=False):
            yield f"  {name}: {share:.4f}"
        return
    r2 = "" if scores["r2"] is None else f"R² {scores['r2']:.4f}, "
    rmse, mae = scores["rmse"], scores["mae"]
    if not isinstance(rmse, list):
        yield f"{part} {r2}root mean squared error {rmse:.6g}, mean absolute error {mae:.6g}"
        return
    yield f"{part} {r2.removesuffix(', ')}"
    for name, one, other in zip(targets, rmse, mae, strict=True):
        yield f"  {name}: root mean squared error {one:.6g}, mean absolute error {other:.6g}"


def headline(scores: Mapping[str, Any], prefix: str = "") -> str:
    """Return the one figure that says how good predictions are, with its short name: of a single row it is "–"."""
    if f"{prefix}accuracy" in scores:
        return f"acc: {scores[f'{prefix}accuracy']:.6g}"
    r2 = scores[f"{prefix}r2"]
    return f"R²: {'–' if r2 is None else f'{r2:.6g}'}"
