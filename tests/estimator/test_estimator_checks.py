"""scikit-learn's own checks of an estimator, all of them, with one thread and with two."""

import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

import batchnorm as bn


@pytest.fixture
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _no_check_skips_itself(monkeypatch):
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")


@parametrize_with_checks([bn.BatchNormClassifier(), bn.BatchNormRegressor()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


# Threads share out the products of a step: ten epochs have as many kinds of them as the default's hundreds.
@pytest.mark.usefixtures("_two_threads")
@parametrize_with_checks([bn.BatchNormClassifier(epochs=10), bn.BatchNormRegressor(epochs=10)])
def test_scikit_learns_checks_with_two_threads(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [bn.BatchNormRegressor(loss="poisson", epochs=20), bn.BatchNormRegressor(loss="quantile", quantile=0.9)],
    expected_failed_checks=lambda estimator: (
        {"check_regressor_multioutput": "its targets are below 0"} if estimator.loss == "poisson" else {}
    ),
)
def test_scikit_learns_checks_of_other_losses(estimator, check):
    check(estimator)
