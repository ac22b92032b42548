"""Every parameter reaches the training; what makes no sense is named."""

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

import batchnorm as bn
from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.functional import Moments
from batchnorm.inputs.scaling import deviation_of, table_moments
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs


def test_population_statistics_are_exact():
    X, y = DIGITS
    options = {"random_state": 0, "epochs": 2, "bn_momentum": 0.01}
    running, population = (
        BatchNormClassifier(**options, statistics=kind).fit(X, y) for kind in ("running", "population")
    )
    standardized = torch.from_numpy(running.scale_inputs(X))
    twin = bn.DenseNetwork(64, (128, 64), 10).double()
    twin.load_state_dict(running.network_.state_dict())
    for layer in twin:
        if isinstance(layer, bn.BatchNorm1d):
            layer.stored_variance = "biased"
    bn.recalibrate(twin, [standardized])
    torch.testing.assert_close(twin.state_dict(), population.network_.state_dict(), rtol=1e-9, atol=1e-12)
    assert not np.allclose(running.predict_proba(X), population.predict_proba(X))


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3}, {"input_noise": 0.5}, {"label_smoothing": 0.2}, {"bn_momentum": 0.5}, {"bn_eps": 0.1},
        {"normalize_logits": True}, {"standardize": False},
        {"optimizer": "sgd", "learning_rate_init": 0.1}, {"beta_1": 0.5}, {"beta_2": 0.9}, {"epsilon": 0.1},
        {"schedule": "cosine"},
        {"alpha": 100.0}, {"activation": "gelu"}, {"batch_size": 30}, {"shuffle": False, "batch_size": 30},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_reaches_the_training(options):
    X, y = DIGITS
    base = {**SMALL, "statistics": "running"}
    plain = BatchNormClassifier(**base).fit(X[:200], y[:200])
    changed = BatchNormClassifier(**base, **options).fit(X[:200], y[:200])
    assert not np.allclose(plain.predict_proba(X), changed.predict_proba(X))
    assert changed.score(X[:200], y[:200]) > 0.3
    assert plain.set_params(**options).fit(X[:200], y[:200]).loss_curve_ == changed.loss_curve_


@pytest.mark.parametrize("options", [{"momentum": 0.5}, {"momentum": 0.0}, {"nesterovs_momentum": False}], ids=str)
def test_every_option_of_sgd_reaches_the_training(options):
    X, y = DIGITS
    base = {**SMALL, "optimizer": "sgd", "learning_rate_init": 0.1}
    plain, changed = (BatchNormClassifier(**base | more).fit(X[:200], y[:200]) for more in ({}, options))
    assert not np.allclose(plain.predict_proba(X), changed.predict_proba(X))


def test_a_decay_that_takes_everything_is_refused():
    with pytest.raises(
        ValueError, match=r"alpha=4000 takes a share of learning_rate_init · alpha / batch_size = 1.25 of"
    ):
        BatchNormClassifier(alpha=4000.0).fit(*IRIS)


@BOTH
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2, "input_noise": 0.3}])
def test_both_engines_learn_the_same(estimator_class, options):
    X, y = DIGITS
    fused, autograd = (
        estimator_class(**SMALL, **options, engine=engine).fit(X[:300], y[:300]) for engine in ("fused", "autograd")
    )
    np.testing.assert_allclose(outputs(fused, X), outputs(autograd, X), rtol=1e-6, atol=1e-9)


