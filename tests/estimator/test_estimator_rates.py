"""The learning rate and the noise of every step."""

import numpy as np
import pytest
from scipy import sparse

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import IRIS, SMALL, record


def test_an_adaptive_rate_shrinks_until_it_is_over():
    X, y = IRIS
    classifier = BatchNormClassifier(solver="sgd", learning_rate="adaptive", tol=0.5, max_iter=3000, n_iter_no_change=3)
    _, rates, _ = record(classifier, X, y)
    assert classifier.n_iter_ < 3000
    levels = list(dict.fromkeys(rates))
    np.testing.assert_allclose(levels, 0.01 / 5.0 ** np.arange(len(levels)))
    assert levels[-1] <= 1e-6 < levels[-2]


def test_an_inverse_scaling_rate_falls_with_the_examples():
    X, y = IRIS
    _, rates, _ = record(BatchNormClassifier(**SMALL, schedule="invscaling", power_t=0.3), X, y)
    expected = 0.01 / (np.arange(10) * 150 + 1) ** 0.3
    np.testing.assert_allclose(rates, np.repeat(expected, len(rates) // 10))


def test_partial_fit_does_not_anneal():
    X, y = IRIS
    assert set(record(BatchNormRegressor(**SMALL), X, y, "partial_fit")[1]) == {0.3 * 0.01}


def test_of_other_optimizers_the_rate_is_constant_as_with_scikit_learn():
    _, rates, _ = record(BatchNormClassifier(**SMALL, solver="adam", learning_rate="invscaling"), *IRIS)
    assert set(rates) == {0.01}


def test_noise_fades_with_the_rate_and_is_less_the_more_rows_there_are_for_each_column():
    for n, columns, largest in ((160, 4, 0.1), (640, 4, 0.05), (160, 40, 0.2), (160, 80, 0.2)):
        X = np.random.default_rng(0).normal(size=(n, columns))
        _, rates, noises = record(BatchNormRegressor(**SMALL | {"batch_size": 32}), X, X[:, 0])
        np.testing.assert_allclose(noises, largest * np.array(rates) / 0.01)
        assert max(rates) == pytest.approx(0.01, rel=0.01)
        assert noises[-1] < 0.01 * largest


def test_a_stream_a_single_batch_and_a_sparse_table_have_no_noise_by_default():
    X, y = IRIS
    for inputs, method, size in ((X, "partial_fit", 10), (X, "fit", 150), (sparse.csr_array(X), "fit", 10)):
        assert set(record(BatchNormRegressor(**SMALL | {"batch_size": size}), inputs, y, method)[2]) == {0.0}
    assert set(record(BatchNormRegressor(**SMALL, input_noise=0.3), X, y, "partial_fit")[2]) == {0.3}
