"""A regressor's targets, by its loss: what they are scaled with, and the score of predictions in that scale."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import d2_pinball_score, d2_tweedie_score, r2_score
from torch import Tensor

from batchnorm.functional import Moments
from batchnorm.inputs import NORMAL_RANGE, quantiles, table_moments

_LARGEST_LOG = math.log(np.finfo(np.float64).max)


def quantile_moments(values: NDArray[np.float64], counts: NDArray[np.float64] | None, quantile: float) -> Moments:
    """Return a quantile of each column for its mean, and for its variance what that of a normal with its quartiles is.

    A column whose quartiles are equal has its variance.
    """
    moments = table_moments(values, counts)
    low, center, high = quantiles(np.ascontiguousarray(values.T), counts, (0.25, quantile, 0.75))
    deviation = torch.from_numpy((high - low) / NORMAL_RANGE)
    return Moments(moments.n, torch.from_numpy(center), torch.where(deviation > 0, deviation.square(), moments.var))


def logs_of(means: Moments) -> Moments:
    """Return with what outputs become logarithms of predictions: they are those of predictions per mean."""
    return Moments(means.n, means.mean.log(), torch.ones_like(means.var))


def exp(logs: Tensor) -> Tensor:
    """Return e^x in float64, finite and above 0 wherever x is a number."""
    return logs.double().clamp(-_LARGEST_LOG, _LARGEST_LOG).exp()


def score(loss: str, quantile: float, labels: Tensor, outputs: Tensor, weights: Tensor | None) -> float:
    """Return the share of the loss of a constant that is no longer there: R², or D² of another loss."""
    y, values = labels.cpu().double(), outputs.cpu().double()
    counts = None if weights is None else weights.cpu()
    if loss == "squared_error":
        return float(r2_score(y, values, sample_weight=counts))
    if loss != "poisson":
        return float(d2_pinball_score(y, values, sample_weight=counts, alpha=quantile))
    scores = [  # where nothing was counted, no constant loses anything
        d2_tweedie_score(y[:, j], exp(values[:, j]), sample_weight=counts, power=1) if y[:, j].any() else 0.0
        for j in range(y.shape[1])
    ]
    return float(np.mean(scores))
