"""The losses of values: what each predicts, against facts and scikit-learn's linear models."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import PoissonRegressor, QuantileRegressor
from sklearn.metrics import d2_absolute_error_score, d2_pinball_score, d2_tweedie_score, mean_poisson_deviance, r2_score
from sklearn.neural_network import MLPClassifier, MLPRegressor

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator.targets import quantile_moments, score
from estimator_cases import IRIS, SMALL

LOSSES = ("squared_error", "absolute_error", "quantile", "poisson")
EACH = pytest.mark.parametrize("loss", LOSSES)
LINEAR = {
    "hidden_layer_sizes": (), "alpha": 0.0, "batch_size": 100, "learning_rate_init": 0.02, "input_noise": 0.0,
    "random_state": 0,
}  # fmt: skip


def counts(seed, n=1000):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, rng.poisson(np.exp(np.sin(2 * X[:, 0]) + X[:, 1] - 1)).astype(float)


def spread(seed, n=2000):
    """Values whose noise depends on the second column."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-2, 2, (n, 2))
    return X, 100 + np.sin(2 * X[:, 0]) + rng.normal(size=n) * (0.2 + np.abs(X[:, 1]))


@pytest.mark.parametrize("weighted", [False, True])
def test_without_hidden_layers_it_is_the_poisson_regression(weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 3))
    y = rng.poisson(np.exp(X @ [0.5, -0.3, 0] + 1))
    weights = rng.integers(1, 4, 1000) if weighted else None
    exact = PoissonRegressor(alpha=0, tol=1e-8).fit(X, y, weights)
    size = {"batch_size": 1000, "epochs": 2000} if weighted else {}  # of a single batch weights are exact
    ours = BatchNormRegressor(**LINEAR | size, standardize=False, loss="poisson").fit(X, y, weights)
    np.testing.assert_allclose(ours.coefs_[0][:, 0], exact.coef_, atol=2e-3)
    np.testing.assert_allclose(ours.intercepts_[0], exact.intercept_, atol=2e-3)
    np.testing.assert_allclose(ours.predict(X), exact.predict(X), rtol=1e-2)
    deviance = mean_poisson_deviance(y, ours.predict(X), sample_weight=weights)
    assert ours.loss_ == pytest.approx(deviance / 2 / np.average(y, weights=weights), rel=1e-4)


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_without_hidden_layers_it_is_the_quantile_regression(quantile):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, 3))
    y = 40 + X @ [5, 10, -5] + rng.standard_t(3, 1000) * (1 + np.abs(X[:, 0]))
    exact = QuantileRegressor(alpha=0, quantile=quantile).fit(X, y)
    ours = BatchNormRegressor(**LINEAR, standardize=False, loss="quantile", quantile=quantile).fit(X, y)
    np.testing.assert_allclose(ours.coefs_[0][:, 0], exact.coef_, atol=0.05)
    np.testing.assert_allclose(ours.intercepts_[0], exact.intercept_, atol=0.05)
    if quantile == 0.5:
        median = BatchNormRegressor(**LINEAR, standardize=False, loss="absolute_error").fit(X, y)
        np.testing.assert_array_equal(median.predict(X), ours.predict(X))


@pytest.mark.parametrize("quantile", [0.1, 0.9])
def test_a_quantile_covers_its_share(quantile):
    X, y = spread(0)
    X_test, y_test = spread(1, 5000)
    below = y_test <= BatchNormRegressor(loss="quantile", quantile=quantile, random_state=0).fit(X, y).predict(X_test)
    assert below.mean() == pytest.approx(quantile, abs=0.025)
    wide = np.abs(X_test[:, 1]) > 1
    assert below[wide].mean() == pytest.approx(
        quantile, abs=0.06
    )  # and where there is more noise as where there is less
    assert below[~wide].mean() == pytest.approx(quantile, abs=0.06)


def test_counts_are_learnt_better_by_their_own_loss():
    X, y = counts(0)
    X_test, y_test = counts(1, 5000)
    predicted = {
        loss: BatchNormRegressor(loss=loss, random_state=0).fit(X, y).predict(X_test)
        for loss in ("poisson", "squared_error")
    }
    assert (predicted["poisson"] > 0).all()
    deviances = {loss: mean_poisson_deviance(y_test, np.maximum(p, 1e-3)) for loss, p in predicted.items()}
    assert deviances["poisson"] < 0.95 * deviances["squared_error"]


