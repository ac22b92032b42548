"""What a column's values say of the targets: their mean, drawn towards that of all where few examples have the value.

With n examples of a value, the mean m of all and the value's own m_v, its statistic is m + (m_v − m) b n / (b n + w): w
is the variance of targets within a value and b that between values, estimated as in an analysis of variance with one
random factor. That is the posterior mean of a value's target if both are normal.

An example's own target must not be in what stands for it: training examples have the statistics of the other folds.
"""

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
MOST_OUTPUTS = 10  # of which statistics are taken: each is a column


def outputs_of(targets: NDArray[np.generic]) -> NDArray[np.float64] | None:
    """Return targets as columns (examples, outputs), of whole numbers, which are classes, one each; None if too many.

    Two classes make one column.
    """
    if targets.ndim == 1:
        classes = targets.astype(np.int64)
        last = int(classes.max())
        if last >= MOST_OUTPUTS:
            return None
        columns = classes[:, None] == (np.arange(last + 1) if last > 1 else np.ones(1))
        return np.asarray(columns, dtype=np.float64)
    return None if targets.shape[1] > MOST_OUTPUTS else targets.astype(np.float64)


def value_statistics(
    codes: NDArray[np.int64], outputs: NDArray[np.float64], weights: NDArray[np.float64], n_values: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the statistics of each value (values, outputs), and of all (outputs,), which is that of values not seen.

    Parameters
    ----------
    codes : array, shape (examples,)
        Number of each example's value; below 0 for one that has none.
    outputs : array, shape (examples, outputs)
    weights : array, shape (examples,)
        Of mean about 1.
    n_values : int
    """
    mean = np.average(outputs, axis=0, weights=weights)
    known = codes >= 0
    codes, outputs, weights = codes[known], outputs[known], weights[known]
    sizes = np.bincount(codes, weights, minlength=n_values)
    result = np.empty((n_values, outputs.shape[1]))
    n, n_present = sizes.sum(), int((sizes > 0).sum())
    for j, column in enumerate(outputs.T):
        sums = np.bincount(codes, weights * column, minlength=n_values)
        means = np.divide(sums, sizes, out=np.full(n_values, mean[j]), where=sizes > 0)
        within = np.sum(weights * (column - means[codes]) ** 2) / max(n - n_present, 1.0)
        spread = np.sum(sizes * (means - mean[j]) ** 2) / max(n_present - 1, 1)
        size = (n - np.sum(sizes**2) / n) / max(n_present - 1, 1) if n else 0.0
        between = max((spread - within) / size, 0.0) if size > 0 else 0.0
        trust = np.divide(between * sizes, between * sizes + within, out=np.zeros(n_values), where=between * sizes > 0)
        result[:, j] = mean[j] + trust * (means - mean[j])
    return result, mean


def out_of_fold(
    codes: NDArray[np.int64],
    outputs: NDArray[np.float64],
    weights: NDArray[np.float64],
    n_values: int,
    seed: int,
) -> NDArray[np.float64]:
    """Return for each example (examples, outputs) the statistics of its value in the other folds, drawn by the seed.

    The arguments are those of `value_statistics`. Examples of weight 0 are in no fold.
    """
    folds = np.full(len(codes), -1)
    counted = np.flatnonzero(weights)
    folds[counted] = np.random.default_rng(seed).permutation(len(counted)) % min(FOLDS, len(counted))
    result = np.empty(outputs.shape)
    for fold in np.unique(folds):
        inside = folds == fold
        others = np.where(inside, 0.0, weights)
        of_values, mean = value_statistics(codes, outputs, others if others.any() else weights, n_values)
        result[inside] = np.vstack([of_values, mean])[codes[inside]]  # −1 is the last row: that of no value
    return result
