"""Smoothed targets in training, and probabilities as if there were none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm import BatchNormClassifier
from batchnorm.estimator import smoothing
from estimator_cases import IRIS


@settings(max_examples=50, deadline=None)
@given(
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 2**31),
    classes=st.integers(2, 6),
)
def test_what_is_learnt_of_smoothed_targets_gives_the_probabilities_back(share, seed, classes):
    rng = np.random.default_rng(seed)
    rates, p = (torch.from_numpy(rng.dirichlet(np.ones(classes), n) + 1e-3) for n in (1, 9))
    rates, p = (rates / rates.sum())[0], p / p.sum(1, keepdim=True)
    p = p.clamp_min(share)  # what is below the floor comes back as the floor
    p = p / p.sum(1, keepdim=True)
    learnt = (1 - share) * p + share * rates
    back = smoothing.log_probabilities(learnt.log(), share, rates).exp()
    torch.testing.assert_close(back, p, rtol=1e-9, atol=1e-12)
    both = (1 - share) * p + share * rates  # as independent labels
    logits = smoothing.label_logits(both.logit(), share, rates)
    torch.testing.assert_close(logits.sigmoid(), p, rtol=1e-8, atol=1e-12)


def test_no_class_is_impossible():
    logits = torch.tensor([[0.0, -1e4], [1e4, 0.0]])
    for rates in (torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])):
        logs = smoothing.log_probabilities(logits, 0.05, rates)
        assert logs.isfinite().all()
        torch.testing.assert_close(logs.exp().sum(1), torch.ones(2))
        assert smoothing.label_logits(logits, 0.05, rates).isfinite().all()
    torch.testing.assert_close(smoothing.log_probabilities(logits, 0.0, rates), logits.log_softmax(1))


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_an_event_is_predicted_as_often_as_it_happens(rate):
    """At 1 % it was predicted at 3.5 %."""
    means = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(4000, 5)).astype(np.float32)
        y = rng.random(4000) < rate * np.exp(X[:, 0] - 0.5)
        classifier = BatchNormClassifier(random_state=seed, epochs=8).fit(X, y)
        means.append(classifier.predict_proba(rng.normal(size=(20000, 5)).astype(np.float32))[:, 1].mean())
    assert np.mean(means) == pytest.approx(rate, abs=3 * np.sqrt(rate / 12000))  # three times the sampling error


def test_each_of_several_labels_is_predicted_as_often_as_it_applies():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 5)).astype(np.float32)
    y = rng.random((4000, 2)) < [0.02, 0.4]
    classifier = BatchNormClassifier(random_state=0, epochs=8).fit(X, y.astype(int))
    np.testing.assert_allclose(classifier.predict_proba(X).mean(0), y.mean(0), rtol=0.2)


def test_predictions_are_the_most_probable_class_whatever_is_smoothed():
    X, y = IRIS
    for share in (0.0, 0.3):
        classifier = BatchNormClassifier(random_state=0, epochs=10, label_smoothing=share).fit(X, y)
        probabilities = classifier.predict_proba(X)
        np.testing.assert_array_equal(classifier.predict(X), probabilities.argmax(1))
        np.testing.assert_allclose(np.exp(classifier.predict_log_proba(X)), probabilities, rtol=1e-9)
        decision = classifier.decision_function(X)
        softmax = np.exp(decision) / np.exp(decision).sum(1, keepdims=True)
        np.testing.assert_allclose(softmax, probabilities, rtol=1e-9)
