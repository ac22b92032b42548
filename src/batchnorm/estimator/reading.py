"""From what a user gives for `X` to numbers, or to a frame that numbers are to be made of."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import assert_all_finite, check_array, check_X_y
from sklearn.utils.validation import validate_data

from batchnorm.data import row_blocks
from batchnorm.inputs import INFINITY, Frame, StoredFrame, array_frame, is_missing, open_frame, read_numbers

_ANY = {"ensure_all_finite": False}  # NaN is a missing value; infinity is refused here, with its column
_TABLES = {"accept_sparse": "csr", "dtype": "numeric", **_ANY}  # what scikit-learn is to accept
_NO_TARGETS = "no_validation"  # scikit-learn's word
_NO_NUMBERS = {"U": "texts", "T": "texts", "S": "bytes", "M": "times", "m": "durations"}  # kinds of numpy's types
_GIVE_A_FRAME = (
    "an array holds numbers alone: give a frame (pandas, polars, pyarrow), whose columns may be texts, categories or "
    'times, as set_output(transform="pandas") has scikit-learn\'s transformers make'
)


def read_table(
    estimator: Any, X: Any, y: Any = _NO_TARGETS, *, new: bool = False, **of_targets: Any
) -> tuple[Any, Any]:
    """Return checked inputs and targets: of plain numbers an array or a CSR matrix without NaN, of all else a `Frame`.

    Parameters
    ----------
    estimator : BatchNormEstimator
        Takes note of the number of columns and their names, if `new`.
    X, y : array_like
    new : bool
        Whether they need not fit what was trained on before.
    **of_targets
        How scikit-learn is to check `y`.

    Raises
    ------
    ValueError
        If they are not what is expected, or `X` holds infinity.
    """
    table = _unmasked(X)
    frame, columns = open_frame(table), None if new else estimator._columns
    asks = new and _asks_for_categories(estimator)
    stays = isinstance(frame, StoredFrame)  # and becomes numbers elsewhere than in memory
    if columns is None and (frame is None or (frame.is_plain and not asks and not stays)):
        if y is _NO_TARGETS and _is_as_trained_on(estimator, table):
            cells = table
        else:
            table = _numbers_of(table, None if new else estimator) if frame is None else _of_numpys_types(table)
            with np.errstate(invalid="ignore"):  # sums of the largest numbers
                read = validate_data(estimator, table, y, **_TABLES, **of_targets, reset=new)
            cells, y = (read, y) if y is _NO_TARGETS else read
        gaps = _has_gaps(estimator, cells)
        if not (gaps or asks):
            return cells, y
        names = names_of(estimator, cells.shape[1])
        return (frame or array_frame(_dense(cells), names)) if new else _filled(estimator, cells, names), y
    named = frame.store.outline if isinstance(frame, StoredFrame) else table
    validate_data(estimator, named, y, skip_check_array=True, reset=new)
    if frame is None:
        cells = np.array(table, dtype=object) if isinstance(table, list | tuple) else table
        frame = array_frame(check_array(cells, dtype=None, **_ANY, estimator=estimator, input_name="X"), None)
    outline = np.broadcast_to(0.0, (frame.n_rows, len(frame.columns)))  # shows scikit-learn its shape
    if y is _NO_TARGETS:
        check_array(outline, estimator=estimator, **_ANY)
    else:
        _, y = check_X_y(outline, y, estimator=estimator, **_ANY, **of_targets)
    if new or columns is not None:
        return frame, y
    cells = np.column_stack([read_numbers(column) for column in frame.columns])
    return _filled(estimator, cells, frame.names), y


def check_targets_known(y: Any) -> None:
    """Raise ValueError if targets are missing; scikit-learn looks for NaN alone."""
    if y is None:
        return
    values = np.asarray(y) if hasattr(y, "__array__") else np.array(y, dtype=object)
    if values.dtype == object and any(map(is_missing, values.ravel())):
        raise ValueError("Input y contains NaN, None or the like: leave these examples out")


def _is_as_trained_on(estimator: Any, X: Any) -> bool:
    """Tell whether scikit-learn takes an array as it is, for which it needs longer than a network for a few rows."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.dtype.kind not in "fiu":
        return False
    return len(X) > 0 and X.shape[1] == estimator.n_features_in_ and not hasattr(estimator, "feature_names_in_")


