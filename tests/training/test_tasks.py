"""Several labels and values are trained, kept and told as classes are; values in their unit."""

import json
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.datasets import load_diabetes, load_linnerud, make_multilabel_classification
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from torch import nn

import batchnorm as bn
from batchnorm.data import TargetScale
from batchnorm.errors import TrainingInterrupted
from batchnorm.training import evaluate_run, fit_seeds, summarize
from batchnorm.training.runs import RunFolder, list_runs
from helpers import PLAIN, InterruptAt, edit, run_files, same_weights, seal_as_it_is, train, unsealed

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(200, 6))
DATA = {
    "labels": bn.Dataset.from_arrays(*make_multilabel_classification(200, 6, n_classes=3, random_state=0)),
    "values": bn.Dataset.from_arrays(INPUTS, INPUTS[:, :2] * [5e3, 0.1] + [1e6, -7], name="values"),
    "value": bn.Dataset.from_arrays(INPUTS, INPUTS[:, 0] ** 2 * 1e3, name="value"),
}
MEASURES = {"labels": {"accuracy", "accuracy_of_labels", "loss"}, "regression": {"r2", "rmse", "mae", "loss"}}
ADAMW = replace(PLAIN, optimizer="adamw", learning_rate=0.02, normalize_logits=False, epochs=30, evaluate_every=10)


@pytest.fixture(params=DATA)
def dataset(request):
    return DATA[request.param]


def flat(network):
    """Return a module that gives one value as (batch,)."""
    return nn.Sequential(network, nn.Flatten(0))


