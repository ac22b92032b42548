"""Training on arrays of several labels, or values, as a person does it."""

import json

import numpy as np
import pandas as pd
import pytest

import batchnorm as bn
from image_folders import coloured, digits

SHORT = ("--epochs", 2, "--evaluate-every", 1, "--hidden-layer-sizes", "16", "--learning-rate", 0.1)
IMAGES, DIGITS = digits()
LABELS = np.stack([DIGITS % 2 == 0, DIGITS > 5, DIGITS == 0], axis=1)


@pytest.fixture
def arrays(tmp_path):
    """Write digits with what they are even, large and 0; with their values; and with two values."""
    np.savez(tmp_path / "several.npz", X=IMAGES, y=LABELS)
    np.savez(tmp_path / "digit.npz", X=IMAGES, y=DIGITS.astype(float))
    np.save(tmp_path / "X.npy", IMAGES)
    np.save(tmp_path / "y.npy", np.stack([DIGITS * 1e3, IMAGES.mean((1, 2))], axis=1))
    return tmp_path


def test_values_of_the_pictures(command, arrays):
    code, out, err = command("train", "X.npy", "y.npy", *SHORT, "--out", "run")
    assert (code, err) == (0, "")
    run = bn.load_run("run")
    first, last, test = run.history[0], run.history[-1], run.results["test"]
    assert out.splitlines()[1:] == [
        "2 values, inputs of 8 × 8 uint8, 0.0 MiB in memory",
        f"0 train R²: {first['train_r2']:.6g} val R²: {first['validation_r2']:.6g}",
        f"1 train R²: {last['train_r2']:.6g} val R²: {last['validation_r2']:.6g}",
        f"Test R² with population statistics: {test['population']['r2']:.6g}",
        f"Test R²: {test['running']['r2']:.6g}",
    ]
    code, out, err = command("evaluate", "run")
    assert (code, err) == (0, "")
    (rmse, other), (mae, another) = test["running"]["rmse"], test["running"]["mae"]
    assert out.splitlines()[4:] == [
        f"test R² {test['running']['r2']:.4f}",
        f"  0: root mean squared error {rmse:.6g}, mean absolute error {mae:.6g}",
        f"  1: root mean squared error {other:.6g}, mean absolute error {another:.6g}",
        f"  loss {test['running']['loss']:.4g}, with running averages",
    ]
    code, out, err = command("evaluate", "run", "--json", "--split", "train")
    assert json.loads(out)["running"]["rmse"] == last["train_rmse"]
    code, out, err = command("train", "--resume", "run")
    assert (code, err, out.splitlines()[-1]) == (0, "", f"Test R²: {test['running']['r2']:.6g}")


def test_labels_of_the_pictures(command, arrays):
    code, out, err = command("train", "several.npz", *SHORT, "--seeds", 2, "--out", "runs/several")
    assert (code, err) == (0, "")
    assert out.splitlines()[1] == "3 labels, inputs of 8 × 8 uint8, 0.0 MiB in memory"
    runs = [bn.load_run(f"runs/several/seed-{seed}") for seed in (0, 1)]
    accuracies = [run.test_accuracy for run in runs]
    spread = f"{np.mean(accuracies):.4f} ± {np.std(accuracies, ddof=1):.4f}"
    assert out.splitlines()[-1] == f"Test acc: {spread}"
    code, out, err = command("evaluate", "runs/several/seed-1")
    shares = runs[1].test_scores["accuracy_of_labels"]
    assert out.splitlines()[5:9] == [
        f"test accuracy {accuracies[1]:.4f}",
        *(f"  {name}: {share:.4f}" for name, share in zip("012", shares, strict=True)),
    ]
    code, out, err = command("runs")
    assert (code, err) == (0, "")
    assert f"{np.mean(accuracies):.4f}" in out


def test_values_are_predicted_in_columns_of_their_own(command, arrays):
    command("train", "X.npy", "y.npy", *SHORT, "--out", "run", "--quiet")
    assert command("predict", "run", "X.npy", "-o", "p.parquet") == (0, "", "X.npy: rows predicted: 600\n")
    found = pd.read_parquet("p.parquet")
    assert list(found) == ["prediction_0", "prediction_1"]
    np.testing.assert_array_equal(found, bn.load_run("run").predict(IMAGES))
    assert "this run predicts values" in command("predict", "run", "X.npy", "--unsure-below", 0.8)[2]


