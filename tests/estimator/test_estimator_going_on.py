"""Going on with what is trained: warm_start, partial_fit, and nothing lost where it fails."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

import batchnorm as bn
from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.estimator.rescaling import rescale_inputs_, rescale_outputs_
from batchnorm.inputs.scaling import deviation_of, table_moments
from estimator_cases import BOTH, DIGITS, IRIS, SMALL, outputs


@BOTH
@pytest.mark.parametrize("options", [{"optimizer": "sgd"}, {"dropout": 0.2, "input_noise": 0.1}, {}])
def test_epochs_one_by_one_are_a_fit_of_rows_in_order(estimator_class, options):
    X, y = IRIS
    how = {"schedule": "constant", "statistics": "running", "batch_size": 40, "shuffle": False, "input_noise": 0.0}
    options = SMALL | how | options
    whole = estimator_class(**options).fit(X, y)
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
    with pytest.raises(
        ValueError, match="partial_fit does not support early_stopping=True, as it holds no examples back"
    ):
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
        lambda X, y: (np.where(X[3, 1] == X, np.inf, X), y, {}, "Input X contains infinity in column 'x"),
        lambda X, y: (X[:, :2] * 1e200, y, {"standardize": False}, "diverged"),
        lambda X, y: (X, y, {"alpha": -1.0}, "The 'alpha' parameter"),
        lambda X, y: (X, y, {"learning_rate_init": 1e38, "optimizer": "sgd", "alpha": 0}, "diverged"),
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
