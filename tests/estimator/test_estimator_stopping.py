"""When a training stops: early, at a tolerance, with its schedule, diverged, or interrupted."""

import math
import signal
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, same


@BOTH
def test_early_stopping_keeps_the_best_epoch(estimator_class):
    X, y = DIGITS
    X, y = X[:300], y[:300]
    options = {
        "early_stopping": True,
        "epochs": 1000,
        "n_iter_no_change": 5,
        "random_state": 0,
        "statistics": "running",
    }
    estimator = estimator_class(**options).fit(X, y)
    scores = estimator.validation_scores_
    assert estimator.n_iter_ == len(scores) < 1000
    assert estimator.best_validation_score_ == max(scores)
    assert estimator.best_loss_ is None
    assert max(scores[:-6]) + estimator.tol > max(scores[-6:])
    # The examples that were held back are drawn from the seed alone: an epoch later, the best is what it was.
    rest = estimator_class(**options | {"n_iter_no_change": 6}).fit(X, y)
    assert rest.validation_scores_[: len(scores)] == scores
    assert same(rest, estimator) == (max(rest.validation_scores_) == max(scores))
    assert estimator_class(**SMALL).fit(X, y).validation_scores_ is None


def test_after_early_stopping_a_training_goes_on_from_the_best_epoch():
    X, y = DIGITS
    classifier = BatchNormClassifier(early_stopping=True, warm_start=True, n_iter_no_change=2, random_state=0)
    first = classifier.fit(X[:300], y[:300]).validation_scores_
    assert classifier._state.optimizer == {}  # it was of the last epoch
    classifier.set_params(epochs=1).fit(X[:300], y[:300])
    assert classifier.validation_scores_[:-1] == first
    assert classifier.best_validation_score_ == classifier.validation_scores_[-1]  # of the network that there is now


@pytest.mark.parametrize(
    ("sizes", "share", "of_each"),
    [
        ((30, 10), 0.1, [3, 1]),
        ((30, 10, 1, 1), 0.1, [4, 1, 0, 0]),  # a class of one member is trained on
        ((1,) + (2,) * 4, 0.3, None),  # more classes than are held back
        ((3,) * 20, 0.1, None),
        ((1,) * 20, 0.1, None),
        ((3, 1), 0.5, [2, 0]),
    ],
    ids=str,
)
def test_early_stopping_holds_back_a_share_of_each_class(sizes, share, of_each):
    y = np.repeat(np.arange(len(sizes)), sizes)
    X = np.random.default_rng(0).normal(size=(len(y), 2))
    classifier = BatchNormClassifier(**SMALL, early_stopping=True, validation_fraction=share).fit(X, y)
    assert len(classifier.validation_scores_) == classifier.n_iter_
    rows, held_back = classifier._split(y, None, classifier._state.seed, 2)
    assert sorted([*rows, *held_back]) == list(range(len(y)))
    assert len(held_back) == math.ceil(share * len(y))
    if of_each is not None:
        assert np.bincount(y[held_back], minlength=len(sizes)).tolist() == of_each


@BOTH
def test_too_few_to_hold_back_are_named(estimator_class):
    with pytest.raises(ValueError, match=r"The validation set is too small: 1 of 4 examples. Increase validation_frac"):
        estimator_class(early_stopping=True).fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])
    greedy = estimator_class(early_stopping=True, validation_fraction=0.9)
    with pytest.raises(ValueError, match="The validation set is too small: 1 of 2 examples"):
        greedy.fit([[1, 2], [2, 3]], [0, 1])
    with pytest.raises(ValueError, match="n_samples=1 is left to train on"):
        greedy.fit([[1, 2], [2, 3], [3, 4]], [0, 1, 1])
    with pytest.raises(ValueError, match="n_samples=1 is left to train on"):
        greedy.fit([[1, 2], [2, 3], [3, 4]], [0, 1, 1], sample_weight=[0, 0, 1])


@BOTH
def test_max_iter_is_a_cap(estimator_class):
    """A training is as long as it would be without, at most so long; `epochs` says how long it is."""
    X, y = IRIS
    plain = estimator_class(hidden_layer_sizes=4, batch_size=15, random_state=0).fit(X, y)  # 100 × 10 steps
    assert plain.n_iter_ == 100
    generous = estimator_class(hidden_layer_sizes=4, batch_size=15, random_state=0, max_iter=3000).fit(X, y)
    assert same(plain, generous)
    short = estimator_class(hidden_layer_sizes=4, batch_size=15, random_state=0, max_iter=7)
    with pytest.warns(
        ConvergenceWarning, match="max_iter=7 ended the training before its time: increase it or"
    ) as seen:
        short.fit(X, y)
    assert [warning.filename for warning in seen] == [__file__]
    exact = estimator_class(hidden_layer_sizes=4, batch_size=15, random_state=0, epochs=7).fit(X, y)
    assert exact.n_iter_ == short.n_iter_ == 7
    assert same(exact, short)
    assert short.set_params(epochs=120, max_iter="auto").fit(X, y).n_iter_ == 120
    with pytest.warns(ConvergenceWarning, match="max_iter=7 ended"):
        assert short.set_params(max_iter=7).fit(X, y).n_iter_ == 7


