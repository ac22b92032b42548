"""Weights of examples and of classes."""

import numpy as np
import pytest
from sklearn.datasets import make_classification, make_multilabel_classification
from sklearn.ensemble import AdaBoostClassifier

from batchnorm import BatchNormClassifier
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