def test_labels_are_predicted_with_their_probabilities(command, arrays):
    command("train", "several.npz", *SHORT, "--out", "run", "--quiet")
    command("predict", "run", "X.npy", "-o", "p.parquet", "--unsure-below", 0.6)
    found = pd.read_parquet("p.parquet")
    assert list(found) == [f"{what}_{i}" for what in ("prediction", "probability") for i in range(3)] + ["unsure"]
    labels, probabilities = found.iloc[:, :3], found.iloc[:, 3:6]
    run = bn.load_run("run")
    np.testing.assert_array_equal(labels, run.predict(IMAGES))
    np.testing.assert_allclose(probabilities, run.predict_proba(IMAGES), rtol=1e-6)
    sure = np.maximum(probabilities, 1 - probabilities)
    assert found["unsure"].tolist() == (sure < 0.6).any(axis=1).tolist()
    assert 0 < found["unsure"].mean() < 1


def test_seeds_of_values_are_summed_up_and_listed(command, arrays):
    code, out, err = command("train", "X.npy", "y.npy", *SHORT, "--seeds", 2, "--out", "runs/values")
    assert (code, err) == (0, "")
    scores = [bn.load_run(f"runs/values/seed-{seed}").test_scores["r2"] for seed in (0, 1)]
    assert out.splitlines()[-1] == f"Test R²: {np.mean(scores):.4f} ± {np.std(scores, ddof=1):.4f}"
    code, out, err = command("runs")
    assert (code, err) == (0, "")
    assert all(f"R² {score:.4f}" in out for score in (*scores, np.mean(scores)))


def test_what_may_be_classes_or_values_is_asked(command, arrays):
    code, out, err = command("train", "digit.npz", *SHORT)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "digit.npz: labels have shape (600,) and type float64, which may be classes or values: say which" in err
    for task, line in (("regression", "1 value, inputs of"), ("classification", "10 classes, inputs of")):
        code, out, err = command("train", "digit.npz", "--task", task, *SHORT, "--out", task)
        assert (code, err) == (0, "")
        assert out.splitlines()[1].startswith(line)
        assert command("evaluate", task)[::2] == (0, "")  # which reads the file again, as it was asked to
    assert command("train", "--resume", "regression", "--task", "regression")[::2] == (0, "")
    code, _, err = command("train", "--resume", "regression", "--task", "labels")
    assert (code, err) == (2, "batchnorm: regression was not begun with --task labels: leave it out\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--task", "regression"), "--task is for tables and arrays of your own: name their files"),
        (("colours", "--task", "regression"), "task is 'regression', and a folder of images has classes"),
        (("a.csv", "--target", "a", "--task", "labels"), "labels of a table are several --target columns of 0 and 1"),
        (("digit.npz", "--task", "labels"), "labels have 2.0 at example 2, label 0, expected 0 or 1"),
        (("X.npy", "y.npy", "--label-smoothing", 0.1), "label_smoothing is 0.1, and values have none"),
    ],
)
def test_what_is_refused(command, arrays, words, message):
    coloured(arrays / "colours")
    code, _, err = command("train", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (arrays / "runs").exists()


@pytest.mark.parametrize("words", [("several.npz",), ("X.npy", "y.npy")])
def test_the_toolkit_takes_their_runs(command, arrays, words):
    command("train", *words, "--hidden-layer-sizes", 16, "--epochs", 3, "--out", "run")
    code, out, err = command("diagnose", "run", "--json")
    assert (code, err) == (0, "")
    run = bn.load_run("run")
    assert json.loads(out)["gap"]["running"] == pytest.approx(run.history[-1]["train_loss"], rel=0.1)
    code, out, err = command("recalibrate", "run", "--in-place")
    assert (code, err) == (0, "")
    assert command("evaluate", "run", "--split", "validation")[::2] == (0, "")
    assert "population" not in bn.load_run("run").results["test"]