def test_the_losses_have_scikit_learns_names():
    assert BatchNormClassifier().loss == MLPClassifier().loss == "log_loss"
    assert BatchNormClassifier(**SMALL).fit(*IRIS).loss == "log_loss"
    for estimator_class in (MLPRegressor, BatchNormRegressor):
        assert estimator_class(loss="poisson").partial_fit(*IRIS).out_activation_ == "exp"
    with pytest.raises(ValueError, match="'quantile' parameter of BatchNormRegressor must be a number above 0"):
        BatchNormRegressor(loss="quantile", quantile=0).fit(*IRIS)
    with pytest.raises(ValueError, match="must be one of 'squared_error', 'absolute_error', 'quantile', 'poisson'"):
        BatchNormRegressor(loss="huber").fit(*IRIS)


@EACH
def test_both_engines_learn_it(loss):
    X, y = counts(0, 200)
    options = SMALL | {"loss": loss, "quantile": 0.8}
    fused, autograd = (BatchNormRegressor(**options, engine=engine).fit(X, y) for engine in ("fused", "autograd"))
    np.testing.assert_allclose(fused.predict(X), autograd.predict(X), rtol=1e-6)


@EACH
def test_several_outputs_in_units_of_their_own(loss):
    X, y = counts(0, 300)
    both = np.stack([1e6 * (y + 1), 1e-6 * (y[::-1] + 1)], 1)
    regressor = BatchNormRegressor(**SMALL, loss=loss).fit(X, both)
    assert regressor.predict(X).shape == (300, 2)
    np.testing.assert_allclose(regressor.predict(X).mean(0), both.mean(0), rtol=0.5)
    in_ones = BatchNormRegressor(**SMALL, loss=loss).fit(X, both * [1e-6, 1e6])
    np.testing.assert_allclose(in_ones.predict(X) * [1e6, 1e-6], regressor.predict(X), rtol=1e-6)


def test_counts_that_are_none_are_refused():
    X, y = counts(0, 50)
    with pytest.raises(ValueError, match=r"loss='poisson' requires non-negative y: the smallest is -1$"):
        BatchNormRegressor(loss="poisson").fit(X, y - 1)
    for nothing in (0 * y, np.stack([y, 0 * y], 1)):
        with pytest.raises(ValueError, match=r"loss='poisson' requires sum\(y\) > 0, of each output and of the rows"):
            BatchNormRegressor(loss="poisson").fit(X, nothing)


def test_a_mean_of_counts_is_finite_and_above_0_however_far_the_inputs_are():
    X, y = counts(0, 200)
    regressor = BatchNormRegressor(**SMALL, loss="poisson").fit(X, y)
    predicted = regressor.predict(np.stack([sign * 1e7 * X[i] for i in range(5) for sign in (-1, 1)]))
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()


@EACH
def test_plain_layers_compute_its_predictions(loss):
    X, y = counts(0, 200)
    regressor = BatchNormRegressor(**SMALL, loss=loss).fit(X, y)
    hidden = np.maximum(regressor.scale_inputs(X) @ regressor.coefs_[0] + regressor.intercepts_[0], 0)
    result = (hidden @ regressor.coefs_[1] + regressor.intercepts_[1])[:, 0]
    np.testing.assert_allclose(np.exp(result) if loss == "poisson" else result, regressor.predict(X), rtol=1e-9)


@EACH
@pytest.mark.parametrize("hidden", [(), (8,)])
def test_what_was_learnt_stays_true_as_the_scale_moves(loss, hidden):
    """A step of no length, on targets that are a hundred times as large, moves the scale and no prediction."""
    X, y = counts(0, 200)
    options = {"hidden_layer_sizes": hidden, "alpha": 0.0, "statistics": "running"}
    regressor = BatchNormRegressor(**SMALL | options, loss=loss).fit(X, y)
    before, scale = regressor.predict(X), regressor._targets
    running = {name: tensor.clone() for name, tensor in regressor.network_.state_dict().items() if "running" in name}
    regressor.set_params(learning_rate_init=1e-30).partial_fit(X, 100 * y + 3)
    regressor.network_.load_state_dict(running, strict=False)  # a batch has moved them
    assert (regressor._targets.mean > 2 * scale.mean).all()
    np.testing.assert_allclose(regressor.predict(X), before, rtol=1e-7)


