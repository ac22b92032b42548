"""How good predictions of rows are that were kept for it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn import metrics

from batchnorm.inputs import StoredFrame
from batchnorm.scores import Weights, label_scores, value_scores


def scores_of(estimator: Any, inputs: Any, target: NDArray[Any], weights: Weights) -> dict[str, Any]:
    """Return the figures of a trained estimator on some rows, as what JSON knows.

    Of classes accuracy, balanced accuracy, log-loss, Brier score (of the squared differences the sum over the classes)
    and the confusion matrix; of several labels the share of rows in which all are right, and of each label; of values
    R², the root of the mean squared error and the mean absolute error, in the target's unit.
    """
    predicted = _predicted(estimator.predict, inputs)
    if not hasattr(estimator, "classes_"):
        return value_scores(predicted, target, weights)
    if target.ndim > 1:
        return label_scores(predicted == target, weights)
    return _of_classes(estimator, predicted, _predicted(estimator.predict_proba, inputs), target, weights)


def _predicted(predict: Callable[[Any], NDArray[Any]], inputs: Any) -> NDArray[Any]:
    """Return what is predicted, of what is larger than memory a block of rows at a time."""
    blocks = inputs.store.blocks() if isinstance(inputs, StoredFrame) else [inputs]
    return np.concatenate([predict(block) for block in blocks])


def _of_classes(
    estimator: Any, predicted: NDArray[Any], probabilities: NDArray[Any], target: NDArray[Any], weights: Weights
) -> dict[str, Any]:
    classes = estimator.classes_
    unseen = ~np.isin(target, classes)
    known, counts = ~unseen, None if weights is None else weights[~unseen]
    result: dict[str, Any] = {"accuracy": float(np.average(predicted == target, weights=weights))}
    if unseen.any():  # no probability was given to them
        result["rows_of_unseen_classes"] = int(unseen.sum())
    if known.any():
        codes = np.searchsorted(classes, target[known])
        given = probabilities[known].astype(np.float64)
        rows = np.arange(len(codes))
        squares = (given**2).sum(1) - 2 * given[rows, codes] + 1
        least = np.finfo(np.float32).tiny
        result |= {
            "balanced_accuracy": _balanced_accuracy(predicted[known], target[known], counts),
            "log_loss": float(np.average(-np.log(np.maximum(given[rows, codes], least)), weights=counts)),
            "brier": float(np.average(squares, weights=counts)),
            "confusion": metrics.confusion_matrix(target[known], predicted[known], labels=classes).tolist(),
        }
    return result


def _balanced_accuracy(predicted: NDArray[Any], target: NDArray[Any], weights: Weights) -> float:
    """Return the mean over the classes that are there of the share that is right."""
    right = predicted == target
    shares = [
        np.average(right[of], weights=None if weights is None else weights[of])
        for of in (target == label for label in np.unique(target))
        if weights is None or weights[of].sum() > 0
    ]
    return float(np.mean(shares))
