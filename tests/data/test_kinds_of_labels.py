"""What is learnt is told by the labels: classes, several labels at once, or values."""

import math

import numpy as np
import pytest
import torch

from batchnorm import Dataset, Examples, InputError
from batchnorm.data import TargetScale, load_own

N = 60
RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(N, 3))
CLASSES = np.arange(N) % 3
SEVERAL = RNG.random((N, 2)) < 0.5
VALUES = RNG.normal(size=N)
PAIRS = RNG.normal(size=(N, 2))

RECOGNIZED = {
    "whole numbers": (CLASSES, None, "classification"),
    "truth": (CLASSES > 0, None, "classification"),
    "truth in columns": (SEVERAL, None, "labels"),
    "0 and 1 in columns": (SEVERAL.astype(np.uint8), None, "labels"),
    "0.0 and 1.0 in columns": (SEVERAL.astype(np.float32), None, "labels"),
    "numbers": (VALUES, None, "regression"),
    "float16": (VALUES.astype(np.float16), None, "regression"),
    "a column of numbers": (VALUES[:, None], None, "regression"),
    "columns of numbers": (PAIRS, None, "regression"),
    "many whole floating-point numbers": (np.arange(N) * 1.0, None, "regression"),
    "whole floating-point numbers, classes": (CLASSES * 1.0, "classification", "classification"),
    "whole floating-point numbers, values": (CLASSES * 1.0, "regression", "regression"),
    "whole numbers, values": (CLASSES, "regression", "regression"),
    "columns of whole numbers, values": (np.stack([CLASSES, CLASSES + 7], 1), "regression", "regression"),
    "one label": (CLASSES > 0, "labels", "labels"),
    "one-hot, labels": (np.eye(3)[CLASSES], "labels", "labels"),
}


@pytest.mark.parametrize("name", RECOGNIZED)
def test_what_labels_are(name, tmp_path):
    labels, task, expected = RECOGNIZED[name]
    dataset = Dataset.from_arrays(INPUTS, labels, task=task)
    assert dataset.task == expected
    kept = dataset.train.labels
    columns = 1 if labels.ndim == 1 else labels.shape[1]
    kind = {"classification": torch.int64, "labels": torch.bool, "regression": torch.float64}[expected]
    shape = (48,) if expected == "classification" else (48, columns)
    assert (kept.dtype, tuple(kept.shape)) == (kind, shape)
    assert (
        dataset.n_classes == len(dataset.class_names) == (columns if expected != "classification" else kept.max() + 1)
    )
    assert (dataset.target_scale is not None) == (expected == "regression")

    np.savez(tmp_path / "a.npz", X=INPUTS, y=labels)
    loaded = load_own([tmp_path / "a.npz"], task=task)
    assert (loaded.fingerprint, loaded.origin.get("task")) == (dataset.fingerprint, task)
    torch.testing.assert_close(loaded.test.labels, dataset.test.labels, rtol=0, atol=0)


