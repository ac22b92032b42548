"""The estimators as their users see them: what scikit-learn's networks promise, and what only these do."""

import io
import signal
import sys
import threading
import warnings
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import (
    load_breast_cancer,
    load_diabetes,
    load_digits,
    load_iris,
    make_classification,
    make_multilabel_classification,
    make_regression,
)
from sklearn.ensemble import AdaBoostClassifier
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import batchnorm as bn
from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator.inputs import Moments, deviation_of, table_moments
from batchnorm.estimator.rescaling import rescale_inputs_, rescale_outputs_

BOTH = pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])
IRIS, DIGITS, DIABETES = (load(return_X_y=True) for load in (load_iris, load_digits, load_diabetes))
SMALL = {"hidden_layer_sizes": (8,), "random_state": 0, "max_iter": 10}


def same(a, b):
    """Tell whether two estimators have learnt the same, to the bit."""
    ours, theirs = a.network_.state_dict(), b.network_.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


def outputs(estimator, X):
    return estimator.predict_proba(X) if isinstance(estimator, BatchNormClassifier) else estimator.predict(X)


# ---- it learns ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("load", "least"), [(load_iris, 0.90), (load_breast_cancer, 0.93), (load_digits, 0.95), (load_diabetes, 0.15)]
)
def test_it_learns_toy_sets(load, least):
    X, y = load(return_X_y=True)
    classes = y if len(np.unique(y)) < 20 else None
    X, X_test, y, y_test = train_test_split(X, y, random_state=0, stratify=classes)
    estimator = (BatchNormRegressor if classes is None else BatchNormClassifier)(random_state=0).fit(X, y)
    assert estimator.score(X_test, y_test) > least


def test_regression_is_in_the_unit_of_its_targets():
    X, y = make_regression(300, 5, n_targets=2, noise=1.0, random_state=0)
    y = y * [1e6, 1e-6] + [1e9, -1.0]
    regressor = BatchNormRegressor(random_state=0).fit(X[:200], y[:200])
    assert regressor.predict(X[200:]).shape == (100, 2)
    assert regressor.score(X[200:], y[200:]) > 0.95
    one = BatchNormRegressor(**SMALL).fit(X, y[:, 0])
    assert one.predict(X).shape == (300,)
    column = BatchNormRegressor(**SMALL).fit(X, y[:, :1])
    assert np.array_equal(column.predict(X), one.predict(X))


def test_values_far_from_zero_are_not_rounded():
    X = np.arange(200)[:, None] % 37
    y = 1.7e9 + 10.0 * X[:, 0]
    assert BatchNormRegressor(random_state=0).fit(X, y).score(X, y) > 0.99
    constant = BatchNormRegressor(**SMALL).fit(X, np.full(200, 1e-6))
    assert set(constant.predict(X)) == {1e-6}
    assert constant.intercepts_[-1].tolist() == [pytest.approx(1e-6)]


def test_labels_may_be_strings():
    X, y = IRIS
    names = np.array(["setosa", "versicolor", "virginica"], dtype=object)
    classifier = BatchNormClassifier(random_state=0).fit(X, names[y])
    assert classifier.classes_.tolist() == names.tolist()
    assert np.array_equal(classifier.predict(X), names[BatchNormClassifier(random_state=0).fit(X, y).predict(X)])


def test_a_single_class_is_all_that_is_predicted():
    X, _ = IRIS
    classifier = BatchNormClassifier(**SMALL).fit(X, np.full(150, "only"))
    assert set(classifier.predict(X)) == {"only"}
    assert np.array_equal(classifier.predict_proba(X), np.ones((150, 1)))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_probabilities_logarithms_and_decisions_agree(n_classes):
    X, y = make_classification(100, n_informative=5, n_classes=n_classes, random_state=0)
    classifier = BatchNormClassifier(**SMALL).fit(X, y)
    probabilities = classifier.predict_proba(X)
    assert probabilities.shape == (100, n_classes)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(classifier.predict_log_proba(X), np.log(probabilities), rtol=1e-9)
    assert np.array_equal(classifier.predict(X), probabilities.argmax(1))
    decision = classifier.decision_function(X)
    if n_classes == 2:
        assert decision.shape == (100,)
        np.testing.assert_allclose(probabilities[:, 1], 1 / (1 + np.exp(-decision)), rtol=1e-9)
    else:
        np.testing.assert_allclose(np.exp(decision) / np.exp(decision).sum(1, keepdims=True), probabilities)


