"""Which columns of a table are what, and its rows in two parts: one to train on, one to test on."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from batchnorm.errors import InputError, in_words
from batchnorm.inputs import StoredFrame, open_frame, read_numbers, read_times
from batchnorm.tables.keeping import InMemory, OnDisk, Reading, keep_rows
from batchnorm.tables.runs import check_columns
from batchnorm.tables.splitting import Rows, split_rows
from batchnorm.tables.targets import target_array

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Split:
    """Which rows are kept for the test.

    Parameters
    ----------
    share : float, default 0.2
        Of the rows.
    seed : int, default 0
        Draws them; classes have their share on both sides.
    group : str, optional
        A column of which no value is on both sides.
    time : str, optional
        A column: the latest rows are tested on.
    """

    share: float = 0.2
    seed: int = 0
    group: str | None = None
    time: str | None = None


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows: the columns that are learnt from, targets, weights."""

    inputs: pa.Table | StoredFrame
    target: NDArray[Any]
    weights: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True, eq=False)
class KnownRows:
    """The rows of a table whose target is known.

    Parameters
    ----------
    kept : InMemory or OnDisk
        The table.
    rows : array, shape (rows,)
        Their places in it.
    """

    kept: InMemory | OnDisk
    rows: Rows

    @property
    def texts(self) -> list[str]:
        """The columns that hold texts or categories."""
        kinds = (pa.types.is_string, pa.types.is_dictionary)
        return [field.name for field in self.kept.schema if any(is_one(field.type) for is_one in kinds)]

    def column(self, name: str) -> pa.ChunkedArray:
        """Return a column of them."""
        return self.kept.column(name, self.rows)

    def targets(self, settings: Mapping[str, Any]) -> NDArray[Any]:
        """Return what an estimator takes as `y`."""
        names = settings["target"]
        return target_array([self.column(name) for name in names], names, settings["task"])

    def weights(self, settings: Mapping[str, Any]) -> NDArray[np.float64] | None:
        """Return how often each counts, or None."""
        name = settings["sample_weight"]
        if name is None:
            return None
        column = self.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise InputError(f"the weights in {name!r} are {column.type} values, expected numbers")
        if column.null_count:
            raise InputError(f"the weights in {name!r} are missing in {column.null_count:,} rows")
        weights = np.asarray(column.cast(pa.float64()).to_numpy())
        if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            raise InputError(f"the weights in {name!r} are not all finite, not negative, and some above 0")
        return weights

    def split(self, split: Split, classes: NDArray[Any] | None) -> tuple[Rows, Rows]:
        """Return which of them are trained on, and which are tested on."""
        groups = None if split.group is None else _as_texts(self.column(split.group))
        times = None if split.time is None else self._times(split.time)
        return split_rows(len(self.rows), split.share, split.seed, classes=classes, groups=groups, times=times)

    def _times(self, name: str) -> NDArray[Any]:
        column = self.column(name)
        if column.null_count:
            raise InputError(f"--time {name!r} is missing in some rows: leave them out")
        if pa.types.is_string(column.type):
            raise InputError(f"--time {name!r} holds texts, expected dates, times or numbers")
        return np.asarray(column.to_numpy())


def known_rows(
    paths: Sequence[Path],
    drop: Sequence[str],
    target: Sequence[str],
    how: Reading,
    notify: Notify,
    texts: Collection[str] = (),
) -> KnownRows:
    """Read tables, some columns as `texts` whatever they look like, and return the rows whose target is there."""
    kept = keep_rows(paths, drop, how, texts)
    check_columns(kept.names, target, "the table")
    every = np.arange(kept.n_rows)
    known = np.ones(kept.n_rows, dtype=bool)
    for name in target:
        known &= np.asarray(kept.column(name, every).is_valid(), dtype=bool)
    if missing := int((~known).sum()):
        notify(f"{missing:,} of {kept.n_rows:,} rows have no {' and '.join(target)}: they are left out")
    if not known.any():
        raise InputError(f"no row has a {' and '.join(target)}")
    return KnownRows(kept, every[known])


