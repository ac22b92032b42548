"""scikit-learn's own checks of an estimator, all of them, with one thread and with two."""

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


# check_array_api_input skips itself unless SCIPY_ARRAY_API was set when scipy was imported.
@pytest.mark.usefixtures("_threads")
@parametrize_with_checks([bn.BatchNormClassifier(), bn.BatchNormRegressor()])
def test_scikit_learns_checks(estimator, check):
    check(estimator)