def _unmasked(X: Any) -> Any:
    """Return an array with NaN where it is masked."""
    if not isinstance(X, np.ma.MaskedArray):
        return X
    return np.ma.filled(X.astype(np.promote_types(X.dtype, np.float16)), np.nan)


def _numbers_of(X: Any, trained: Any) -> Any:
    """Return what scikit-learn can read as an array of numbers: of one of objects, or a list of such, their numbers.

    Raises
    ------
    TypeError, ValueError
        If it holds something else, as scikit-learn raises; this says in which column, and what to do.
    """
    if not (isinstance(X, list | tuple) or hasattr(X, "__array__")):
        return X
    array = np.asarray(X)
    if array.dtype.kind in _NO_NUMBERS:
        raise ValueError(f"X is an array of {_NO_NUMBERS[array.dtype.kind]}: {_GIVE_A_FRAME}")
    if array.dtype != object or array.ndim != 2:
        return X
    numbers = np.empty(array.shape)
    for i, column in enumerate(array.T):
        try:
            numbers[:, i] = [math.nan if is_missing(value) else value for value in column]
        except (TypeError, ValueError, OverflowError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            name = f"x{i}" if trained is None else names_of(trained, array.shape[1])[i]
            raise kind(f"column {name!r} of the array: {error}. {_GIVE_A_FRAME.capitalize()}") from error
    return numbers


def _of_numpys_types(X: Any) -> Any:
    """Return a frame of plain numbers without pandas' nullable types, which scikit-learn takes for float64."""
    if not hasattr(X, "dtypes") or not hasattr(X, "astype"):
        return X
    types = {name: of.numpy_dtype for name, of in zip(X.columns, X.dtypes, strict=True) if hasattr(of, "numpy_dtype")}
    return X.astype(types) if types else X


def _has_gaps(estimator: Any, cells: Any) -> bool:
    """Tell whether a table has missing numbers.

    Raises
    ------
    ValueError
        If it holds infinity, with the column's name, or is sparse and has missing numbers.
    """
    if sparse.issparse(cells):
        assert_all_finite(cells, input_name="X")
        return False
    if cells.dtype.kind != "f":
        return False
    with np.errstate(all="ignore"):
        if np.isfinite(np.sum(cells)):
            return False
    gaps = False
    for rows in row_blocks(*cells.shape):
        block = np.asarray(cells[rows])
        infinite = np.isinf(block).any(0)
        if infinite.any():
            raise ValueError(INFINITY.format(names_of(estimator, cells.shape[1])[int(infinite.argmax())]))
        gaps = gaps or bool(np.isnan(block).any())
    return gaps


def names_of(estimator: Any, n_columns: int) -> list[str]:
    """Return the columns' names, or x0, x1 and so on."""
    names = getattr(estimator, "feature_names_in_", None)
    return [f"x{i}" for i in range(n_columns)] if names is None else [str(name) for name in names]


def _filled(estimator: Any, cells: NDArray[Any], names: list[str]) -> NDArray[Any]:
    """Return a table with the training's median where a number is missing, as none was in the training."""
    gaps = np.isnan(cells)
    if gaps.any() and not estimator._inputs.n:
        raise ValueError(
            f"column {names[int(gaps.any(0).argmax())]!r} has missing numbers, and had none in training, where "
            "standardize=False took no medians: fill them, or train with some"
        )
    return np.where(gaps, estimator._inputs.mean.numpy().astype(cells.dtype), cells)


def _dense(cells: Any) -> NDArray[Any]:
    if sparse.issparse(cells):
        raise ValueError("categorical_features needs a frame or a dense array, and X is sparse: X.toarray()")
    return np.asarray(cells)


def is_plain(estimator: Any, frame: Frame) -> bool:
    """Tell whether a frame's columns are to be numbers as they are."""
    return frame.is_plain and not _asks_for_categories(estimator)


def _asks_for_categories(estimator: Any) -> bool:
    asked = estimator.categorical_features
    return asked is not None and not isinstance(asked, str) and np.size(asked) > 0
