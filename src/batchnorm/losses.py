"""What a training minimises: the loss that labels of each kind are learnt with, in plain torch.

With o an output, t its target, n the examples, k the outputs of each, and sums over both::

    cross_entropy         −Σ q log p / n                                p = softmax(o), q of the class, smoothed
    binary_cross_entropy  −Σ (q log p + (1 − q) log (1 − p)) / n        p = 1 / (1 + e^−o), q = t, smoothed
    squared_error         Σ (o − t)² / (2 n k)                          least where o is the mean of t
    quantile              Σ (q (t − o)⁺ + (1 − q) (o − t)⁺) / (n k)     where o is the quantile q; slope 0 at o = t
    poisson               Σ (e^o − t o + t log t − t) / (n k)           where e^o is the mean; half the deviance

The quantile loss is R. Koenker and G. Bassett's, "Regression Quantiles", 1978; at q = ½ it is half the absolute error.
"""

from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from batchnorm.data import loss_of
from batchnorm.kernels.tensors import LARGEST_LOG


class Loss(NamedTuple):
    """A loss, by the name of its kernels, and the number that they take.

    Parameters
    ----------
    name : str
        "cross_entropy", "binary_cross_entropy", "squared_error", "quantile" or "poisson".
    parameter : float or tuple of float, default 0
        Label smoothing of the first two: the share of a target that is spread evenly over the classes, or what each of
        them gets of it (of independent labels: each label's 1). The quantile; the others have none.
    """

    name: str
    parameter: float | tuple[float, ...] = 0.0

    @classmethod
    def of(cls, labels: Tensor, smoothing: float) -> Self:
        """Return what labels of this kind are learnt with, unless someone asks for another."""
        return cls(loss_of(labels), smoothing)

    def spread(self, n_outputs: int) -> NDArray[np.float64]:
        """Return what each class (outputs,), or each label's 0 and 1 (outputs, 2), gets of a smoothed target."""
        independent = self.name == "binary_cross_entropy"
        if not isinstance(self.parameter, tuple):
            return np.full(
                (n_outputs, 2) if independent else n_outputs, self.parameter / (2 if independent else n_outputs)
            )
        return np.array(self.parameter).reshape((n_outputs, 2) if independent else n_outputs)


def mean_loss(outputs: Tensor, labels: Tensor, loss: Loss, weights: Tensor | None = None) -> Tensor:
    """Return the mean of a loss over the examples, each counted `weights` (batch,) times."""
    if loss.name == "cross_entropy" and weights is None and isinstance(loss.parameter, float):
        return F.cross_entropy(outputs, labels, label_smoothing=loss.parameter)
    losses = _losses(outputs, labels, loss)
    return losses.mean() if weights is None else (losses * weights).sum() / weights.sum()


def _losses(outputs: Tensor, labels: Tensor, loss: Loss) -> Tensor:
    """Return the loss of each example (batch,)."""
    name = loss.name
    if name in ("cross_entropy", "binary_cross_entropy"):
        spread = torch.from_numpy(loss.spread(outputs.shape[1])).to(outputs)
        if name == "cross_entropy":
            logs = outputs.log_softmax(1)
            return (1 - spread.sum()) * F.nll_loss(logs, labels, reduction="none") - (spread * logs).sum(1)
        wanted = labels.to(outputs.dtype) * (1 - spread.sum(1)) + spread[:, 1]
        return F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").sum(1)
    if name == "quantile":
        share = float(loss.parameter)  # type: ignore[arg-type]
        return (share * (labels - outputs).relu() + (1 - share) * (outputs - labels).relu()).mean(1)
    if name == "poisson":
        bounded = outputs.clamp(max=LARGEST_LOG)
        power = bounded.exp() * (1 + outputs - bounded)  # beyond the bound it goes on as its tangent
        return (power - labels * (1 + outputs) + torch.xlogy(labels, labels)).mean(1)
    return (outputs - labels).square().mean(1) / 2
