"""The scores of labels and values are scikit-learn's, and are told in lines."""

import numpy as np
import pytest
from sklearn import metrics

from batchnorm.scores import headline, label_scores, score_lines, value_scores

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_scores_of_values_are_scikit_learns(shape, weighted):
    target = RNG.normal(size=shape) * 100 + 5000
    predicted = target + RNG.normal(size=shape) * 30
    weights = RNG.random(50) if weighted else None
    scores = value_scores(predicted, target, weights)
    how = {"sample_weight": weights}
    assert scores["r2"] == pytest.approx(metrics.r2_score(target, predicted, **how), rel=1e-12)
    for name, of in (("rmse", metrics.root_mean_squared_error), ("mae", metrics.mean_absolute_error)):
        expected = of(target, predicted, **how, multioutput="raw_values")
        np.testing.assert_allclose(scores[name], expected[0] if len(shape) == 1 else expected, rtol=1e-12)


@pytest.mark.parametrize("predicted", [[3.0, 3.0], [3.0, 4.0]])
def test_r2_of_a_constant(predicted):
    target = np.array([3.0, 3.0])
    assert value_scores(np.array(predicted), target)["r2"] == metrics.r2_score(target, predicted)


def test_a_single_row_has_errors_and_no_r2():
    scores = value_scores(np.array([[3.0, 1.0]]), np.array([[1.0, 1.0]]))
    assert scores == {"r2": None, "rmse": [2.0, 0.0], "mae": [2.0, 0.0]}
    assert headline(scores) == "R²: –"
    assert list(score_lines(value_scores(np.array([3.0]), np.array([1.0])), ["a"])) == [
        "test root mean squared error 2, mean absolute error 2"
    ]


def test_a_row_of_labels_is_right_where_all_are():
    right = np.array([[True, True], [True, False], [False, True], [True, True]])
    assert label_scores(right) == {"accuracy": 0.5, "accuracy_of_labels": [0.75, 0.75]}
    assert label_scores(right, np.array([1.0, 1, 0, 0])) == {"accuracy": 0.5, "accuracy_of_labels": [1.0, 0.5]}
    assert headline({"train_accuracy": 0.5}, "train_") == "acc: 0.5"
