"""What the tests of the estimators share: toy tables, a small network, and how two of them are compared."""

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits, load_iris

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator import training

BOTH = pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])
IRIS, DIGITS, DIABETES = (load(return_X_y=True) for load in (load_iris, load_digits, load_diabetes))
SMALL = {"hidden_layer_sizes": (8,), "random_state": 0, "epochs": 10}


def same(a, b):
    """Tell whether two estimators have learnt the same, to the bit."""
    ours, theirs = a.network_.state_dict(), b.network_.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def outputs(estimator, X):
    """Return the probabilities of a classifier, the predictions of a regressor."""
    return estimator.predict_proba(X) if isinstance(estimator, BatchNormClassifier) else estimator.predict(X)


def record(estimator, X, y, method="fit"):
    """Fit, and return the indices of all steps, their rates and their noise."""
    trained, rates, noises, make_engine = [], [], [], training.make_engine

    class Recording:
        def __init__(self, *args, **options):
            self.engine = make_engine(*args, **options)

        def step(self, indices, rate, share, noise):
            trained.extend(indices)
            rates.append(rate)
            noises.append(noise)
            return self.engine.step(indices, rate, share, noise)

        def __getattr__(self, name):
            return getattr(self.engine, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_engine", Recording)
        getattr(estimator, method)(X, y)
    return trained, rates, noises