def test_a_batch_without_counts_is_one_like_others_in_a_stream():
    X, y = counts(0, 200)
    regressor = BatchNormRegressor(**SMALL, loss="poisson").partial_fit(X, y)
    before = regressor.predict(X).mean()
    assert regressor.partial_fit(X, 0 * y).predict(X).mean() < before


def test_what_is_trained_keeps_its_link():
    X, y = counts(0, 100)
    regressor = BatchNormRegressor(**SMALL, loss="poisson").fit(X, y)
    before = regressor.predict(X)
    regressor.set_params(loss="squared_error")
    np.testing.assert_array_equal(regressor.predict(X), before)
    message = (
        r"has out_activation_='exp' and cannot go on with loss='squared_error', whose is 'identity': set loss back"
    )
    with pytest.raises(ValueError, match=message):
        regressor.partial_fit(X, y)
    with pytest.raises(ValueError, match=message):
        regressor.set_params(warm_start=True).fit(X, y)
    assert regressor.set_params(warm_start=False).fit(X, y).out_activation_ == "identity"
    regressor.set_params(warm_start=True, loss="quantile").fit(X, y)


@EACH
def test_it_is_saved_with_its_loss(loss, tmp_path):
    X, y = counts(0, 100)
    regressor = BatchNormRegressor(**SMALL, loss=loss, quantile=0.7).fit(X, y)
    regressor.save(tmp_path / "saved")
    loaded = BatchNormRegressor.load(tmp_path / "saved")
    assert loaded.get_params() == regressor.get_params()
    np.testing.assert_array_equal(loaded.predict(X), regressor.predict(X))
    np.testing.assert_array_equal(loaded.partial_fit(X, y).predict(X), regressor.partial_fit(X, y).predict(X))


@EACH
def test_early_stopping_goes_by_the_loss(loss):
    X, y = counts(0, 300)
    regressor = BatchNormRegressor(**SMALL, loss=loss, early_stopping=True).fit(X, y)
    assert len(regressor.validation_scores_) == regressor.n_iter_
    assert regressor.best_validation_score_ > 0


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(0)
    y, weights = rng.poisson(2, 50).astype(float), rng.integers(1, 4, 50)
    predicted = y + rng.uniform(0.1, 2, 50)
    other = np.stack([y, y[::-1]], 1), np.stack([predicted, predicted[::-1]], 1)

    def ours(loss, values, labels=y, quantile=0.5):
        columns = [torch.from_numpy(array.reshape(len(y), -1).copy()) for array in (labels, values)]
        return score(loss, quantile, *columns, torch.from_numpy(weights))

    assert ours("squared_error", predicted) == r2_score(y, predicted, sample_weight=weights)
    assert ours("absolute_error", predicted) == d2_absolute_error_score(y, predicted, sample_weight=weights)
    assert ours("quantile", predicted, y, 0.9) == d2_pinball_score(y, predicted, sample_weight=weights, alpha=0.9)
    poisson = d2_tweedie_score(y, predicted, power=1, sample_weight=weights)
    assert ours("poisson", np.log(predicted / 5), y / 5) == pytest.approx(poisson, rel=1e-12)
    assert ours("poisson", np.log(predicted), 0 * y) == 0
    assert ours("poisson", np.log(other[1]), other[0]) == pytest.approx(
        (poisson + d2_tweedie_score(y[::-1], predicted[::-1], power=1, sample_weight=weights)) / 2, rel=1e-12
    )


def test_quantiles_scale_what_outliers_would_flatten():
    values = np.random.default_rng(0).normal(7, 2, (10_000, 1))
    values[:3] = 1e9
    moments = quantile_moments(values, None, 0.5)
    assert moments.mean.item() == pytest.approx(7, abs=0.1)
    assert moments.var.sqrt().item() == pytest.approx(2, abs=0.1)
    weights = np.random.default_rng(1).integers(0, 3, 10_000).astype(float)
    weighted = quantile_moments(values, weights, 0.9)
    repeated = quantile_moments(values.repeat(weights.astype(int), 0), None, 0.9)
    torch.testing.assert_close(weighted[1:], repeated[1:])
    mostly_zero = np.r_[np.zeros(80), np.full(20, 5.0)][:, None]
    assert quantile_moments(mostly_zero, None, 0.5).var.item() == pytest.approx(4)
