"""What `evaluate` measures: of classes, of several labels, of values."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from batchnorm.errors import BatchnormError
from batchnorm.files import json_ready
from batchnorm.markup import captioned_table
from batchnorm.results import Result

_SHOWN_CLASSES = 30  # of more, a notebook shows no confusion but what it consists of
_SHOWN_MISTAKES = 10


@dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """What `evaluate` measures of classes.

    Parameters
    ----------
    accuracy : float
        Share of the examples whose largest logit is their label's. An example with NaN among its logits counts as
        wrong.
    loss : float
        Mean softmax cross-entropy, in nats, without label smoothing.
    n_classes, n_examples : int
    counts : Tensor, shape (pairs, 3)
        Each pair of a label and a prediction that occurs, and the number of its examples: what is in `confusion`
        beside zeros.
    """

    accuracy: float
    loss: float
    n_classes: int
    n_examples: int
    counts: Tensor

    @property
    def figures(self) -> dict[str, Any]:
        """What a run records of it."""
        return {"accuracy": self.accuracy, "loss": self.loss}

    @cached_property
    def confusion(self) -> Tensor:
        """Number of examples by label (rows) and prediction (columns), shape (n_classes, n_classes), on the CPU.

        Examples with NaN among their logits have no prediction, and are in no column.
        """
        try:
            # numpy's zeros take no memory before they are written to: with many classes most never are.
            confusion = torch.from_numpy(np.zeros((self.n_classes, self.n_classes), np.int64))
        except (MemoryError, ValueError) as error:
            raise BatchnormError(
                f"the confusion of {self.n_classes:,} classes takes {8 * self.n_classes**2:,} bytes, more than there "
                "is memory: use `counts`, which has what is not 0"
            ) from error
        labels, predictions, numbers = self.counts.T
        confusion[labels, predictions] = numbers
        return confusion

    @property
    def n_undecided(self) -> int:
        """Number of examples with NaN among their logits."""
        return self.n_examples - int(self.counts[:, 2].sum())

    def __str__(self) -> str:
        undecided = f", of which {self.n_undecided:,} with NaN among their logits" if self.n_undecided else ""
        return f"accuracy {self.accuracy:.6g}, loss {self.loss:.4g} on {self.n_examples:,} examples{undecided}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(
            {"accuracy": self.accuracy, "loss": self.loss, "confusion": self.confusion.tolist()}
        )
        return described

    def _repr_html_(self) -> str:
        if self.n_classes > _SHOWN_CLASSES:
            return captioned_table(str(self), ("label", "prediction", "examples"), self._most_frequent_mistakes())
        counts = self.confusion.tolist()
        rows = [[str(label), *map(str, row)] for label, row in enumerate(counts)]
        return captioned_table(str(self), ["label \\ prediction", *map(str, range(len(counts)))], rows)

    def _most_frequent_mistakes(self) -> list[list[str]]:
        mistakes = self.counts[self.counts[:, 0] != self.counts[:, 1]]
        first = mistakes[:, 2].argsort(descending=True, stable=True)[:_SHOWN_MISTAKES]
        return [[f"{number:,}" for number in row] for row in mistakes[first].tolist()]


@dataclass(frozen=True, eq=False)
class LabelsEvaluation(Result):
    """What `evaluate` measures of several labels, each of which applies or not.

    Parameters
    ----------
    accuracy : float
        Share of the examples of which all labels are right. A label is predicted where its logit is above 0; one whose
        logit is NaN is wrong.
    accuracy_of_labels : list of float
        Share of the examples of which each label is right.
    loss : float
        Mean over the examples of the binary cross-entropy, in nats, summed over the labels, without label smoothing.
    n_examples : int
    """

    accuracy: float
    accuracy_of_labels: list[float]
    loss: float
    n_examples: int

    @property
    def figures(self) -> dict[str, Any]:
        """What a run records of it."""
        return {"accuracy": self.accuracy, "accuracy_of_labels": list(self.accuracy_of_labels), "loss": self.loss}

    def __str__(self) -> str:
        each = ", ".join(f"{share:.4g}" for share in self.accuracy_of_labels)
        return (
            f"accuracy {self.accuracy:.6g} (of each label {each}), loss {self.loss:.4g} on {self.n_examples:,} examples"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(self.figures)
        return described

    def _repr_html_(self) -> str:
        caption = f"accuracy {self.accuracy:.6g}, loss {self.loss:.4g} on {self.n_examples:,} examples"
        rows = [(str(label), f"{share:.6g}") for label, share in enumerate(self.accuracy_of_labels)]
        return captioned_table(caption, ("label", "accuracy"), rows)


@dataclass(frozen=True, eq=False)
class ValuesEvaluation(Result):
    """What `evaluate` measures of values.

    Parameters
    ----------
    r2 : float or None
        R²: 1 where all are predicted as they are, 0 where all are predicted by their mean; of several values the mean.
        None of a single example.
    rmse, mae : float or list of float
        Root of the mean squared error and mean absolute error, in the unit of the values; lists of several.
    loss : float
        Half the mean squared error of what was learnt: of standardised values, where the examples say so.
    n_examples : int
    """

    r2: float | None
    rmse: float | list[float]
    mae: float | list[float]
    loss: float
    n_examples: int

    @property
    def figures(self) -> dict[str, Any]:
        """What a run records of it."""
        return {"r2": self.r2, "rmse": self.rmse, "mae": self.mae, "loss": self.loss}

    def __str__(self) -> str:
        r2 = "" if self.r2 is None else f"R² {self.r2:.6g}, "
        errors = f"root mean squared error {_listed(self.rmse)}, mean absolute error {_listed(self.mae)}"
        return f"{r2}{errors}, loss {self.loss:.4g} on {self.n_examples:,} examples"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as what JSON knows. Infinite and NaN become None."""
        described: dict[str, Any] = json_ready(self.figures)
        return described


AnyEvaluation = Evaluation | LabelsEvaluation | ValuesEvaluation


def _listed(errors: float | list[float]) -> str:
    return " and ".join(f"{error:.6g}" for error in (errors if isinstance(errors, list) else [errors]))