def test_standardisation_does_not_care_about_scale_or_constants():
    X, y = IRIS
    plain = BatchNormClassifier(**SMALL).fit(X, y)
    scaled = np.column_stack([X * [1e-9, 1, 1e6, 1e9] + [0, 1e3, 0, 1e9], np.full(150, 0.1), np.zeros(150)])
    other = BatchNormClassifier(**SMALL).fit(scaled, y)
    assert np.isfinite(other.predict_proba(scaled)).all()
    assert other.score(scaled, y) > plain.score(X, y) - 0.1
    deviations = deviation_of(table_moments(scaled, None))
    np.testing.assert_allclose(deviations[:4], scaled[:, :4].std(0), rtol=1e-6)
    assert deviations[4:].tolist() == [1, 1]
    assert deviation_of(Moments(1, torch.tensor([5.0]), torch.tensor([0.0]))).tolist() == [1]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1}, "The 'alpha' parameter of BatchNormClassifier must be a number at least 0. Got -1 instead."),
        ({"activation": "step"}, "The 'activation' parameter of BatchNormClassifier must be one of 'relu', .*'step'"),
        ({"batch_size": 1}, "The 'batch_size' parameter of .* must be a whole number at least 2 or auto"),
        ({"epochs": 0}, "The 'epochs' parameter of .* a whole number at least 1 or auto. Got 0"),
        ({"max_iter": 0}, "The 'max_iter' parameter of .* a whole number at least 1 or auto. Got 0"),
        ({"statistics": "batch"}, "The 'statistics' parameter of .* 'running', 'population'. Got 'batch'"),
        ({"shuffle": "yes"}, "The 'shuffle' parameter of BatchNormClassifier must be True or False. Got 'yes'"),
        ({"hidden_layer_sizes": (5, 0)}, r"whole number at least 1, or a .*; it is a tuple. Got \(5, 0\) instead"),
        ({"hidden_layer_sizes": "100"}, "'hidden_layer_sizes' parameter of .*; it is a str. Got '100' instead"),
        ({"hidden_layer_sizes": b"100"}, "it is a bytes. Got b'100' instead"),
        ({"hidden_layer_sizes": {100: 1}}, r"it is a dict. Got \{100: 1\} instead"),
        ({"hidden_layer_sizes": {100}}, r"it is a set. Got \{100\} instead"),
        ({"hidden_layer_sizes": 100.0}, "it is a float. Got 100.0 instead"),
        ({"hidden_layer_sizes": (100.0,)}, r"it is a tuple. Got \(100.0,\) instead"),
        ({"hidden_layer_sizes": ((5, 4),)}, r"it is a tuple. Got \(\(5, 4\),\) instead"),
        ({"hidden_layer_sizes": True}, "it is a bool. Got True instead"),
        ({"hidden_layer_sizes": None}, "it is a NoneType. Got None instead"),
        ({"hidden_layer_sizes": np.array(5)}, r"it is a ndarray. Got array\(5\) instead"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but"),
        ({"device": None}, "device is None, expected cpu, cuda or cuda:N"),
        ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter of .* above 0 below 1. Got 1.0"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier(**parameters).fit(*IRIS)


@pytest.mark.parametrize(
    "sizes", [5, np.int64(5), [5], (5,), np.array([5]), np.array([5], np.uint8), range(5, 6)], ids=str
)
def test_layer_sizes_are_whole_numbers_of_any_type(sizes):
    assert BatchNormClassifier(**SMALL | {"hidden_layer_sizes": sizes}).fit(*IRIS).coefs_[0].shape == (4, 5)


def test_arrays_that_do_not_fit_are_named():
    X, y = IRIS
    with pytest.raises(ValueError, match=r"Found array with 1 sample.*minimum of 2 is required by BatchNormClassifier"):
        BatchNormClassifier().fit(X[:1], y[:1])
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples: \[150, 149\]"):
        BatchNormClassifier().fit(X, y[1:])
    with pytest.raises(ValueError, match="X has 3 features, but BatchNormRegressor is expecting 4 features as input"):
        BatchNormRegressor(**SMALL).fit(X, y).predict(X[:, 1:])
    with pytest.raises(NotFittedError, match="This BatchNormRegressor instance is not fitted yet"):
        BatchNormRegressor().predict(X)
    assert not hasattr(BatchNormRegressor(), "coefs_")