@pytest.mark.parametrize("config", [PLAIN, replace(PLAIN, optimizer="adamw", learning_rate=0.01, dropout=0.0)])
def test_both_engines_agree(dataset, config):
    fused, autograd = (train(dataset, replace(config, engine=engine)) for engine in ("fused", "autograd"))
    for a, b in zip(fused.network.parameters(), autograd.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    assert fused.test_scores["loss"] == pytest.approx(autograd.test_scores["loss"], rel=1e-3)


def test_a_run_tells_the_figures_of_its_task(dataset):
    run = train(dataset, PLAIN)
    names = MEASURES[dataset.task]
    assert run.results["test"]["running"].keys() == run.results["test"]["population"].keys() == names
    assert {f"{part}_{name}" for part in ("train", "validation") for name in names} <= run.history[0].keys()
    assert run.test_scores == run.results["test"]["running"] == bn.evaluate(run.network, dataset.test).figures
    assert json.loads(run.to_json())["test"] == run.results["test"]
    assert run._repr_html_().count("<tr>") == (1 + 2) + (1 + 3)
    assert bn.evaluate(run.network, dataset.test).to_dict() == run.test_scores


def test_figures_of_values_are_those_of_their_predictions():
    dataset = DATA["values"]
    run = train(dataset, ADAMW)
    predicted, wanted = run.predict(dataset.test.inputs), dataset.test.labels.numpy()
    scores = run.test_scores
    assert scores["r2"] == pytest.approx(r2_score(wanted, predicted), rel=1e-6)
    assert scores["r2"] > 0.8
    assert scores["rmse"] == pytest.approx(
        root_mean_squared_error(wanted, predicted, multioutput="raw_values"), rel=1e-6
    )
    assert scores["mae"] == pytest.approx(mean_absolute_error(wanted, predicted, multioutput="raw_values"), rel=1e-6)
    with pytest.raises(bn.InputError, match="values have no accuracy: test_scores has r2, rmse and mae"):
        _ = run.test_accuracy
    assert f"test R² {scores['r2']:.5g} (root mean squared error {scores['rmse'][0]:.5g}, " in str(run)


def test_what_is_learnt_does_not_hang_on_the_unit():
    labels, x = DATA["value"].train.labels, DATA["value"].train.inputs.numpy()
    runs = [train(bn.Dataset.from_arrays(x, labels.numpy() * unit), ADAMW) for unit in (1.0, 2.0**20)]
    assert same_weights(runs[0].network, runs[1].network)
    assert runs[1].test_scores["r2"] == runs[0].test_scores["r2"]
    assert runs[1].test_scores["rmse"] == pytest.approx(2**20 * runs[0].test_scores["rmse"], rel=1e-9)


def test_labels_are_predicted_one_by_one():
    dataset = DATA["labels"]
    run = train(dataset, ADAMW)
    right = run.predict(dataset.test.inputs) == dataset.test.labels.numpy()
    assert run.test_accuracy == pytest.approx(right.all(1).mean())
    assert run.test_scores["accuracy_of_labels"] == pytest.approx(right.mean(0).tolist())
    np.testing.assert_array_equal(run.predict_proba(dataset.test.inputs) > 0.5, run.predict(dataset.test.inputs))
    assert np.mean(run.test_scores["accuracy_of_labels"]) > 0.65
    logits = run.network(dataset.test.batch(slice(None))[0])
    loss = nn.functional.binary_cross_entropy_with_logits(logits, dataset.test.labels.float(), reduction="sum")
    assert run.test_scores["loss"] == pytest.approx(loss.item() / len(dataset.test), rel=1e-5)


def test_classes_are_predicted_too(blobs):
    run = train(blobs, PLAIN)
    predicted = run.predict(blobs.test.inputs)
    assert (predicted == blobs.test.labels.numpy().astype(str)).mean() == pytest.approx(run.test_accuracy)
    assert run.in_unit() is run.network
    with pytest.raises(bn.InputError, match=r"inputs have shape \(2, 7\), expected \(examples, 6\)"):
        run.predict(torch.zeros(2, 7))


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(dataset, engine, tmp_path):
    config = replace(PLAIN, engine=engine, early_stopping_patience=2, epochs=4)
    whole = train(dataset, config, out=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(dataset, config, out=tmp_path / "stopped", monitor=InterruptAt(1, 3))
    resumed = bn.resume(tmp_path / "stopped", dataset)
    assert run_files(tmp_path / "stopped") == run_files(tmp_path / "whole")
    loaded = bn.load_run(tmp_path / "whole")
    for run in (resumed, loaded, bn.resume(tmp_path / "whole", dataset)):
        assert (run.history, run.results, run.task) == (whole.history, whole.results, dataset.task)
        assert same_weights(run.network, whole.network)
        assert run.target_scale == whole.target_scale == dataset.target_scale
    (row,) = list_runs(tmp_path / "whole")
    assert (row["state"], row["test"]) == ("finished", whole.results["test"])
    evaluated = evaluate_run(tmp_path / "whole", dataset)
    assert {kind: found.figures for kind, found in evaluated.items()} == whole.results["test"]


def test_other_values_are_other_data(tmp_path):
    train(DATA["value"], PLAIN, out=tmp_path / "run")
    x, y = DATA["value"].train.inputs.numpy(), DATA["value"].train.labels.numpy()
    with pytest.raises(bn.InputError, match=r"was begun with other data: .*target_scale was"):
        bn.resume(tmp_path / "run", bn.Dataset.from_arrays(x, y + 1, name="value"))


def test_values_stop_early_by_their_loss():
    """Noise alone is to be learnt: the loss grows, and what was best comes back."""
    noise = bn.Dataset.from_arrays(INPUTS, RNG.normal(size=200), validation=0.3)
    run = train(noise, replace(ADAMW, hidden_layer_sizes=(64,), evaluate_every=1, early_stopping_patience=3))
    losses = [record["validation_loss"] for record in run.history]
    assert run.results["stopped_early"]
    assert len(losses) == 4 + int(np.argmin(losses))
    assert bn.evaluate(run.network, noise.validation).loss == min(losses)


def test_the_first_loss_is_the_best_so_far_however_large():
    """The validation part has it the other way round, and many times as far: the more is learnt, the worse it gets."""
    learnt = DATA["value"].train
    other = bn.Examples(learnt.inputs[:50], -20 * learnt.labels[:50])
    dataset = bn.Dataset("turned", learnt, other, other, ["a"])
    run = train(dataset, replace(ADAMW, evaluate_every=1, early_stopping_patience=2))
    losses = [record["validation_loss"] for record in run.history]
    assert min(losses) > 1
    assert len(losses) == 3 + int(np.argmin(losses))
    assert bn.evaluate(run.network, dataset.validation).loss == min(losses)


@pytest.mark.parametrize("network", [bn.DenseNetwork(6, (8,), 1), flat(bn.DenseNetwork(6, (8,), 1)), nn.Linear(6, 1)])
def test_modules_of_one_value_with_or_without_a_column(network, tmp_path):
    dataset = DATA["value"]
    run = bn.fit(network, dataset, PLAIN)
    assert ("population" in run.results["test"]) == (not isinstance(network, nn.Linear))
    inputs = dataset.test.batch(slice(None))[0]
    predicted = run.predict(inputs)
    assert predicted.shape == (len(inputs),)
    np.testing.assert_allclose(run.in_unit()(inputs)[:, 0].detach(), predicted, rtol=1e-5, atol=1e-2)
    errors = predicted - dataset.test.labels[:, 0].numpy()
    assert run.test_scores["rmse"] == pytest.approx(np.sqrt(np.mean(errors**2)))
    with pytest.raises(bn.InputError, match="values have no probabilities"):
        run.predict_proba(inputs)


@pytest.mark.parametrize("kind", ["value", "values", "labels"])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_what_is_exported_predicts_the_same(kind, scale, tmp_path):
    """In its unit, of inputs as the data had them."""
    given = DATA[kind]
    parts = [replace(part, inputs=part.inputs / scale, scale=scale) for part in given.parts.values()]
    dataset = replace(given, train=parts[0], validation=parts[1], test=parts[2])
    run, inputs = train(dataset, PLAIN), dataset.test.inputs
    expected = run.predict(inputs).reshape(len(inputs), -1)
    largest = np.abs(expected.astype(float)).max()
    bn.export(run, tmp_path / "a.pt2", "torch-export")
    first = torch.export.load(tmp_path / "a.pt2").module()(inputs)[0].detach()
    np.testing.assert_allclose(first, expected, atol=1e-5 * largest)
    bn.export(run, tmp_path / "a.onnx", example=dataset)
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    np.testing.assert_allclose(session.run(None, {"inputs": inputs.numpy()})[0], expected, atol=1e-5 * largest)
    exported = bn.export(run, tmp_path / "a.safetensors", "torch")
    assert exported.deviation < 1e-5
    with pytest.raises(bn.InputError, match="quantize is for classes"):
        bn.export(run, tmp_path / "b.onnx", example=dataset, quantize="int8")


def test_values_that_a_network_does_not_hold_are_predicted_and_not_exported(tmp_path):
    y = DATA["value"].train.labels.numpy() * 1e200
    dataset = bn.Dataset.from_arrays(DATA["value"].train.inputs.numpy(), y)
    run = train(dataset, ADAMW)
    assert np.abs(run.predict(dataset.test.inputs)).max() > 1e200
    assert run.test_scores["rmse"] < 1e204
    with pytest.raises(bn.InputError, match=r"float32 does not hold values of TargetScale.*: use Run.predict"):
        bn.export(run, tmp_path / "a.onnx")


@pytest.mark.parametrize(
    ("network", "data", "message"),
    [
        (
            nn.Linear(6, 2),
            "value",
            r"turns a batch of 2 into \(2, 2\), expected values of shape \(2, 1\) for the 1 values",
        ),
        (flat(nn.Linear(6, 2)), "values", r"into \(4,\), expected values of shape \(2, 2\)"),
        (nn.Linear(6, 2), "labels", r"expected logits of shape \(2, 3\) for the 3 labels of arrays"),
    ],
)
def test_modules_with_other_outputs_are_refused(network, data, message):
    with pytest.raises(bn.InputError, match=message):
        bn.fit(network, DATA[data], PLAIN)


def test_label_smoothing_is_for_classes_and_labels():
    assert train(DATA["labels"], replace(PLAIN, label_smoothing=0.1)).test_scores["loss"] > 0
    with pytest.raises(bn.InputError, match=r"label_smoothing is 0.1, and values have none: set it to 0"):
        train(DATA["value"], replace(PLAIN, label_smoothing=0.1))


def test_of_a_single_example_there_is_no_r2(tmp_path):
    whole, config = DATA["values"], replace(PLAIN, early_stopping_patience=1)
    one = bn.Examples(whole.test.inputs[:1], whole.test.labels[:1])
    dataset = bn.Dataset("one", whole.train, one, one, ["a", "b"])
    run = train(dataset, config, out=tmp_path / "run", monitor=bn.ProgressMonitor(bar=False))
    assert run.test_scores["r2"] is None
    assert bn.load_run(tmp_path / "run").results == run.results
    assert "test R² –" in str(run)
    assert summarize([run, run])["test"]["running"]["r2"] == {"mean": None, "sd": None, "values": [None, None]}


def test_a_constant_value_is_learnt():
    constant = bn.Dataset.from_arrays(INPUTS, np.full((200, 1), 7.5), task="regression")
    assert constant.target_scale == TargetScale((7.5,), (1.0,))
    assert train(constant, replace(ADAMW, epochs=100)).test_scores["rmse"] < 0.3


def test_outputs_that_are_not_numbers_are_no_figures():
    examples = bn.Examples(torch.tensor([[1.0], [torch.nan]]), torch.tensor([[True], [False]]))
    assert bn.evaluate(nn.Identity(), examples).accuracy_of_labels == [0.5]
    values = bn.evaluate(nn.Identity(), bn.Examples(torch.tensor([[1.0], [torch.nan]]), torch.tensor([[1.0], [2.0]])))
    assert values.to_dict() == {"r2": None, "rmse": None, "mae": None, "loss": None}


def test_seeds_are_summed_up(dataset, tmp_path):
    runs = fit_seeds(dataset, PLAIN, 2, out=tmp_path / "seeds")
    summary = json.loads((tmp_path / "seeds" / "summary.json").read_text())
    for name in MEASURES[dataset.task] - {"loss"}:
        spread, values = summary["test"]["running"][name], [run.test_scores[name] for run in runs]
        assert spread["values"] == values
        np.testing.assert_allclose(spread["mean"], np.mean(values, axis=0))
        np.testing.assert_allclose(spread["sd"], np.std(values, axis=0, ddof=1), atol=1e-12)
        assert summary["evaluations"][-1][f"train_{name}"]["values"] == [
            run.history[-1][f"train_{name}"] for run in runs
        ]
    whole, *_ = list_runs(tmp_path / "seeds")
    assert list(whole["test"]["running"]) == ["accuracy" if dataset.task == "labels" else "r2"]


SCALE = {"mean": [0.0], "deviation": [1.0]}
FIGURES = {"r2": 0.5, "rmse": 1.0, "mae": 1.0, "loss": 0.5}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config", {"task": "clustering"}, "dataset.task is 'clustering', expected labels or regression"),
        ("config", {"task": ["labels"]}, r"dataset.task is \['labels'\], expected labels or regression"),
        ("config", {"task": "labels"}, "has task 'labels' and target_scale .*, which do not fit"),
        ("config", {"target_scale": None}, "dataset.target_scale is None, expected an object"),
        ("config", {"target_scale": {"mean": [0.0]}}, "dataset.target_scale has no deviation"),
        ("config", {"target_scale": SCALE | {"mean": ["0"]}}, r"target_scale.mean\[0\] is '0', expected a number"),
        ("config", {"target_scale": SCALE | {"deviation": [0.0]}}, r"target_scale.deviation\[0\] is 0.0, expected"),
        ("config", {"target_scale": SCALE | {"mean": [0.0, 1.0]}}, "has other than 1 numbers for mean and deviation"),
        ("results", {"test": {"running": {"accuracy": 1, "loss": 0}}}, "test.running has no r2, rmse, mae"),
        (
            "results",
            {"test": {"running": FIGURES | {"r2": 1.5}}},
            "running.r2 is 1.5, expected a number from -inf to 1",
        ),
        ("results", {"test": {"running": FIGURES | {"rmse": -1}}}, "running.rmse is -1, expected a number"),
        ("results", {"test": {"running": FIGURES | {"mae": ["x"]}}}, r"running.mae\[0\] is 'x', expected a number"),
    ],
)
def test_what_a_run_of_values_may_not_hold(name, changes, message, tmp_path):
    train(DATA["value"], PLAIN, out=tmp_path / "run")
    path = tmp_path / "run" / f"{name}.json"
    edit(path, **({"dataset": unsealed(path)["dataset"] | changes} if name == "config" else changes))
    seal_as_it_is(tmp_path / "run")
    with pytest.raises(bn.InputError, match=message):
        bn.load_run(tmp_path / "run")


