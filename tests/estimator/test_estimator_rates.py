"""The learning rate of every step."""

import numpy as np

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import IRIS, SMALL, record


def test_an_adaptive_rate_shrinks_until_it_is_over():
    X, y = IRIS
    classifier = BatchNormClassifier(solver="sgd", learning_rate="adaptive", tol=0.5, max_iter=3000, n_iter_no_change=3)
    _, rates = record(classifier, X, y)
    assert classifier.n_iter_ < 3000
    levels = list(dict.fromkeys(rates))
    np.testing.assert_allclose(levels, 0.01 / 5.0 ** np.arange(len(levels)))
    assert levels[-1] <= 1e-6 < levels[-2]


def test_an_inverse_scaling_rate_falls_with_the_examples():
    X, y = IRIS
    _, rates = record(BatchNormClassifier(**SMALL, schedule="invscaling", power_t=0.3), X, y)
    expected = 0.01 / (np.arange(10) * 150 + 1) ** 0.3
    np.testing.assert_allclose(rates, np.repeat(expected, len(rates) // 10))


def test_partial_fit_does_not_anneal():
    X, y = IRIS
    assert set(record(BatchNormRegressor(**SMALL), X, y, "partial_fit")[1]) == {0.3 * 0.01}


def test_of_other_optimizers_the_rate_is_constant_as_with_scikit_learn():
    _, rates = record(BatchNormClassifier(**SMALL, solver="adam", learning_rate="invscaling"), *IRIS)
    assert set(rates) == {0.01}
