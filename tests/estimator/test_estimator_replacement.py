"""The place of MLPClassifier and MLPRegressor: their parameters, attributes and working code."""

import inspect
import math

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs, same


@pytest.mark.parametrize(("theirs", "ours"), [(MLPClassifier, BatchNormClassifier), (MLPRegressor, BatchNormRegressor)])
def test_every_parameter_of_scikit_learns_networks_is_known(theirs, ours):
    assert set(theirs().get_params()) <= set(ours().get_params())


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "adam", "alpha": 1e-5, "hidden_layer_sizes": (5, 2), "beta_1": 0.8, "epsilon": 1e-7},
        {"solver": "sgd", "learning_rate": "invscaling", "power_t": 0.1, "momentum": 0.5, "max_iter": 20},
        {"solver": "sgd", "learning_rate": "adaptive", "nesterovs_momentum": False, "learning_rate_init": 0.2},
        {"activation": "logistic", "hidden_layer_sizes": 7, "batch_size": 40, "learning_rate": "constant"},
        {"solver": "sgd", "momentum": 0.0, "shuffle": False, "learning_rate_init": 0.1},
        {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3, "tol": 1e-3},
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_working_code_works_with_the_class_replaced(options):
    X, y = IRIS
    for estimator_class in (MLPClassifier, BatchNormClassifier):
        network = make_pipeline(StandardScaler(), estimator_class(random_state=1, **options)).fit(X, y)[-1]
        assert network.predict_proba(StandardScaler().fit_transform(X)).shape == (150, 3)
        assert network.n_features_in_ == network.coefs_[0].shape[0] == 4
        assert network.coefs_[-1].shape[0] == network.intercepts_[-2].shape[0]
        assert network.n_layers_ == len(network.coefs_) + 1
        assert len(network.loss_curve_) == network.n_iter_
        assert network.loss_curve_[-1] == network.loss_
        assert network.t_ == network.n_iter_ * (120 if network.early_stopping else 150)
        assert network.n_outputs_ == network.coefs_[-1].shape[1] == 3


@pytest.mark.parametrize(
    ("estimator_class", "names"),
    [
        (BatchNormClassifier, ["hidden_layer_sizes", "activation"]),
        (BatchNormRegressor, ["loss", "hidden_layer_sizes", "activation"]),
    ],
)
def test_positions_are_those_of_scikit_learns_networks(estimator_class, names):
    parameters = inspect.signature(estimator_class).parameters.values()
    assert [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD] == names


def test_both_words_for_one_optimizer_are_known():
    X, y = IRIS
    adam, adamw = (BatchNormClassifier(**SMALL, solver=solver).fit(X, y) for solver in ("adam", "adamw"))
    assert same(adam, adamw)


@BOTH
def test_no_improvement_is_too_small_for_an_infinite_tolerance(estimator_class):
    estimator = estimator_class(
        hidden_layer_sizes=4, schedule="constant", tol=-math.inf, n_iter_no_change=1, max_iter=30, random_state=0
    )
    with pytest.warns(ConvergenceWarning, match="improved by more than tol=-inf after max_iter=30 epochs"):
        assert estimator.fit(*IRIS).n_iter_ == 30


@BOTH
def test_partial_fit_is_there_for_what_takes_batches(estimator_class):
    assert hasattr(estimator_class(), "partial_fit")
    assert hasattr(estimator_class(solver="sgd"), "partial_fit")
    assert not hasattr(estimator_class(solver="lbfgs"), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'") as caught:
        estimator_class(solver="lbfgs").partial_fit(*IRIS)
    assert "not available with solver='lbfgs': set solver to 'adam' or 'sgd'" in str(caught.value.__cause__)


@BOTH
def test_what_is_computed_cannot_be_assigned(estimator_class):
    estimator = estimator_class(**SMALL).fit(*IRIS)
    for name in ("coefs_", "intercepts_"):
        with pytest.raises(
            AttributeError, match=f"{name} cannot be set: it is computed from network_, whose parameters"
        ):
            setattr(estimator, name, getattr(estimator, name))
        with pytest.raises(ValueError, match="read-only"):
            getattr(estimator, name)[0][0] = 0


def test_without_batches_there_is_no_batch_norm():
    with pytest.warns(UserWarning, match="solver='lbfgs' takes no batches, which batch norm lives on: AdamW") as seen:
        BatchNormClassifier(**SMALL, solver="lbfgs").fit(*IRIS)
    assert [warning.filename for warning in seen] == [__file__]


@BOTH
def test_plain_layers_compute_the_predictions(estimator_class):
    """Batch norm and the targets' unit are folded into `coefs_` and `intercepts_`, which take scaled inputs."""
    X, y = IRIS
    options = {"label_smoothing": 0.0} if estimator_class is BatchNormClassifier else {}  # they are of what was learnt
    estimator = estimator_class(hidden_layer_sizes=(7, 5), random_state=0, epochs=20, **options).fit(X, y)
    a = estimator.scale_inputs(X)
    for weight, bias in zip(estimator.coefs_[:-1], estimator.intercepts_[:-1], strict=True):
        a = np.maximum(a @ weight + bias, 0)
    result = a @ estimator.coefs_[-1] + estimator.intercepts_[-1]
    if estimator_class is BatchNormClassifier:
        result, expected = log_softmax(result, axis=1), estimator.predict_log_proba(X)
    else:
        expected = estimator.predict(X)[:, None]
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
    assert estimator.predict(X[:3]).dtype == estimator_class(**SMALL).fit(X, y).predict(X).dtype


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_inputs(estimator_class, dtype):
    X, y = DIGITS
    estimator = estimator_class(**SMALL).fit(X[:300].astype(dtype), y[:300])
    assert all(tensor.dtype == dtype for tensor in (*estimator.coefs_, *estimator.intercepts_))
    assert outputs(estimator, X[300:].astype(dtype)).dtype == dtype


def test_whole_numbers_are_predicted_for_in_float64():
    """A date in seconds has more digits than float32 holds."""
    X, y = IRIS
    seconds = 1.7e9 + y
    regressor = BatchNormRegressor(**SMALL).fit((10 * X).astype(int), seconds)
    values = regressor.predict((10 * X).astype(int))
    assert values.dtype == np.float64
    assert len(np.unique(values)) > 30


@BOTH
@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"input_noise": 0.3}, {"early_stopping": True}], ids=str)
def test_a_seed_draws_the_same_in_both_precisions(estimator_class, options):
    """What differs later is rounding, which a training makes larger; it takes more than these epochs."""
    X, y = DIGITS
    single, double = (
        estimator_class(random_state=0, epochs=2, **options).fit(X[:300].astype(dtype), y[:300])
        for dtype in (np.float32, np.float64)
    )
    np.testing.assert_allclose(outputs(single, X), outputs(double, X), rtol=1e-5, atol=1e-5)


def test_no_layer_can_be_assigned():
    X, y = IRIS
    classifier = BatchNormClassifier(**SMALL).fit(X, y)
    with pytest.raises(TypeError, match="does not support item assignment"):
        classifier.coefs_[0] = classifier.coefs_[0] * 0
    with pytest.raises(ValueError, match="read-only"):
        classifier.intercepts_[0][0] = 1
