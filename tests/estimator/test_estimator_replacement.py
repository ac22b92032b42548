"""The place of MLPClassifier and MLPRegressor: their parameters, attributes and working code."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs


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


def test_without_batches_there_is_no_batch_norm():
    with pytest.warns(UserWarning, match="solver='lbfgs' takes no batches, which batch norm lives on: AdamW") as seen:
        BatchNormClassifier(**SMALL, solver="lbfgs").fit(*IRIS)
    assert [warning.filename for warning in seen] == [__file__]


@BOTH
def test_plain_layers_compute_the_predictions(estimator_class):
    """Batch norm and the targets' unit are folded into `coefs_` and `intercepts_`, which take scaled inputs."""
    X, y = IRIS
    estimator = estimator_class(hidden_layer_sizes=(7, 5), random_state=0, max_iter=20).fit(X, y)
    a = estimator.scale_inputs(X)
    for weight, bias in zip(estimator.coefs_[:-1], estimator.intercepts_[:-1], strict=True):
        a = np.maximum(a @ weight + bias, 0)
    result = a @ estimator.coefs_[-1] + estimator.intercepts_[-1]
    expected = (
        estimator.decision_function(X) if estimator_class is BatchNormClassifier else estimator.predict(X)[:, None]
    )
    np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-9)
    assert estimator.predict(X[:3]).dtype == estimator_class(**SMALL).fit(X, y).predict(X).dtype


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_precision_is_that_of_the_inputs(estimator_class, dtype):
    X, y = DIGITS
    estimator = estimator_class(**SMALL).fit(X[:300].astype(dtype), y[:300])
    assert all(tensor.dtype == dtype for tensor in (*estimator.coefs_, *estimator.intercepts_))
    # Values are computed in their own unit in float64: float32 would not hold a date in seconds.
    assert outputs(estimator, X[300:]).dtype == (dtype if estimator_class is BatchNormClassifier else np.float64)