def test_a_state_of_values_goes_below_minus_1(tmp_path):
    dataset = DATA["value"]
    with pytest.raises(TrainingInterrupted):
        train(dataset, replace(PLAIN, early_stopping_patience=2), out=tmp_path / "run", monitor=InterruptAt(1, 2))
    folder = RunFolder.open(tmp_path / "run")
    checkpoint = folder.load_checkpoint()
    checkpoint.state["best_accuracy"] = -50.0
    folder.save_checkpoint(checkpoint)
    assert bn.resume(tmp_path / "run", dataset).results["epochs"] == 3


def test_is_as_good_as_the_estimator():
    """On the mean of several splits of real data: 44 rows tell little."""
    X, y = load_diabetes(return_X_y=True)
    X = X / X.std(axis=0)
    scores = []
    for seed in range(3):
        dataset = bn.Dataset.from_arrays(X, y, test=0.3, split_seed=seed)
        config = replace(ADAMW, hidden_layer_sizes=(100,), epochs=30, batch_size=32, learning_rate=0.01)
        config = replace(config, weight_decay=0.3, input_noise=0.2, schedule="one-cycle", evaluate_every=30)
        run = train(dataset, config)
        (x, t), (x_test, t_test) = (
            (part.inputs.numpy(), part.labels[:, 0].numpy()) for part in (dataset.train, dataset.test)
        )
        estimator = bn.BatchNormRegressor(random_state=seed).fit(x, t)
        scores.append((run.test_scores["r2"], estimator.score(x_test, t_test)))
    ours, estimators = np.mean(scores, axis=0)
    assert ours > max(0.35, estimators - 0.03)


def test_twenty_rows_of_three_values_are_enough():
    X, y = load_linnerud(return_X_y=True)
    run = train(bn.Dataset.from_arrays(X / X.std(axis=0), y), PLAIN)
    assert len(run.test_scores["rmse"]) == 3