REFUSED = {
    "classes or values": (CLASSES * 1.0, None, "may be classes or values: say which by task 'classification' or"),
    "two numbers": (np.where(CLASSES > 0, 0.3, 0.7), None, "may be classes or values"),
    "one-hot": (np.eye(3)[CLASSES], None, r"one-hot, .*\.argmax\(1\) .*; task 'labels' learns several"),
    "columns of whole numbers": (np.stack([CLASSES, CLASSES], 1), None, "task 'regression' values"),
    "halves": (CLASSES / 2, "classification", "type float64, expected whole numbers"),
    "a 2 among labels": (
        np.stack([CLASSES, CLASSES], 1),
        "labels",
        "labels have 2 at example 2, label 0, expected 0 or 1",
    ),
    "texts": (np.array(["a"] * N), "regression", "type <U1, expected values of shape"),
    "complex": (VALUES * 1j, "regression", "type complex128, expected values of shape"),
    "three dimensions": (np.zeros((N, 2, 2)), "labels", "expected labels of 0 and 1 of shape"),
    "no column": (np.zeros((N, 0)), "regression", r"\(60, 0\) .*expected values of shape"),
    "NaN": (np.where(np.arange(N) == 7, np.nan, VALUES), None, "1 labels are NaN or infinite, the first at example 7"),
    "infinite": (np.where(PAIRS > 2, np.inf, PAIRS), None, r"NaN or infinite, the first at example \d+, column [01]"),
    "too large": (np.linspace(1e308, 1.7e308, N), None, "labels go up to 1.69e\\+308, too far for float64 to sum them"),
    "another task": (VALUES, "clustering", "task is 'clustering', expected one of classification, labels, regression"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_labels_cannot_be(name, tmp_path):
    labels, task, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        Dataset.from_arrays(INPUTS, labels, task=task)
    np.savez(tmp_path / "a.npz", X=INPUTS, y=labels)
    if labels.dtype.kind != "U":
        with pytest.raises(InputError, match=message):
            load_own([tmp_path / "a.npz"], task=task)


def test_whole_numbers_that_are_no_classes_are_told_the_way(tmp_path):
    np.savez(tmp_path / "a.npz", X=INPUTS, y=np.arange(N))
    with pytest.raises(InputError, match=r"a has 1 of class '0' .*; if labels are values, say so by task regression"):
        load_own([tmp_path / "a.npz"])
    assert load_own([tmp_path / "a.npz"], task="regression").task == "regression"
    np.savez(tmp_path / "a.npz", X=INPUTS, y=[f"class {i}" for i in range(N)])
    with pytest.raises(InputError, match=r"a has 1 of class 'class 0' to train on, expected at least 3$"):
        load_own([tmp_path / "a.npz"])


def test_parts_that_differ_in_their_labels_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=INPUTS, y_train=PAIRS, x_test=INPUTS, y_test=VALUES)
    with pytest.raises(
        InputError, match=r"test part of a has float64 of shape \(60, 1\) for labels, expected 2 values"
    ):
        load_own([tmp_path / "a.npz"])
    values, classes = Examples(torch.zeros(4, 2), torch.zeros(4, 1)), Examples(torch.zeros(4, 2), torch.arange(4))
    with pytest.raises(
        InputError, match=r"validation part of a has int64 of shape \(4,\) for labels, expected 1 values"
    ):
        Dataset("a", values, classes, values, ["price"])
    bad = Examples(torch.zeros(4, 2), torch.tensor([[1.0], [2], [math.nan], [4]]))
    with pytest.raises(
        InputError, match="the test part of a has 1 labels that are NaN or infinite, the first at example 2"
    ):
        Dataset("a", values, values, bad, ["price"])


def test_too_few_examples_to_draw_parts_from(tmp_path):
    np.savez(tmp_path / "a.npz", X=INPUTS[:9], y=VALUES[:9])
    with pytest.raises(InputError, match="a has 9 examples, expected at least 10 to draw parts from"):
        load_own([tmp_path / "a.npz"])


def test_values_are_standardised_with_the_training_part_alone():
    dataset = Dataset.from_arrays(INPUTS, PAIRS * [1, 1e6] + [0, 5e6])
    for j, column in enumerate(dataset.train.labels.T.numpy()):
        assert dataset.target_scale.mean[j] == pytest.approx(column.mean(), rel=1e-12)
        assert dataset.target_scale.deviation[j] == pytest.approx(column.std(), rel=1e-12)
    assert dataset.test.target_scale == dataset.validation.target_scale == dataset.target_scale
    learnt = dataset.train.as_learnt()
    assert (learnt.labels.dtype, learnt.target_scale) == (torch.float32, None)
    torch.testing.assert_close(learnt.labels.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(learnt.labels.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(dataset.target_scale.in_unit(learnt.labels), dataset.train.labels, rtol=1e-6, atol=1e-6)
    classes = Dataset.from_arrays(INPUTS, CLASSES).train
    assert classes.as_learnt() is classes


@pytest.mark.parametrize("unit", [1e-300, 1e-200, 1e200, 1e300])
def test_values_of_any_size_are_standardised(unit):
    scale = TargetScale.of(torch.from_numpy(PAIRS * unit))
    np.testing.assert_allclose(scale.deviation, PAIRS.std(0) * unit, rtol=1e-12)


@pytest.mark.parametrize(
    ("labels", "scale", "message"),
    [
        (PAIRS, TargetScale((0.0,), (1.0,)), "expected a finite mean and deviation for each of 2 values"),
        (PAIRS, TargetScale((0.0, math.nan), (1.0, 1.0)), "expected a finite mean and deviation for each of 2 values"),
        (PAIRS, TargetScale((0.0, 0.0), (1.0, 0.0)), r"has the deviations \(1.0, 0.0\), expected numbers above 0"),
        (CLASSES, TargetScale((0.0,), (1.0,)), "for each of 0 values"),
    ],
)
def test_scales_that_do_not_fit(labels, scale, message):
    with pytest.raises(InputError, match=message):
        Examples(torch.from_numpy(INPUTS), torch.from_numpy(labels), target_scale=scale)


def test_a_constant_has_deviation_1():
    assert TargetScale.of(torch.full((5, 1), 7.0)) == TargetScale((7.0,), (1.0,))


def test_values_are_the_same_data_in_every_type():
    rounded = VALUES.astype(np.float32)
    a, b = (Dataset.from_arrays(INPUTS, y) for y in (rounded, rounded.astype(np.float64)))
    assert a.fingerprint == b.fingerprint != Dataset.from_arrays(INPUTS, VALUES).fingerprint
