"""Weights of examples and of classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.ensemble import AdaBoostClassifier
from sklearn.metrics import balanced_accuracy_score, r2_score

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator.weights import Epoch, concentration
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs, same


@BOTH
def test_a_weight_of_two_is_the_example_twice(estimator_class):
    X, y = IRIS
    counts = np.random.default_rng(0).integers(0, 4, 150)
    weighted = estimator_class(**SMALL, batch_size=1000).fit(X, y, sample_weight=counts)
    repeated = estimator_class(**SMALL, batch_size=1000).fit(X.repeat(counts, 0), y.repeat(counts))
    np.testing.assert_allclose(outputs(weighted, X), outputs(repeated, X), rtol=1e-7)


@BOTH
@pytest.mark.parametrize("scale", [1e-50, 1 / 150, 1e13])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_ratios_of_weights_count(estimator_class, scale, dtype):
    X, y = IRIS
    X, weights = X.astype(dtype), np.random.default_rng(0).uniform(0.5, 2, 150)
    plain = estimator_class(**SMALL).fit(X, y, sample_weight=weights)
    scaled = estimator_class(**SMALL).fit(X, y, sample_weight=scale * weights)
    np.testing.assert_allclose(outputs(scaled, X), outputs(plain, X), rtol=1e-3 if dtype == np.float32 else 1e-9)


def test_boosting_by_weights_works():
    X, y = DIGITS
    boosted = AdaBoostClassifier(BatchNormClassifier(epochs=5), n_estimators=3, random_state=0)
    assert boosted.fit(X[:900], y[:900]).score(X[900:], y[900:]) > 0.9


def test_balanced_classes_weigh_the_same():
    X, y = make_classification(600, n_features=5, weights=[0.95], flip_y=0.1, class_sep=0.5, random_state=0)
    plain, balanced = (
        BatchNormClassifier(random_state=0, epochs=30, class_weight=weight).fit(X, y) for weight in (None, "balanced")
    )
    assert (balanced.predict(X) == 1).mean() > (plain.predict(X) == 1).mean() + 0.1
    by_hand = {0: 600 / (2 * (y == 0).sum()), 1: 600 / (2 * (y == 1).sum())}
    given = BatchNormClassifier(random_state=0, epochs=30, class_weight=by_hand).fit(X, y)
    np.testing.assert_allclose(given.predict_proba(X), balanced.predict_proba(X), rtol=1e-9)
    counts = np.random.default_rng(0).integers(0, 3, 600)
    options = {**SMALL, "class_weight": "balanced", "batch_size": 2000}
    weighted = BatchNormClassifier(**options).fit(X, y, sample_weight=counts)
    repeated = BatchNormClassifier(**options).fit(X.repeat(counts, 0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)


def test_class_weights_of_several_labels():
    X, y = make_multilabel_classification(300, n_classes=2, random_state=0)
    counts = [np.bincount(column, minlength=2) for column in y.T]
    by_hand = [{i: 300 / (2 * n) for i, n in enumerate(count)} for count in counts]
    a, b, c = (BatchNormClassifier(**SMALL, class_weight=weight).fit(X, y) for weight in ("balanced", by_hand, None))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-9)
    assert not np.allclose(a.predict_proba(X), c.predict_proba(X))


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"a": 1.0}, r"class_weight has \['a'\], which are no classes, and has not \[0, 1, 2\], which are"),
        ({0: -1.0}, "class_weight is {0: -1.0}, expected finite weights of at least 0"),
        ("even", r"The 'class_weight' parameter of BatchNormClassifier must be None, 'balanced', a dict"),
        ([{0: 1.0}], "class_weight must be a dict of class to weight"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(class_weight, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier(class_weight=class_weight).fit(*IRIS)
    with pytest.raises(ValueError, match="class_weight='balanced' cannot be known from a part of the data"):
        BatchNormClassifier(class_weight="balanced").partial_fit(*IRIS, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"sample_weight has shape \(3,\), expected \(150,\): one per example"),
        (np.full(150, -1.0), "sample_weight holds -1, expected no weight below 0"),
        (np.zeros(150), "sample_weight is zero for every example"),
        (np.eye(150)[0], "n_samples=1 is left to train on, without those of weight 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier().fit(*IRIS, sample_weight=weight)


def test_a_constant_weight_may_be_a_number():
    X, y = IRIS
    a, b = (BatchNormClassifier(**SMALL).fit(X, y, sample_weight=weight) for weight in (2.0, np.full(150, 2)))
    assert same(a, b)


@settings(max_examples=60, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=3, max_size=60),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
def test_in_an_epoch_a_row_stands_as_often_as_it_weighs(weights, seed, shuffle):
    weights = np.array(weights) / np.mean(weights)
    rows = np.arange(len(weights)) + 5
    epoch = Epoch(rows, np.r_[np.zeros(5), weights], batch_size=2)
    order = epoch.order(np.random.default_rng(seed), shuffle)
    assert len(order) == len(epoch) == len(rows)
    assert epoch.weights is None
    counts = np.bincount(order, minlength=rows[-1] + 1)[5:]
    assert (np.abs(counts - weights) < 1 + 1e-9).all()


def test_copies_of_a_row_stand_evenly_apart():
    weights = np.full(100, 0.9)
    weights[7] = 10.9
    places = np.flatnonzero(Epoch(np.arange(100), weights, 10).order(np.random.default_rng(0), True) == 7)
    assert len(places) in (10, 11)
    assert np.diff(places).min() > 5


def test_equal_weights_are_none():
    alone = Epoch(np.arange(50), None, 8).order(np.random.default_rng(3), True)
    np.testing.assert_array_equal(Epoch(np.arange(50), np.ones(50), 8).order(np.random.default_rng(3), True), alone)
    np.testing.assert_array_equal(
        Epoch(np.arange(50), np.ones(50), 8).order(np.random.default_rng(3), False), range(50)
    )


def test_what_few_examples_say_decays_as_much_faster():
    rows, weights = np.arange(4), np.array([3.0, 1, 0.0, 0])
    assert concentration(rows, None, None, 2) == 1
    assert concentration(rows, weights, weights, 2) == pytest.approx(4 * 10 / 16)
    assert concentration(rows[:2], weights, weights, 8) == pytest.approx(1)  # as copies would have it
    assert concentration(rows[:2], weights * [2, 1, 1, 1], weights, 8) == pytest.approx(4 * (3 * 4 + 1) / 49)


def rare(seed, n, share):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < share).astype(int)
    y[:5] = 1
    X = rng.normal(size=(n, 5))
    X[:, :2] += 2 * y[:, None]
    return X.astype(np.float32), y


@pytest.mark.parametrize(("share", "least"), [(0.1, 0.91), (0.01, 0.88), (0.003, 0.8)])
@pytest.mark.parametrize("size", ["auto", 8, 200, 4000])
def test_a_rare_class_is_learnt(share, least, size):
    """In the batch's moments its examples would be nothing but the mean: .5 at 1 %."""
    X, y = rare(0, 4000, share)
    X_test, y_test = rare(1, 20000, share)
    classifier = BatchNormClassifier(class_weight="balanced", random_state=0, batch_size=size, epochs=10).fit(X, y)
    assert balanced_accuracy_score(y_test, classifier.predict(X_test)) > least