def training_and_test(
    known: KnownRows,
    targets: NDArray[Any],
    test: Sequence[Path],
    settings: Mapping[str, Any],
    how: Reading,
    notify: Notify,
) -> tuple[Part, Part]:
    """Return what is trained on and what is tested on: other files, or some of the rows."""
    weights = known.weights(settings)
    if not test:
        classes = targets if settings["task"] == "classification" and targets.ndim == 1 else None
        training, testing = known.split(Split(**settings["split"]), classes)
        return _part(known, training, targets, weights, settings), _part(known, testing, targets, weights, settings)
    there = known_rows(test, settings["dropped"], settings["target"], how, notify, known.texts)
    check_columns(there.kept.names, settings["columns"], "the table to test on")
    of_test = there.targets(settings), there.weights(settings)
    return _part(known, None, targets, weights, settings), _part(there, None, *of_test, settings)


def check_predictable(testing: Part, training: Part, kinds: Mapping[str, str]) -> None:
    """Refuse rows to test on that cannot be predicted: what was trained until then would be lost.

    Parameters
    ----------
    testing, training : Part
    kinds : mapping of str to str
        What each column of the training holds, as its profile has it.
    """
    for place, field in enumerate(_schema(training.inputs)):
        try:
            _read_as(kinds[field.name], testing.inputs, place, getattr(field.type, "tz", None))
        except ValueError as error:
            raise InputError(f"the rows to test on cannot be predicted: {in_words(error)}") from error


def _schema(inputs: pa.Table | StoredFrame) -> pa.Schema:
    return inputs.store.outline.schema if isinstance(inputs, StoredFrame) else inputs.schema


def _read_as(kind: str, inputs: pa.Table | StoredFrame, place: int, zone: str | None) -> None:
    """Read a column as one of a training is read, or raise ValueError; any may be one of texts."""
    if kind not in ("number", "duration", "time"):
        return
    frame = open_frame(inputs.store.column(place) if isinstance(inputs, StoredFrame) else inputs.select([place]))
    assert frame is not None
    if kind == "time":
        read_times(frame.columns[0], zone)
    else:
        read_numbers(frame.columns[0], durations=kind == "duration")


def _part(
    known: KnownRows,
    which: Rows | None,
    targets: NDArray[Any],
    weights: NDArray[np.float64] | None,
    settings: Mapping[str, Any],
) -> Part:
    if which is None:
        return Part(known.kept.frame(settings["columns"], known.rows), targets, weights)
    inputs = known.kept.frame(settings["columns"], known.rows[which])
    return Part(inputs, targets[which], None if weights is None else weights[which])


def roles_of(there: Sequence[str], settings: Mapping[str, Any]) -> dict[str, str]:
    """Return which columns are no inputs, and why; settings as of a run, without what the table tells."""
    target, drop, sample_weight = settings["target"], settings["dropped"], settings["sample_weight"]
    split = settings["split"] or {}
    group, time = split.get("group"), split.get("time")
    named = {
        "--target": target, "--sample-weight": [sample_weight], "--drop": drop, "--group": [group], "--time": [time],
    }  # fmt: skip
    for option, names in named.items():
        for name in names:
            if name is not None and name not in there:
                raise InputError(f"{option} {name!r} is no column of the table: it has {list(there)}")
    if len(set(target)) < len(target):
        raise InputError(f"--target names a column twice: {list(target)}")
    roles: dict[str, str] = dict.fromkeys(drop, "dropped")
    roles |= {} if group is None else {group: "group"}
    roles |= {} if sample_weight is None else {sample_weight: "weight"}
    if taken := [name for name in target if name in roles or name == time]:
        raise InputError(f"{taken[0]!r} cannot be the target and something else as well")
    if taken := [name for name in drop if name in (group, time, sample_weight)]:
        raise InputError(f"{taken[0]!r} cannot be dropped and be something else as well")
    return roles | dict.fromkeys(target, "target")


def _as_texts(column: pa.ChunkedArray) -> NDArray[Any]:
    return np.array([str(value) for value in column.to_pylist()])
