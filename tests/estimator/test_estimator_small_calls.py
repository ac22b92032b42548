"""Calls on few rows skip what takes longer than the network: they give the same, and see every change."""

import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator import base
from estimator_cases import BOTH, IRIS, SMALL, outputs

X, Y = IRIS
MANY = np.tile(X, (40, 1))  # so many that batch norm is folded away


@BOTH
@pytest.mark.parametrize("rows", [1, 150, 6000])
def test_predictions_see_every_change_of_the_network(estimator_class, rows):
    table = MANY[:rows]
    estimator = estimator_class(**SMALL).fit(X, Y)
    network = estimator.network_
    seen = [outputs(estimator, table)]

    def changed_by(change):
        change()
        seen.append(outputs(estimator, table))
        assert not np.allclose(seen[-1], seen[-2])

    changed_by(lambda: network[0].weight.data.mul_(1.5))  # which counts no version
    changed_by(lambda: np.multiply(network[1].running_var.numpy(), 4, out=network[1].running_var.numpy()))
    changed_by(lambda: network.append(torch.nn.Tanh()))
    changed_by(lambda: network.register_forward_hook(lambda *args: -args[-1]))
    before = outputs(estimator, table)
    network[1].train()  # its own mode, which it gets back
    np.testing.assert_array_equal(outputs(estimator, table), before)
    assert network[1].training


@BOTH
def test_few_rows_are_not_shared_out_among_threads(estimator_class, monkeypatch):
    estimator, seen = estimator_class(**SMALL).fit(X, Y), []
    estimator.network_.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        estimator.predict(X)
        monkeypatch.setattr(base, "multiply_adds", lambda *_: 1e9)
        estimator.predict(X)
        assert (*seen, torch.get_num_threads()) == (1, 2, 2)
    finally:
        torch.set_num_threads(before)


@BOTH
def test_a_copy_predicts_what_it_became(estimator_class):
    estimator = estimator_class(**SMALL).fit(X, Y)
    first = outputs(estimator, X[:1])
    for other in (copy.deepcopy(estimator), pickle.loads(pickle.dumps(estimator))):
        other.partial_fit(X, Y)
        assert not np.array_equal(outputs(other, X[:1]), first)
    np.testing.assert_array_equal(outputs(estimator, X[:1]), first)
    estimator.set_params(hidden_layer_sizes=(3,)).fit(X, Y)
    assert estimator.network_[0].out_features == 3
    assert not np.array_equal(outputs(estimator, X[:1]), first)


@BOTH
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "uint16", ">f8", "longdouble"])
def test_an_array_is_read_as_what_scikit_learn_takes(estimator_class, dtype):
    estimator = estimator_class(**SMALL).fit(X, Y)
    table = X.astype(dtype)
    expected = outputs(estimator, table.tolist() if dtype == "int8" else table.astype(np.float64))
    np.testing.assert_allclose(outputs(estimator, table), expected, rtol=1e-3)


@BOTH
@pytest.mark.parametrize(
    ("table", "message"),
    [
        (X[0], "Expected 2D array, got 1D array instead"),
        (X[None], "Found array with dim 3"),
        (X[:0], r"Found array with 0 sample\(s\)"),
        (X[:, :3], "X has 3 features, but .* is expecting 4 features as input"),
        (X * 1j, "Complex data not supported"),
        (np.where(X > 5, np.inf, X), "Input X contains infinity in column 'x0'"),
    ],
)
def test_what_cannot_be_predicted_for_says_so(estimator_class, table, message):
    with pytest.raises(ValueError, match=message):
        estimator_class(**SMALL).fit(X, Y).predict(table)


@BOTH
def test_an_array_without_the_names_of_the_training_is_warned_of(estimator_class):
    pandas = pytest.importorskip("pandas")
    estimator = estimator_class(**SMALL).fit(pandas.DataFrame(X, columns=list("abcd")), Y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        estimator.predict(X)


def test_the_best_loss_of_a_stream_is_that_of_its_curve():
    regressor = BatchNormRegressor(**SMALL)
    for i in range(6):
        regressor.partial_fit(X, Y * (-1) ** i)
        assert regressor.best_loss_ == min(regressor.loss_curve_)
    classifier = BatchNormClassifier(**SMALL, warm_start=True, early_stopping=True).fit(X, Y)
    assert classifier.best_loss_ is None
    classifier.set_params(early_stopping=False).fit(X, Y)
    assert classifier.best_loss_ == min(classifier.loss_curve_)
    classifier.set_params(warm_start=False, epochs=1).fit(X, Y)
    assert [classifier.best_loss_] == classifier.loss_curve_


def test_a_subclass_has_its_own_parameters():
    class Larger(BatchNormRegressor):
        def __init__(self, factor=2, hidden_layer_sizes=(8,)):
            super().__init__(hidden_layer_sizes=hidden_layer_sizes)
            self.factor = factor

    assert Larger().get_params() == {"factor": 2, "hidden_layer_sizes": (8,)}
    assert clone(Larger(factor=3)).factor == 3
    assert len(BatchNormRegressor().get_params()) > 30