@pytest.mark.parametrize("make", [np.asarray, sparse.csr_array], ids=["array", "CSR"])
def test_several_labels_at_once(make):
    X, y = make_multilabel_classification(400, n_classes=4, random_state=0)
    classifier = BatchNormClassifier(random_state=0).fit(X[:300], make(y[:300]))
    predicted, probabilities = classifier.predict(X[300:]), classifier.predict_proba(X[300:])
    assert predicted.shape == probabilities.shape == (100, 4)
    assert np.array_equal(predicted, probabilities > 0.5)
    np.testing.assert_allclose(classifier.predict_log_proba(X[300:]), np.log(probabilities), rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(1 / (1 + np.exp(-classifier.decision_function(X[300:]))), probabilities, rtol=1e-9)
    assert (predicted == y[300:]).mean() > 0.65
    assert classifier.classes_.tolist() == [0, 1, 2, 3]
    assert classifier.out_activation_ == "logistic"


def test_targets_of_other_kinds_are_refused():
    X, y = IRIS
    with pytest.raises(ValueError, match="Unknown label type"):
        BatchNormClassifier().fit(X, y + 0.5)
    with pytest.raises(ValueError, match="multiclass-multioutput targets are not supported: fit one classifier for"):
        BatchNormClassifier().fit(X, np.stack([y, y[::-1]], 1))


# ---- the place of MLPClassifier and MLPRegressor --------------------------------------------------------------------


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
    """Batch norm, standardisation and the targets' unit are folded into `coefs_` and `intercepts_`."""
    X, y = IRIS
    estimator = estimator_class(hidden_layer_sizes=(7, 5), random_state=0, max_iter=20).fit(X, y)
    a = X
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


# ---- going on -------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"dropout": 0.2, "input_noise": 0.1}, {"shuffle": False}])
def test_epochs_one_by_one_are_a_fit(estimator_class, options):
    X, y = IRIS
    options = {**SMALL, "schedule": "constant", "statistics": "running", "batch_size": 40, **options}
    with pytest.warns(ConvergenceWarning):
        whole = estimator_class(**options, tol=0, n_iter_no_change=np.inf).fit(X, y)
    steps = estimator_class(**options)
    for _ in range(10):
        if estimator_class is BatchNormClassifier:
            steps.partial_fit(X, y, classes=[0, 1, 2])
        else:
            steps.partial_fit(X, y)
    np.testing.assert_allclose(outputs(steps, X), outputs(whole, X), rtol=1e-9)
    np.testing.assert_allclose(steps.loss_curve_, whole.loss_curve_, rtol=1e-9)
    assert (steps.n_iter_, steps.t_) == (whole.n_iter_, whole.t_) == (10, 1500)


def test_partial_fit_learns_from_a_stream():
    """Of small pieces whose scale one does not know at the beginning."""
    X, y = DIGITS
    X = X * np.logspace(0, 6, 64) + 1e3
    classifier = BatchNormClassifier(random_state=0)
    regressor = BatchNormRegressor(random_state=0)
    for epoch in range(6):
        for rows in np.array_split(np.random.default_rng(epoch).permutation(1500), 60):
            classifier.partial_fit(X[rows], y[rows], classes=np.arange(10))
            regressor.partial_fit(X[rows], 1e4 * y[rows])
    assert classifier.score(X[1500:], y[1500:]) > 0.85
    assert regressor.score(X[1500:], 1e4 * y[1500:]) > 0.6


def test_partial_fit_and_classes():
    X, y = IRIS
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        BatchNormClassifier().partial_fit(X, y)
    classifier = BatchNormClassifier(**SMALL).partial_fit(X[:50], y[:50], classes=[2, 0, 1])
    assert classifier.classes_.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"`classes=\[0, 1\]` is not the same as on last call to partial_fit, was:"):
        classifier.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`"):
        classifier.partial_fit(X, y + 1)
    with pytest.raises(ValueError, match="y is multilabel, but what was trained on before was not"):
        classifier.partial_fit(X, np.eye(3, dtype=int)[y], classes=[0, 1, 2])
    labels = BatchNormClassifier(**SMALL).partial_fit(X, np.eye(3, dtype=int)[y], classes=[0, 1, 2])
    assert labels.predict(X).shape == (150, 3)
    with pytest.raises(ValueError, match="y has 2 columns, expected one for each of the 3 classes"):
        labels.partial_fit(X, np.eye(3, dtype=int)[y][:, :2])
    with pytest.raises(ValueError, match="y has 2 columns, expected one for each of the 3 classes"):
        BatchNormClassifier().partial_fit(X, np.eye(3, dtype=int)[y][:, :2], classes=[0, 1, 2])
    with pytest.raises(ValueError, match="partial_fit cannot hold examples back for early_stopping: set it to False"):
        BatchNormClassifier(early_stopping=True).partial_fit(X, y, classes=[0, 1, 2])
    with pytest.raises(ValueError, match="y has 2 outputs, what was trained on before had 1"):
        BatchNormRegressor(**SMALL).partial_fit(X, y).partial_fit(X, np.stack([y, y], 1))


@settings(max_examples=30, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 5), max_size=2),
    normalize_logits=st.booleans(),
    scales=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    seed=st.integers(0, 2**31),
)
def test_what_was_learnt_stays_true_when_the_scale_moves(hidden, normalize_logits, scales, seed):
    rng = np.random.default_rng(seed)
    network = bn.DenseNetwork(3, hidden, 2, normalize_logits=normalize_logits).double()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(rng.uniform(0.5, 2, tensor.shape)))
    X = rng.normal(size=(20, 3))
    inputs = [table_moments(rng.normal(scale=scale, size=(9, 3)), None) for scale in scales[:2]]
    targets = [table_moments(rng.normal(scale=scale, size=(9, 2)), None) for scale in scales[2:]]

    def predict(inputs, targets):
        standardized = (torch.from_numpy(X) - inputs.mean) / deviation_of(inputs)
        with torch.no_grad():
            return network(standardized) * deviation_of(targets) + targets.mean

    before = predict(inputs[0], targets[0])
    rescale_inputs_(network, *inputs)
    rescale_outputs_(network, *targets)
    torch.testing.assert_close(predict(inputs[1], targets[1]), before, rtol=1e-8, atol=1e-8)


@BOTH
def test_warm_start_goes_on(estimator_class):
    X, y = IRIS
    estimator = estimator_class(**SMALL, warm_start=True).fit(X, y)
    first, network = estimator.loss_, estimator.network_
    estimator.fit(X, y)
    assert estimator.loss_ < first
    assert estimator.n_iter_ == 10
    assert len(estimator.loss_curve_) == 20
    assert estimator.network_ is not network  # what was there is not touched: it is kept if a training fails
    cold = clone(estimator).set_params(warm_start=False).fit(X, y)
    assert cold.fit(X, y).loss_ == first
    with pytest.raises(ValueError, match=r"what is trained already cannot become another network \(hidden_layer_sizes"):
        estimator.set_params(hidden_layer_sizes=(9,)).fit(X, y)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_another_optimizer_begins_anew(engine):
    X, y = IRIS
    regressor = BatchNormRegressor(**SMALL, engine=engine).fit(X, y)
    for optimizer, momentum in (("sgd", 0.9), ("sgd", 0.0), ("adamw", 0.9), ("sgd", 0.9)):
        regressor.set_params(optimizer=optimizer, momentum=momentum).partial_fit(X, y)
    assert regressor.n_iter_ == 14
    assert np.isfinite(regressor.predict(X)).all()


@pytest.mark.parametrize("classes", [[0, 1], [0, 1, 3], [0, 1, 2, 3]])
def test_warm_start_needs_the_same_classes(classes):
    X, _ = IRIS
    y = np.resize([0, 1, 2], 150)
    classifier = BatchNormClassifier(**SMALL, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match=r"warm_start can only be used where `y` has the same classes.*\[0 1 2\]"):
        classifier.fit(X, np.resize(classes, 150))
    assert classifier.classes_.tolist() == [0, 1, 2]


@BOTH
@pytest.mark.parametrize(
    "bad",
    [
        lambda X, y: (X[:, :3], y[:-1], {}, "inconsistent numbers of samples"),
        lambda X, y: (np.where(X[3, 1] == X, np.nan, X), y, {}, "Input X contains NaN"),
        lambda X, y: (X[:, :2] * 1e200, y, {"standardize": False}, "diverged"),
        lambda X, y: (X, y, {"alpha": -1.0}, "The 'alpha' parameter"),
        lambda X, y: (X, y, {"learning_rate_init": 1e200, "optimizer": "sgd", "alpha": 0}, "diverged"),
    ],
)
def test_what_fails_leaves_everything_as_it_was(estimator_class, bad):
    X, y = IRIS
    estimator = estimator_class(**SMALL).fit(X, y)
    before, attributes = outputs(estimator, X), set(vars(estimator))
    X_bad, y_bad, parameters, message = bad(X, y)
    estimator.set_params(**parameters)
    with pytest.raises(ValueError, match=message), np.errstate(all="ignore"):
        estimator.fit(X_bad, y_bad)
    assert set(vars(estimator)) == attributes
    assert np.array_equal(outputs(estimator, X), before)


# ---- when it stops --------------------------------------------------------------------------------------------------


@BOTH
def test_early_stopping_keeps_the_best_epoch(estimator_class):
    X, y = DIGITS
    X, y = X[:300], y[:300]
    options = {
        "early_stopping": True,
        "max_iter": 1000,
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
    classifier.set_params(max_iter=1).fit(X[:300], y[:300])
    assert classifier.validation_scores_[:-1] == first
    assert classifier.best_validation_score_ == classifier.validation_scores_[-1]  # of the network that there is now


def test_early_stopping_holds_back_a_share_of_each_class():
    with pytest.raises(ValueError, match="least populated class"):
        BatchNormClassifier(early_stopping=True).fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])
    with pytest.raises(ValueError, match="the validation set has 1 example, too few to score: increase"):
        BatchNormRegressor(early_stopping=True).fit([[1, 2], [2, 3]], [0.0, 0.1])


@BOTH
def test_early_stopping_counts_by_weight(estimator_class):
    X, y = DIGITS
    X, y = X[:200], y[:200]
    plain = estimator_class(**SMALL, early_stopping=True).fit(X, y)
    _, held_back = plain._split(y, None, plain._state.seed)
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


def test_an_adaptive_rate_shrinks_until_it_is_over():
    X, y = IRIS
    classifier = BatchNormClassifier(solver="sgd", learning_rate="adaptive", tol=0.5, max_iter=3000, n_iter_no_change=3)
    _, rates = record(classifier, X, y)
    assert classifier.n_iter_ < 3000
    levels = list(dict.fromkeys(rates))
    np.testing.assert_allclose(levels, 0.01 / 5.0 ** np.arange(len(levels)))
    assert levels[-1] <= 1e-6 < levels[-2]


def test_an_inverse_scaling_rate_falls_with_the_examples():
    X, y = IRIS
    with pytest.warns(ConvergenceWarning):
        _, rates = record(BatchNormClassifier(**SMALL, schedule="invscaling", power_t=0.3), X, y)
    expected = 0.01 / (np.arange(10) * 150 + 1) ** 0.3
    np.testing.assert_allclose(rates, np.repeat(expected, len(rates) // 10))


def test_each_epoch_goes_through_all_examples_in_an_order_of_its_own():
    X, y = IRIS
    epochs = np.reshape(record(BatchNormClassifier(**SMALL, batch_size=50), X, y)[0], (10, 150))
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(150), (10, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 10
    in_order = np.reshape(record(BatchNormClassifier(**SMALL, batch_size=50, shuffle=False), X, y)[0], (10, 150))
    assert np.array_equal(in_order, np.tile(np.arange(150), (10, 1)))


def test_partial_fit_does_not_anneal():
    X, y = IRIS
    assert set(record(BatchNormRegressor(**SMALL), X, y, "partial_fit")[1]) == {0.01}


def record(estimator, X, y, method="fit"):
    """Fit, and return the indices and the rates of all steps."""
    trained, rates = [], []

    class Recording:
        def __init__(self, *args):
            self.engine = make_engine(*args)

        def step(self, indices, rate):
            trained.extend(indices)
            rates.append(rate)
            return self.engine.step(indices, rate)

        def __getattr__(self, name):
            return getattr(self.engine, name)

    from batchnorm.estimator import training

    make_engine = training.make_engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "make_engine", Recording)
        getattr(estimator, method)(X, y)
    return trained, rates


@pytest.mark.parametrize("scale", [1e3, 1e300])
def test_a_training_that_diverges_says_so(scale):
    X, y = IRIS
    regressor = BatchNormRegressor(
        hidden_layer_sizes=(), optimizer="sgd", standardize=False, learning_rate_init=1e3, alpha=0
    )
    with pytest.raises(ValueError, match=r"the training diverged in epoch \d+ at learning rate .*: try a smaller"):
        regressor.fit(X * scale, y)


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

    monkeypatch.setattr("batchnorm.estimator.base.recalibrate", interrupted)
    X, y = IRIS
    with pytest.warns(UserWarning, match="the network keeps its running averages") as seen:
        classifier = BatchNormClassifier(**SMALL).fit(X, y)
    assert [warning.filename for warning in seen] == [__file__]
    assert same(classifier, BatchNormClassifier(**SMALL, statistics="running").fit(X, y))


# ---- weights --------------------------------------------------------------------------------------------------------


@BOTH
def test_a_weight_of_two_is_the_example_twice(estimator_class):
    X, y = IRIS
    counts = np.random.default_rng(0).integers(0, 4, 150)
    weighted = estimator_class(**SMALL, batch_size=1000).fit(X, y, sample_weight=counts)
    repeated = estimator_class(**SMALL, batch_size=1000).fit(X.repeat(counts, 0), y.repeat(counts))
    np.testing.assert_allclose(outputs(weighted, X), outputs(repeated, X), rtol=1e-7)


@BOTH
@pytest.mark.parametrize("scale", [1e-50, 1 / 150, 1e13])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_the_ratios_of_weights_count(estimator_class, scale, dtype):
    X, y = IRIS
    X, weights = X.astype(dtype), np.random.default_rng(0).uniform(0.5, 2, 150)
    plain = estimator_class(**SMALL).fit(X, y, sample_weight=weights)
    scaled = estimator_class(**SMALL).fit(X, y, sample_weight=scale * weights)
    np.testing.assert_allclose(outputs(scaled, X), outputs(plain, X), rtol=1e-3 if dtype == np.float32 else 1e-9)


def test_boosting_by_weights_works():
    X, y = DIGITS
    boosted = AdaBoostClassifier(BatchNormClassifier(max_iter=5), n_estimators=3, random_state=0)
    assert boosted.fit(X[:900], y[:900]).score(X[900:], y[900:]) > 0.9


def test_balanced_classes_weigh_the_same():
    X, y = make_classification(600, n_features=5, weights=[0.95], flip_y=0.1, class_sep=0.5, random_state=0)
    plain, balanced = (
        BatchNormClassifier(random_state=0, max_iter=30, class_weight=weight).fit(X, y) for weight in (None, "balanced")
    )
    assert (balanced.predict(X) == 1).mean() > (plain.predict(X) == 1).mean() + 0.1
    by_hand = {0: 600 / (2 * (y == 0).sum()), 1: 600 / (2 * (y == 1).sum())}
    given = BatchNormClassifier(random_state=0, max_iter=30, class_weight=by_hand).fit(X, y)
    np.testing.assert_allclose(given.predict_proba(X), balanced.predict_proba(X), rtol=1e-9)
    counts = np.random.default_rng(0).integers(0, 3, 600)
    options = {**SMALL, "class_weight": "balanced", "batch_size": 2000}
    weighted = BatchNormClassifier(**options).fit(X, y, sample_weight=counts)
    repeated = BatchNormClassifier(**options).fit(X.repeat(counts, 0), y.repeat(counts))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)


def test_class_weights_of_several_labels():
    X, y = make_multilabel_classification(300, n_classes=2, random_state=0)
    counts = [np.bincount(column, minlength=2) for column in y.T]
    by_hand = [{i: 300 / (2 * n) for i, n in enumerate(count)} for count in counts]
    a, b, c = (BatchNormClassifier(**SMALL, class_weight=weight).fit(X, y) for weight in ("balanced", by_hand, None))
    np.testing.assert_allclose(a.predict_proba(X), b.predict_proba(X), rtol=1e-9)
    assert not np.allclose(a.predict_proba(X), c.predict_proba(X))


@pytest.mark.parametrize(
    ("class_weight", "message"),
    [
        ({"a": 1.0}, r"class_weight has \['a'\], which are no classes, and has not \[0, 1, 2\], which are"),
        ({0: -1.0}, "class_weight is {0: -1.0}, expected finite weights of at least 0"),
        ("even", r"The 'class_weight' parameter of BatchNormClassifier must be None, 'balanced', a dict"),
        ([{0: 1.0}], "class_weight must be a dict of class to weight"),
    ],
)
def test_class_weights_that_make_no_sense_are_refused(class_weight, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier(class_weight=class_weight).fit(*IRIS)
    with pytest.raises(ValueError, match="class_weight='balanced' cannot be known from a part of the data"):
        BatchNormClassifier(class_weight="balanced").partial_fit(*IRIS, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(3), r"sample_weight has shape \(3,\), expected \(150,\): one per example"),
        (np.full(150, -1.0), "sample_weight holds -1, expected no weight below 0"),
        (np.zeros(150), "sample_weight is zero for every example"),
        (np.eye(150)[0], "n_samples=1 is left to train on, without those of weight 0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier().fit(*IRIS, sample_weight=weight)


def test_a_constant_weight_may_be_a_number():
    X, y = IRIS
    a, b = (BatchNormClassifier(**SMALL).fit(X, y, sample_weight=weight) for weight in (2.0, np.full(150, 2)))
    assert same(a, b)


# ---- options that only a batch-normalised network has ---------------------------------------------------------------


def test_population_statistics_are_exact():
    X, y = DIGITS
    options = {"random_state": 0, "max_iter": 2, "bn_momentum": 0.01}
    running, population = (
        BatchNormClassifier(**options, statistics=kind).fit(X, y) for kind in ("running", "population")
    )
    standardized = (torch.from_numpy(X) - running._inputs.mean) / deviation_of(running._inputs)
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


def test_of_other_optimizers_the_rate_is_constant_as_with_scikit_learn():
    with pytest.warns(ConvergenceWarning):
        _, rates = record(BatchNormClassifier(**SMALL, solver="adam", learning_rate="invscaling"), *IRIS)
    assert set(rates) == {0.01}


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


# ---- randomness -----------------------------------------------------------------------------------------------------


@BOTH
def test_the_same_seed_is_the_same_network(estimator_class):
    X, y = IRIS
    options = {**SMALL, "dropout": 0.2, "input_noise": 0.1}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b = (estimator_class(**options).fit(X, y) for _ in range(2))
    assert same(a, b)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's draws are touched
    assert not same(a, estimator_class(**options | {"random_state": 1}).fit(X, y))
    c, d = (estimator_class(**options | {"random_state": np.random.RandomState(7)}).fit(X, y) for _ in range(2))
    assert same(c, d)


def test_trainings_at_the_same_time_do_not_disturb_each_other():
    X, y = DIGITS
    options = {"hidden_layer_sizes": (20,), "dropout": 0.3, "input_noise": 0.3, "max_iter": 10}
    alone = [BatchNormClassifier(**options, random_state=seed).fit(X, y) for seed in range(4)]
    together = [BatchNormClassifier(**options, random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=estimator.fit, args=(X, y)) for estimator in together]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))


# ---- among scikit-learn's tools -------------------------------------------------------------------------------------


def test_a_grid_is_searched_by_several_processes():
    X, y = IRIS
    grid = {"batchnormclassifier__alpha": [0.0, 100.0], "batchnormclassifier__hidden_layer_sizes": [(4,), (8, 8)]}
    pipeline = make_pipeline(MinMaxScaler(), BatchNormClassifier(random_state=0, max_iter=100))
    several = GridSearchCV(pipeline, grid, n_jobs=2, cv=3).fit(X, y)
    alone = GridSearchCV(pipeline, grid, cv=3).fit(X, y)
    np.testing.assert_allclose(several.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert several.best_score_ > 0.9


def test_calibration_importance_and_cross_validation():
    X, y = IRIS
    noise = np.random.default_rng(0).normal(size=(150, 1))
    X = np.column_stack([X, noise])
    calibrated = CalibratedClassifierCV(BatchNormClassifier(**SMALL), cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(1), 1)
    classifier = BatchNormClassifier(random_state=0).fit(X, y)
    importance = permutation_importance(classifier, X, y, n_repeats=3, random_state=0).importances_mean
    assert importance[:4].max() > 0.2 > 0.1 > importance[4]
    assert cross_val_score(BatchNormRegressor(random_state=0), *DIABETES, cv=3).mean() > 0.3


def test_weights_are_routed():
    import sklearn

    X, y = IRIS
    weights = (y < 2).astype(float)
    with sklearn.config_context(enable_metadata_routing=True):
        classifier = BatchNormClassifier(random_state=0).set_fit_request(sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), classifier)
        pipeline.fit(X, y, sample_weight=weights)
    assert set(pipeline.predict(X)) <= {0, 1}


def test_frames_keep_their_names():
    import pandas as pd
    import polars as pl

    X, y = load_iris(return_X_y=True, as_frame=True)
    names = np.array(["a", "b", "c"])[y]
    plain = BatchNormClassifier(**SMALL).fit(X.to_numpy(), names)
    for frame, target in ((X, pd.Series(names)), (pl.DataFrame(X.to_dict("list")), pl.Series(names))):
        classifier = BatchNormClassifier(**SMALL).fit(frame, target)
        assert classifier.feature_names_in_.tolist() == X.columns.tolist()
        assert np.array_equal(classifier.predict_proba(frame), plain.predict_proba(X.to_numpy()))
        with pytest.raises(ValueError, match="feature names"):
            classifier.predict(X.rename(columns={"petal width (cm)": "other"}))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            classifier.predict(X.to_numpy())
    pipeline = make_pipeline(StandardScaler(), BatchNormClassifier(**SMALL)).set_output(transform="pandas")
    assert pipeline.fit(X, names)[-1].feature_names_in_.tolist() == X.columns.tolist()


def test_class_weights_may_name_a_class_that_a_fold_lacks():
    X, y = IRIS
    scores = cross_val_score(BatchNormClassifier(**SMALL, class_weight={0: 1, 1: 2, 2: 3}), X, y, cv=KFold(3))
    assert np.isfinite(scores).all()


@BOTH
def test_names_are_kept_with_early_stopping(estimator_class):
    X, y = load_iris(return_X_y=True, as_frame=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator_class(**SMALL, early_stopping=True).fit(X, y).predict(X)


# ---- what it tells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"alpha": -1}, "The 'alpha' parameter of BatchNormClassifier must be a number at least 0. Got -1 instead."),
        ({"activation": "step"}, "The 'activation' parameter of BatchNormClassifier must be one of 'relu', .*'step'"),
        ({"batch_size": 1}, "The 'batch_size' parameter of .* must be a whole number at least 2 or auto"),
        ({"max_iter": 0}, "The 'max_iter' parameter of .* a whole number at least 1 or auto. Got 0"),
        ({"statistics": "batch"}, "The 'statistics' parameter of .* 'running', 'population'. Got 'batch'"),
        ({"shuffle": "yes"}, "The 'shuffle' parameter of BatchNormClassifier must be True or False. Got 'yes'"),
        ({"hidden_layer_sizes": (5, 0)}, r"hidden_layer_sizes is \(5, 0\), expected positive whole numbers"),
        ({"device": "cuda:99"}, "device is 'cuda:99', but"),
        ({"device": None}, "device is None, expected cpu, cuda or cuda:N"),
        ({"validation_fraction": 1.0}, "The 'validation_fraction' parameter of .* above 0 below 1. Got 1.0"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        BatchNormClassifier(**parameters).fit(*IRIS)


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


def test_verbose_prints_a_line_per_epoch_without_a_terminal():
    said = io.StringIO()
    with redirect_stdout(said):
        classifier = BatchNormClassifier(**SMALL, verbose=1, early_stopping=True).fit(*IRIS)
    lines = said.getvalue().splitlines()
    assert lines[0] == f"Iteration 1, loss = {classifier.loss_curve_[0]:.8f}"
    assert lines[-1] == f"Validation score: {classifier.validation_scores_[-1]:.6f}"
    assert len(lines) == 20


def test_verbose_shows_a_bar_at_a_terminal(monkeypatch):
    from batchnorm.training import monitor

    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    bars = []

    class Recording(monitor.ProgressMonitor):
        def step(self, epoch, step, loss):
            super().step(epoch, step, loss)
            bars.append(self._progress is not None)

    monkeypatch.setattr(monitor, "ProgressMonitor", Recording)
    BatchNormClassifier(**SMALL, verbose=True).fit(*IRIS)
    assert len(bars) == 50
    assert all(bars)


def test_it_shows_itself_in_a_notebook():
    X, y = IRIS
    classifier = BatchNormClassifier(**SMALL, early_stopping=True)
    assert "polyline" not in classifier._repr_html_()
    page = classifier.fit(X, y)._repr_html_()
    assert "4 → 8 → 3, 75 parameters, 10 epochs, loss " in page
    assert "best validation score" in page
    points = page.split('points="')[1].split('"')[0].split()
    assert len(points) == 10
    assert points[0].startswith("0.0,")
    assert points[-1].startswith("240.0,")
    assert "4 → 8 → 3, 75 parameters" in classifier._repr_mimebundle_()["text/html"]
    one = BatchNormClassifier(**SMALL | {"max_iter": 1}).fit(X, y)._repr_html_()
    assert ", 1 epoch, " in one
    assert "polyline" not in one
