"""Streams: batches that are no random part of the data, normalised with the moments of the rows before them."""

import numpy as np
import pytest

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs, same

SORTED = np.argsort(DIGITS[1][:1400], kind="stable")


def rows_of(n, seed=0, noise=0.1):
    """Return rows (n, 4) and a smooth function of them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return X, X @ [1.0, -0.5, 0.5, 0.0] + np.tanh(X[:, 0] * X[:, 1]) + noise * rng.normal(size=n)


def one_class_per_call(seed):
    X, y = DIGITS
    classifier = BatchNormClassifier(random_state=seed)
    for _ in range(4):
        for digit in range(10):
            rows = SORTED[y[SORTED] == digit]
            classifier.partial_fit(X[rows], y[rows], classes=np.arange(10))
    return classifier.score(X[1400:], y[1400:])


def test_one_class_per_call_is_learnt():
    assert one_class_per_call(0) > 0.8


def sorted_fit(seed, **options):
    X, y = DIGITS
    classifier = BatchNormClassifier(random_state=seed, epochs=10, shuffle=False, **options)
    return classifier.fit(X[SORTED], y[SORTED]).score(X[1400:], y[1400:])


def test_rows_in_the_order_of_their_class_are_learnt():
    assert sorted_fit(0) > 0.9
    assert sorted_fit(0, statistics="running") > 0.8


def drifting(seed, along):
    """Return the mean squared error on the next rows, of a stream whose inputs, and targets if along, wander off."""
    regressor, errors = BatchNormRegressor(random_state=seed), []
    X, y = rows_of(4000, seed)
    drift = np.arange(4000)[:, None] / 1000
    X, y = X + drift * [1, -1, 1, -1], y + along * drift[:, 0]
    for rows in np.split(np.arange(4000), 125):
        if rows[0] >= 2000:
            errors.append(np.mean((regressor.predict(X[rows]) - y[rows]) ** 2))
        regressor.partial_fit(X[rows], y[rows])
    return np.mean(errors)


@pytest.mark.parametrize("along", [False, True])
def test_a_drifting_stream_is_followed(along):
    assert drifting(0, along) < 0.6  # the targets' variance is about 1.8


def small_batches(seed, size, n=600):
    X, y = rows_of(n + 500, seed)
    regressor = BatchNormRegressor(random_state=seed)
    for rows in np.split(np.arange(n), n // size):
        regressor.partial_fit(X[rows], y[rows])
    return regressor.score(X[n:], y[n:])


@pytest.mark.parametrize("size", [1, 2])
def test_rows_that_come_alone_or_in_pairs_are_learnt(size):
    assert small_batches(0, size) > 0.75


def pairs_fit(seed):
    X, y = rows_of(800, seed)
    regressor = BatchNormRegressor(random_state=seed, batch_size=2, epochs=10, learning_rate_init=3e-3)
    return regressor.fit(X[:400], y[:400]).score(X[400:], y[400:])


def test_pairs_of_a_fit_are_normalised_with_others():
    assert pairs_fit(0) > 0.85


def change_by_going_on(seed):
    X, y = (table[np.random.default_rng(seed).permutation(1797)] for table in DIGITS)  # of all writers
    classifier = BatchNormClassifier(random_state=seed, epochs=10).fit(X[:700], y[:700])
    before = classifier.score(X[1400:], y[1400:])
    for rows in np.split(np.arange(700, 1400), 20):
        classifier.partial_fit(X[rows], y[rows])
    return classifier.score(X[1400:], y[1400:]) - before


def test_going_on_after_a_fit_spoils_nothing():
    assert change_by_going_on(0) > -0.05


def partial_fit(estimator, X, y):
    options = {"classes": [0, 1, 2]} if isinstance(estimator, BatchNormClassifier) else {}
    return estimator.partial_fit(X, y, **options)


@BOTH
def test_a_stream_goes_on_from_a_file_to_the_bit(estimator_class, tmp_path):
    X, y = IRIS
    estimator = estimator_class(**SMALL, dropout=0.1)
    for rows in (slice(0, 1), slice(1, 30), slice(30, 80)):
        partial_fit(estimator, X[rows], y[rows])
    estimator.save(tmp_path / "e.safetensors")
    loaded = estimator_class.load(tmp_path / "e.safetensors")
    for rows in (slice(80, 81), slice(81, 150)):
        partial_fit(estimator, X[rows], y[rows])
        partial_fit(loaded, X[rows], y[rows])
    assert same(estimator, loaded)
    assert np.array_equal(outputs(estimator, X), outputs(loaded, X))


@BOTH
def test_the_statistics_of_a_stream_are_those_of_its_rows(estimator_class):
    """Of the first layer's outputs, at a rate of 0 nearly: exactly merged, whatever the batches were."""
    X, y = IRIS
    estimator = estimator_class(**SMALL, standardize=False, learning_rate_init=1e-12, alpha=0, input_noise=0.0)
    for rows in np.split(np.random.default_rng(0).permutation(150), [1, 4, 40, 41, 100]):
        partial_fit(estimator, X[rows], y[rows])
    linear, norm = list(estimator.network_)[:2]
    z = X @ linear.weight.detach().numpy().T
    np.testing.assert_allclose(norm.running_mean, z.mean(0), rtol=1e-6)
    np.testing.assert_allclose(norm.running_var, z.var(0), rtol=1e-6)


def test_a_fit_of_one_row_or_none_that_counts_is_refused():
    X, y = IRIS
    with pytest.raises(ValueError, match="minimum of 2 is required by BatchNormRegressor"):
        BatchNormRegressor().fit(X[:1], y[:1])
    with pytest.raises(ValueError, match="sample_weight is zero for every example"):
        BatchNormRegressor().partial_fit(X[:1], y[:1], sample_weight=[0])


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_step_that_fails_leaves_the_stream_as_it_was(engine):
    X, y = IRIS
    regressor = BatchNormRegressor(**SMALL, engine=engine, standardize=False).partial_fit(X, y)
    before, optimizer = outputs(regressor, X), {k: t.clone() for k, t in regressor._state.optimizer.items()}
    with pytest.raises(ValueError, match="diverged"), np.errstate(all="ignore"):
        regressor.partial_fit(X * 1e200, y)
    assert np.array_equal(outputs(regressor, X), before)
    assert all(optimizer[k].equal(t) for k, t in regressor._state.optimizer.items())


@BOTH
def test_a_stream_remembers_rows_whatever_they_weigh(estimator_class):
    X, y = IRIS
    plain, heavy = (estimator_class(**SMALL) for _ in range(2))
    for rows in np.array_split(np.random.default_rng(0).permutation(150), 5):
        known = {"classes": np.arange(3)} if estimator_class is BatchNormClassifier else {}
        plain.partial_fit(X[rows], y[rows], **known)
        heavy.partial_fit(X[rows], y[rows], sample_weight=np.full(len(rows), 1e4), **known)
    np.testing.assert_allclose(heavy._inputs.mean, plain._inputs.mean, rtol=1e-9)
    np.testing.assert_allclose(heavy._targets.mean, plain._targets.mean, rtol=1e-9)
    np.testing.assert_allclose(outputs(heavy, X), outputs(plain, X), rtol=1e-6)
