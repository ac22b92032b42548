"""scikit-learn's own checks of an estimator, all of them, with one thread and with two."""

import os
import subprocess
import sys

import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks

import batchnorm as bn


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


ARRAY_API = """
from sklearn.utils.estimator_checks import estimator_checks_generator
from batchnorm import BatchNormClassifier, BatchNormRegressor
for estimator in (BatchNormClassifier(), BatchNormRegressor()):
    for estimator, check in estimator_checks_generator(estimator):
        if check.func.__name__ == "check_array_api_input":
            check(estimator)
            print("passed")
"""


def test_the_check_that_skips_itself_above():
    """Unless this variable was set when scipy was imported."""
    environment = {**os.environ, "SCIPY_ARRAY_API": "1"}
    done = subprocess.run([sys.executable, "-c", ARRAY_API], capture_output=True, text=True, env=environment)
    assert done.stdout == "passed\npassed\n", done.stderr


@pytest.mark.usefixtures("_threads")
@parametrize_with_checks([bn.BatchNormClassifier(), bn.BatchNormRegressor()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@parametrize_with_checks(
    [bn.BatchNormRegressor(loss="poisson"), bn.BatchNormRegressor(loss="quantile", quantile=0.9)],
    expected_failed_checks=lambda estimator: (
        {"check_regressor_multioutput": "its targets are below 0"} if estimator.loss == "poisson" else {}
    ),
)
def test_scikit_learns_checks_of_other_losses(estimator, check):
    check(estimator)