@BOTH
@pytest.mark.filterwarnings("ignore:solver='lbfgs'")
def test_with_lbfgs_max_fun_is_a_cap_too(estimator_class):
    with pytest.warns(ConvergenceWarning, match="max_fun=3 ended the training"):
        assert estimator_class(hidden_layer_sizes=4, solver="lbfgs", max_fun=3).fit(*IRIS).n_iter_ == 3
    assert estimator_class(hidden_layer_sizes=4, solver="adam", max_fun=3, epochs=5).fit(*IRIS).n_iter_ == 5


@BOTH
@pytest.mark.parametrize("schedule", ["constant", "invscaling", "adaptive"])
def test_epochs_are_exact_at_any_schedule(estimator_class, schedule):
    estimator = estimator_class(hidden_layer_sizes=4, schedule=schedule, epochs=25, n_iter_no_change=1, tol=1e9)
    assert estimator.fit(*IRIS).n_iter_ == 25


@BOTH
def test_early_stopping_counts_by_weight(estimator_class):
    X, y = DIGITS
    X, y = X[:200], y[:200]
    plain = estimator_class(**SMALL, early_stopping=True).fit(X, y)
    _, held_back = plain._split(y, None, plain._state.seed, 2)
    weights = np.ones(200)
    weights[held_back] = np.random.default_rng(0).uniform(0.1, 3, len(held_back))
    weighted = estimator_class(**SMALL, early_stopping=True).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(weighted.loss_curve_, plain.loss_curve_, rtol=1e-9)  # nothing else has changed
    assert not np.allclose(weighted.validation_scores_, plain.validation_scores_)


def test_a_tolerance_ends_a_training_at_a_constant_rate():
    X, y = DIGITS
    for patience in (2, 5):
        classifier = BatchNormClassifier(schedule="constant", tol=0.05, n_iter_no_change=patience, max_iter=500)
        losses = classifier.fit(X[:200], y[:200]).loss_curve_
        assert patience < classifier.n_iter_ < 500
        best = np.minimum.accumulate(losses)
        stalled = losses[1:] > best[:-1] - 0.05
        assert stalled[-patience - 1 :].all()
        assert not any(stalled[i : i + patience + 1].all() for i in range(len(stalled) - patience - 1))
        assert classifier.best_loss_ == min(losses)


def test_an_annealed_training_ends_with_its_schedule():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for schedule in ("one-cycle", "cosine"):
            assert BatchNormClassifier(**SMALL, schedule=schedule, tol=1e9).fit(*IRIS).n_iter_ == 10


@BOTH
def test_what_has_not_converged_warns(estimator_class):
    X, y = IRIS
    with pytest.warns(
        ConvergenceWarning, match=r"after max_iter=3 epochs: increase max_iter, or take an annealed"
    ) as seen:
        estimator_class(schedule="constant", max_iter=3).fit(X, y)
    assert [warning.filename for warning in seen] == [__file__]
    with pytest.warns(ConvergenceWarning):
        endless = estimator_class(schedule="constant", max_iter=40, tol=1e9, n_iter_no_change=np.inf).fit(X, y)
    assert endless.n_iter_ == 40


@pytest.mark.parametrize("scale", [1e3, 1e300])
def test_a_training_that_diverges_says_so(scale):
    X, y = IRIS
    regressor = BatchNormRegressor(
        hidden_layer_sizes=(), optimizer="sgd", standardize=False, learning_rate_init=1e3, alpha=0
    )
    remedy = "try a smaller learning_rate_init"
    with pytest.raises(
        ValueError, match=rf"the training diverged in epoch \d+ at learning rate .*: {remedy} or standard"
    ):
        regressor.fit(X * scale, y)
    with pytest.raises(ValueError, match=rf"the training diverged in epoch \d+ at learning rate .*: {remedy}$"):
        regressor.set_params(standardize=True, learning_rate_init=1e30).fit(X * scale, y)


def test_after_ctrl_c_the_network_is_what_it_was_then(monkeypatch):
    from batchnorm.training.monitor import Monitor

    class Interrupt(Monitor):
        def step(self, epoch, step, loss):
            if epoch == 3:
                signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("batchnorm.estimator.base.monitor_for", lambda verbose: Interrupt())
    X, y = IRIS
    with pytest.warns(UserWarning, match="training was interrupted: the network is what it was then") as seen:
        classifier = BatchNormClassifier(**SMALL, batch_size=50).fit(X, y)
    assert [warning.filename for warning in seen] == [__file__]
    assert classifier.n_iter_ == 4
    assert classifier.t_ == 3 * 150 + 50
    assert classifier.loss_curve_[2] * 0.5 < classifier.loss_ < classifier.loss_curve_[2] * 1.5  # the mean of one step
    assert np.isfinite(classifier.predict_proba(X)).all()


def test_ctrl_c_after_the_training_does_not_lose_it(monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("batchnorm.estimator.training.recalibrate", interrupted)
    X, y = IRIS
    with pytest.warns(UserWarning, match="the network keeps its running averages") as seen:
        classifier = BatchNormClassifier(**SMALL).fit(X, y)
    assert [warning.filename for warning in seen] == [__file__]
    assert same(classifier, BatchNormClassifier(**SMALL, statistics="running").fit(X, y))