def test_a_rare_label_is_learnt():
    X, y = rare(0, 4000, 0.01)
    X_test, y_test = rare(1, 20000, 0.01)
    both, both_test = np.stack([y, X[:, 2] > 0], 1), np.stack([y_test, X_test[:, 2] > 0], 1)
    weights = np.where(y == 1, 0.5 / y.mean(), 0.5 / (1 - y.mean()))
    predicted = BatchNormClassifier(random_state=0, epochs=10).fit(X, both.astype(int), weights).predict(X_test)
    assert balanced_accuracy_score(both_test[:, 0], predicted[:, 0]) > 0.84
    assert balanced_accuracy_score(both_test[:, 1], predicted[:, 1]) > 0.9


def heavy(seed, n, weight):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.1 * rng.normal(size=n)
    few = np.arange(n) < n // 30
    X[few] += 3
    y[few] = 5 - 2 * X[few, 0]
    return X, y, np.where(few, weight, 1.0)


@pytest.mark.parametrize("weight", [100.0, 1e6])
def test_a_few_heavy_rows_are_learnt(weight):
    """In the batch's moments they would be nothing but the mean: a weighted R² of .1."""
    X_test, y_test, weights = heavy(1, 3000, weight)
    predicted = BatchNormRegressor(random_state=0).fit(*heavy(0, 600, weight)).predict(X_test)
    assert r2_score(y_test, predicted, sample_weight=weights) > 0.8
