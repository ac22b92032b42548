"""What a network makes of a part of its data, example by example, and where it is most wrong."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from batchnorm.data import Examples, as_columns
from batchnorm.evaluation import network_outputs


@dataclass(frozen=True, eq=False)
class Classified:
    """Classes that were predicted.

    Parameters
    ----------
    true, predicted : array of int, shape (examples,)
    probability, of_true : array, shape (examples,)
        Of the predicted and of the true class; 0 where an output is NaN.
    """

    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    of_true: NDArray[np.float64]

    @property
    def wrong(self) -> NDArray[np.int64]:
        """The examples that are wrong, those first whose true class was thought least likely."""
        wrong = np.flatnonzero(self.true != self.predicted)
        order = np.lexsort((wrong, -self.probability[wrong], self.of_true[wrong]))
        return np.asarray(wrong[order])

    def confusion(self, n_classes: int) -> NDArray[np.int64]:
        """Return the number of examples by true class (rows) and predicted one (columns)."""
        counts = np.zeros((n_classes, n_classes), np.int64)
        np.add.at(counts, (self.true, self.predicted), 1)
        return counts


@dataclass(frozen=True, eq=False)
class Labelled:
    """Labels that were predicted: arrays of shape (examples, labels)."""

    true: NDArray[np.bool_]
    probability: NDArray[np.float64]

    @property
    def worst(self) -> NDArray[np.int64]:
        """The wrong pairs (pairs, 2) of an example and a label, the surest mistakes first."""
        error = np.abs(self.probability - self.true)
        pairs = np.argwhere(~(error < 0.5))
        return np.asarray(pairs[np.argsort(-error[tuple(pairs.T)], kind="stable")])


@dataclass(frozen=True, eq=False)
class Valued:
    """Values that were predicted, in their unit: arrays of shape (examples, values)."""

    true: NDArray[np.float64]
    predicted: NDArray[np.float64]
    deviation: NDArray[np.float64]

    @property
    def worst(self) -> NDArray[np.int64]:
        """All examples, those first whose error is largest, by the values' standard deviations in the training."""
        error = np.nan_to_num(np.abs(self.predicted - self.true) / self.deviation, nan=np.inf).max(1)
        return np.asarray(np.argsort(-error, kind="stable"))


def predict(network: nn.Module, examples: Examples) -> Classified | Labelled | Valued:
    """Return what a network makes of examples with its running averages."""
    classes, columns = list[tuple[Tensor, ...]](), list[Tensor]()
    is_classified = examples.labels.dim() == 1
    for outputs, labels in network_outputs(network, examples):
        block = as_columns(outputs, labels).cpu().double()
        if is_classified:
            classes.append(_classified(block, labels.cpu()))
        else:
            columns.append(block)
    if is_classified:
        return Classified(*(torch.cat(parts).numpy() for parts in zip(*classes, strict=True)))
    found, true = torch.cat(columns), examples.labels.cpu()
    if not true.is_floating_point():
        return Labelled(true.bool().numpy(), found.sigmoid().numpy())
    scale = examples.target_scale
    assert scale is not None  # a data set has given it to its parts
    return Valued(true.double().numpy(), scale.in_unit(found).numpy(), np.asarray(scale.deviation))


def _classified(outputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    probabilities = outputs.softmax(1).nan_to_num(0.0)
    most, predicted = probabilities.max(1)
    return labels, predicted, most, probabilities.gather(1, labels[:, None]).squeeze(1)
