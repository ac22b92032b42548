"""A fitted estimator as a torch module with its input stage, with rows and what it predicts for them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from batchnorm.errors import InputError, in_words
from batchnorm.exporting.columns import FromColumns, FromTable, groups, keys_of, used
from batchnorm.exporting.rows import columns_read, made_up_rows, missing_text, table_read
from batchnorm.exporting.stages import ClassOutputs, InSingle, Scaling, ValueOutputs, WithStage
from batchnorm.inputs import Columns, Numbers, Texts, Times

MADE_UP = 100  # rows, where nobody gives any


@dataclass(frozen=True, eq=False)
class Subject:
    """A fitted estimator, and rows on which it is compared.

    Parameters
    ----------
    estimator : BatchNormEstimator
    X : frame or array
    """

    estimator: Any
    X: Any

    @property
    def columns(self) -> Columns | None:
        """What the columns of a frame become; None where the input is one table of numbers, whatever it becomes."""
        return None if self.is_table else self.estimator._columns

    @property
    def is_table(self) -> bool:
        """Whether the input is one table of numbers: such was trained on, and its columns have no names."""
        columns = self.estimator._columns
        if columns is None:
            return True
        plain = all(isinstance(learnt, Numbers) and not learnt.durations for learnt in used(columns))
        return plain and not hasattr(self.estimator, "feature_names_in_")

    @property
    def dtype(self) -> torch.dtype:
        """The network's precision."""
        dtype: torch.dtype = next(self.estimator.network_.parameters()).dtype
        return dtype

    @property
    def number(self) -> str:
        """The type of numbers that the graph reads."""
        columns = self.estimator._columns
        is_double = self.dtype == torch.float64 if columns is None else columns.double
        return "float64" if is_double else "float32"

    @property
    def is_classifier(self) -> bool:
        """Whether there are classes."""
        return hasattr(self.estimator, "classes_")

    @property
    def several(self) -> bool:
        """Whether there are several labels at once."""
        return self.is_classifier and self.estimator._multilabel

    @property
    def features(self) -> list[str]:
        """The names of the columns of `X`."""
        names = getattr(self.estimator, "feature_names_in_", None)
        if names is not None:
            return [str(name) for name in names]
        columns = self.estimator._columns
        n = self.estimator.n_features_in_
        return [f"x{i}" for i in range(n)] if columns is None else [learnt.name for learnt in columns.learnt]

    @cached_property
    def left_out(self) -> list[str]:
        """The columns that the network does not read, which are no inputs."""
        if self.columns is None:
            return []
        return [name for name, learnt in zip(self.features, self.columns.learnt, strict=True) if not learnt.names()]

    def inputs(self) -> list[tuple[str, Any, NDArray[Any]]]:
        """Return for each input its name, what was learnt of it (None of a table), and its values."""
        if self.columns is None:
            return [("X", None, table_read(self.X, self.number))]
        read = columns_read(self.X, self.columns, self.number)
        names = [name for name, learnt in zip(self.features, self.columns.learnt, strict=True) if learnt.names()]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"column {twice!r} is there twice: an exported model takes columns by name")
        return list(zip(names, used(self.columns), read, strict=True))

    def module(self, *, in_single: bool = False) -> nn.Module:
        """Return the network, which may be made to compute in float32, with its input stage and its outputs."""
        columns = self.estimator._columns
        scaling = Scaling(self.estimator, self.dtype, fills=columns is None)
        made = FromTable if self.is_table else FromColumns
        reader = None if columns is None else made(columns)
        network = InSingle(self._network()) if in_single else self._network()
        return WithStage(reader, scaling, network, self.outputs()).eval()

    def outputs(self) -> nn.Module:
        """Return what turns the network's outputs into predictions."""
        return ClassOutputs(self.estimator) if self.is_classifier else ValueOutputs(self.estimator, self.dtype)

    def scaled_module(self) -> nn.Module:
        """Return the network with its outputs, for what `scale_inputs` returns."""
        return WithStage(None, None, self._network(), self.outputs()).eval()

    def _network(self) -> nn.Module:
        folded: nn.Module = self.estimator.network_.folded().cpu().eval()
        return folded

    def expected(self) -> list[NDArray[Any]]:
        """Return what the outputs must be: numbers of classes and probabilities, or values."""
        predicted = self.estimator.predict(self.X)
        if not self.is_classifier:
            return [predicted]
        probabilities = self.estimator.predict_proba(self.X)
        if self.several:
            return [predicted, probabilities]
        number = {each: i for i, each in enumerate(self.estimator.classes_.tolist())}
        return [np.array([number[each] for each in predicted.tolist()], dtype=np.int64), probabilities]

    def argument(self) -> Any:
        """Return the input as `module` takes it: a table, or groups of columns, texts by their numbers."""
        found = []
        for _, learnt, values in self.inputs():
            if isinstance(learnt, Texts):
                values = _numbered(values, keys_with_missing(learnt))
            found.append(torch.from_numpy(np.ascontiguousarray(values)))
        if self.columns is None:
            return found[0]
        return [torch.stack([found[i] for i in group.places], 1) for group in groups(self.columns)]

    def metadata(self) -> dict[str, str]:
        """Return what a file says of the estimator, as texts."""
        task = "regression" if not self.is_classifier else "several labels" if self.several else "classification"
        said: dict[str, Any] = {
            "task": task,
            "features": self.features,
            "network_features": self.estimator.network_feature_names_.tolist(),
        }
        if self.is_classifier:
            said["classes"] = [each if isinstance(each, bool | int | float) else str(each) for each in
                               self.estimator.classes_.tolist()]  # fmt: skip
        else:
            said["loss"] = self.estimator.loss
        if self.columns is not None:
            said["missing"] = {name: _missing(learnt) for name, learnt, _ in self.inputs()}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in said.items()}

    def notes(self) -> list[str]:
        """Return what the user may not expect."""
        notes = []
        if self.left_out:
            notes.append(f"columns that are not read: {', '.join(self.left_out)}")
        if self.estimator._columns is None and not self.estimator._inputs.n:
            notes.append("a number that is missing gives NaN, where the estimator refuses it")
        return notes


def open_estimator(estimator: Any, example: Any, rows: int | None) -> Subject:
    """Return an estimator with rows to compare it on.

    Raises
    ------
    InputError
        If it is not fitted, or would not predict the rows.
    """
    if not hasattr(estimator, "network_"):
        raise InputError(f"this {type(estimator).__name__} is not fitted: call fit before export")
    if example is None:
        return Subject(estimator, made_up_rows(estimator, MADE_UP if rows is None else rows))
    some = example if rows is None else example[:rows]
    try:
        estimator.scale_inputs(some)
    except ValueError as error:
        raise InputError(f"example is not what the estimator takes: {in_words(error)}") from error
    return Subject(estimator, some)


def keys_with_missing(learnt: Texts) -> list[str]:
    """Return the texts that have numbers of their own, and last what stands for a missing one."""
    keys = keys_of(learnt)
    return [*keys, missing_text(keys)]


def _missing(learnt: Any) -> str:
    if isinstance(learnt, Texts):
        return missing_text(keys_of(learnt))
    return "-9223372036854775808" if isinstance(learnt, Times) else "NaN"


def _numbered(texts: NDArray[Any], keys: list[str]) -> NDArray[np.int64]:
    numbers: Mapping[str, int] = {key: i for i, key in enumerate(keys)}
    return np.array([numbers.get(text, len(keys)) for text in texts.tolist()], dtype=np.int64)
