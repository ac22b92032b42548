"""Which rows of a table are trained on, and which are kept for the test."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit

from batchnorm.errors import InputError
from batchnorm.estimator import held_back_of

Rows = NDArray[np.int64]


def split_rows(
    n: int,
    share: float,
    seed: int,
    *,
    classes: NDArray[Any] | None = None,
    groups: NDArray[Any] | None = None,
    times: NDArray[Any] | None = None,
) -> tuple[Rows, Rows]:
    """Return the rows to train on and those to test on, each in the table's order.

    Parameters
    ----------
    n : int
        Number of rows.
    share : float
        Of the rows, or of the groups, to test on; above 0 and below 1.
    seed : int
        Draws them; of no effect with `times`.
    classes : array, shape (n,), optional
        Of which each has its share on both sides; one that stands there once is trained on.
    groups : array, shape (n,), optional
        Of which none is on both sides.
    times : array, shape (n,), optional
        Numbers or times: what is latest is tested on. Rows of one time are on one side.

    Raises
    ------
    InputError
        If a side would be empty.
    """
    if times is not None:
        training, test = _by_time(times, share)
    elif groups is not None:
        training, test = _by_group(groups, share, seed)
    else:
        training, test = held_back_of(np.arange(n), classes, share, seed)
    if not (len(training) and len(test)):
        raise InputError(
            f"a test share of {share:g} leaves {len(training)} rows for training and {len(test)} for the test: "
            "give more rows, another --test-share, or the rows to test on by --test FILE"
        )
    return np.sort(training), np.sort(test)


def _by_group(groups: NDArray[Any], share: float, seed: int) -> tuple[Rows, Rows]:
    _, codes = np.unique(groups, return_inverse=True)
    n_groups = int(codes.max(initial=-1)) + 1
    if n_groups < 2:
        raise InputError(f"the column of groups has {n_groups} of them, expected at least 2: leave out --group")
    splitter = GroupShuffleSplit(1, test_size=min(math.ceil(share * n_groups), n_groups - 1), random_state=seed)
    training, test = next(splitter.split(codes, groups=codes))
    return training, test


def _by_time(times: NDArray[Any], share: float) -> tuple[Rows, Rows]:
    order = np.argsort(times, kind="stable")
    first = times[order[len(order) - max(1, math.floor(share * len(order)))]]
    late = times >= first
    return np.flatnonzero(~late), np.flatnonzero(late)
