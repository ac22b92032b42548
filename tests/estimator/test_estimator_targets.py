"""Targets of every kind: classes by any name, several labels, regression in the targets' own unit."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.model_selection import train_test_split

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, IRIS, SMALL


@pytest.mark.parametrize(
    ("load", "least"), [(load_iris, 0.90), (load_breast_cancer, 0.93), (load_digits, 0.95), (load_diabetes, 0.15)]
)
def test_it_learns_toy_sets(load, least):
    X, y = load(return_X_y=True)
    classes = y if len(np.unique(y)) < 20 else None
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=classes)
    estimator = (BatchNormRegressor if classes is None else BatchNormClassifier)(random_state=0).fit(X, y)
    assert estimator.score(X_test, y_test) > least


def test_regression_is_in_the_unit_of_its_targets():
    X, y = make_regression(300, 5, n_targets=2, noise=1.0, random_state=0)
    y = y * [1e6, 1e-6] + [1e9, -1.0]
    regressor = BatchNormRegressor(random_state=0).fit(X[:200], y[:200])
    assert regressor.predict(X[200:]).shape == (100, 2)
    assert regressor.score(X[200:], y[200:]) > 0.95
    one = BatchNormRegressor(**SMALL).fit(X, y[:, 0])
    assert one.predict(X).shape == (300,)
    column = BatchNormRegressor(**SMALL).fit(X, y[:, :1])
    assert np.array_equal(column.predict(X), one.predict(X))


def test_values_far_from_zero_are_not_rounded():
    X = np.arange(200)[:, None] % 37
    y = 1.7e9 + 10.0 * X[:, 0]
    assert BatchNormRegressor(random_state=0).fit(X, y).score(X, y) > 0.99
    constant = BatchNormRegressor(**SMALL).fit(X, np.full(200, 1e-6))
    assert set(constant.predict(X)) == {1e-6}
    assert constant.intercepts_[-1].tolist() == [pytest.approx(1e-6)]


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "absolute_error"])
@pytest.mark.parametrize("size", [1e44, 1e-50])
def test_values_beyond_float32_are_predicted_in_float64(loss, size):
    X = np.random.default_rng(0).uniform(size=(100, 2)).astype(np.float32)
    y = 1 + X[:, 0].astype(np.float64)
    small, large = (BatchNormRegressor(**SMALL, loss=loss).fit(X, values).predict(X) for values in (y, size * y))
    assert (small.dtype, large.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(large / size, small, rtol=1e-4)


def test_labels_may_be_strings():
    X, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)
    classifier = BatchNormClassifier(random_state=0).fit(X, names[y])
    assert classifier.classes_.tolist() == names.tolist()
    assert np.array_equal(classifier.predict(X), names[BatchNormClassifier(random_state=0).fit(X, y).predict(X)])


def test_a_single_class_is_all_that_is_predicted():
    X, _ = IRIS
    classifier = BatchNormClassifier(**SMALL).fit(X, np.full(150, "only"))
    assert set(classifier.predict(X)) == {"only"}
    assert np.array_equal(classifier.predict_proba(X), np.ones((150, 1)))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_logarithms_and_decisions_agree(n_classes):
    X, y = make_classification(100, n_informative=5, n_classes=n_classes, random_state=0)
    classifier = BatchNormClassifier(**SMALL).fit(X, y)
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (100, n_classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(classifier.predict_log_proba(X), np.log(probabilities), rtol=1e-9)
    assert np.array_equal(classifier.predict(X), probabilities.argmax(1))
    decision = classifier.decision_function(X)
    if n_classes == 2:
        assert decision.shape == (100,)
        np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-9)
    else:
        np.testing.assert_allclose(np.exp(decision) / np.exp(decision).sum(1, keepdims=True), probabilities)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array], ids=["array", "CSR"])
def test_several_labels_at_once(make):
    X, y = make_multilabel_classification(400, n_classes=4, random_state=0)
    classifier = BatchNormClassifier(random_state=0).fit(X[:300], make(y[:300]))
    predicted, probabilities = classifier.predict(X[300:]), classifier.predict_proba(X[300:])
    assert predicted.shape == probabilities.shape == (100, 4)
    assert np.array_equal(predicted, probabilities > 0.5)
    np.testing.assert_allclose(classifier.predict_log_proba(X[300:]), np.log(probabilities), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(1 / (1 + np.exp(-classifier.decision_function(X[300:]))), probabilities, rtol=1e-9)
    assert (predicted == y[300:]).mean() > 0.65
    assert classifier.classes_.tolist() == [0, 1, 2, 3]
    assert classifier.out_activation_ == "logistic"


def test_targets_of_other_kinds_are_refused():
    X, y = IRIS
    with pytest.raises(ValueError, match="Unknown label type"):
        BatchNormClassifier().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="multiclass-multioutput targets are not supported: fit one classifier for"):
        BatchNormClassifier().fit(X, np.stack([y, y[::-1]], 1))


def test_times_are_classes_but_no_values():
    X, y = IRIS
    days = np.array(["2024-01-01", "2024-01-02", "NaT"], dtype="M8[D]")
    assert BatchNormClassifier(**SMALL).fit(X, days[y % 2]).classes_.tolist() == days[:2].tolist()
    with pytest.raises(ValueError, match="y contains NaT"):
        BatchNormClassifier(**SMALL).fit(X, days[y])
    for times, name in ((days[y], "times"), (days[y] - days[0], "durations")):
        with pytest.raises(
            ValueError, match=f"y holds {name}, expected numbers: make some of them, such as days since"
        ):
            BatchNormRegressor(**SMALL).fit(X, times)


@BOTH
@pytest.mark.parametrize(
    "y",
    [
        *([known, nothing] for known in ("a", 1.0, True) for nothing in (None, np.nan, pd.NA)),
        np.array(["a", pd.NA], dtype=object), np.array([1, None], dtype=object), pd.Series([True, None]),
        pd.Series([1, None], dtype="Int64"), pd.Series(["a", None], dtype="category"), pl.Series(["a", None]),
        pl.Series([1, None]), pa.array(["a", None]), pa.array([True, None]),
        pd.DataFrame({"p": ["a", "b"], "q": [1, None]}),
    ],
    ids=range(19),
)  # fmt: skip
def test_missing_targets_are_refused_however_written(estimator_class, y):
    with pytest.raises(ValueError, match="Input y contains NaN"):
        estimator_class(**SMALL).fit([[0.0], [1.0]], y)


def test_values_beyond_what_float64_squares_are_refused():
    X, y = IRIS
    with pytest.raises(ValueError, match=r"y holds numbers of up to 2e\+300, whose variance float64 does not hold"):
        BatchNormRegressor(**SMALL).fit(X, 1e300 * y)
