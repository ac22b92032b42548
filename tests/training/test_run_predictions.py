"""A run predicts new inputs in the unit that its data came in, as it was evaluated."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import InputError
from conftest import SAMPLES
from helpers import edit, seal_as_it_is

SHORT = bn.TrainingConfig(epochs=2, hidden_layer_sizes=(16,))


@pytest.fixture(scope="module")
def digits():
    return bn.load_dataset("digits")


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "digits"
    bn.fit(bn.DenseNetwork(64, (16,), 10), digits, SHORT, out=path)
    return bn.load_run(path)


def test_its_accuracy_is_the_one_that_was_measured(run, digits):
    labels = [digits.class_names[label] for label in digits.test.labels]
    assert (run.predict(digits.test.inputs) == labels).mean() == run.test_accuracy
    with torch.no_grad():
        expected = run.network(digits.test.inputs / 16).softmax(1).numpy()
    found = run.predict_proba(digits.test.inputs.numpy())
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_inputs_of_any_type_are_the_same_numbers(run, digits):
    inputs = digits.test.inputs.numpy()
    expected = run.predict_proba(inputs)
    for same in (inputs.astype(float), inputs.astype(">i4"), inputs.tolist(), np.asfortranarray(inputs)):
        np.testing.assert_array_equal(run.predict_proba(same), expected)
    np.testing.assert_array_equal(run.predict_proba(inputs[::-1])[::-1], expected)
    assert run.predict_proba(inputs[:0]).shape == (0, 10)
    assert run.predict(inputs[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x / 16, "inputs hold 0.75, expected whole numbers from 0 to 255 as in the training"),
        (lambda x: x - 1.0, "inputs hold -1.0, expected whole numbers"),
        (lambda x: x * 100, "inputs hold 1200, expected whole numbers"),
        (lambda x: x * np.nan, "inputs hold nan, expected whole numbers"),
        (lambda x: x[0], r"inputs have shape \(8, 8\), expected \(examples, 8, 8\): use x\[None\] for one example"),
        (lambda x: x.reshape(-1, 64), r"inputs have shape \(180, 64\), expected \(examples, 8, 8\)$"),
        (lambda x: x[0, 0, 0], r"inputs have shape \(\), expected"),
        (lambda x: x.astype(str), "inputs are of type <U21, expected numbers"),
        (lambda x: x + 0j, "inputs are of type complex128, expected numbers"),
        (lambda x: np.ma.masked_equal(x, 3), "inputs have .* masked values"),
        (lambda x: [[1], [1, 2]], "inputs are no array"),
    ],
)
def test_what_was_never_trained_on_is_refused(run, digits, change, message):
    with pytest.raises(InputError, match=message):
        run.predict(change(digits.test.inputs.numpy().astype(int)))


def test_numbers_of_other_kinds(blobs, tmp_path):
    run = bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, SHORT)
    assert (run.signature.dtype, run.signature.scale, run.path) == ("float32", 1.0, None)
    inputs = blobs.test.inputs.numpy()
    np.testing.assert_array_equal(run.predict_proba(inputs.astype(np.float64)), run.predict_proba(inputs))
    for value in (np.inf, np.nan, 1e300):
        with pytest.raises(InputError, match=f"inputs hold {value}, expected finite numbers".replace("+", r"\+")):
            run.predict(np.full((1, 6), value))
    nn.init.constant_(run.network[-1].weight, np.nan)
    with pytest.raises(InputError, match="example 0 has NaN among the network's outputs"):
        run.predict(inputs)


def test_double_precision_and_modules_of_ones_own(blobs):
    parts = [bn.Examples(part.inputs.double() / 3, part.labels, 3.0) for part in blobs.parts.values()]
    dataset = bn.Dataset("double", *parts, class_names="xyz")
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ELU(), nn.Linear(5, 3)).double()
    run = bn.fit(network, dataset, SHORT)
    assert run.signature.dtype == "float64"
    labels = ["xyz"[label] for label in dataset.test.labels]
    assert (run.predict(dataset.test.inputs) == labels).mean() == run.test_accuracy
    assert not network.training


def test_a_file_is_read_a_part_at_a_time(run, digits, tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", digits.train.inputs.numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = run.predict_proba(mapped)
    monkeypatch.setattr("batchnorm.training.predicting._SOME_BYTES", 1)
    read = []
    monkeypatch.setattr(
        "batchnorm.data.Signature.examples",
        lambda self, rows, real=bn.data.Signature.examples: read.append(len(rows)) or real(self, rows),
    )
    np.testing.assert_allclose(run.predict_proba(mapped), expected, atol=1e-6)
    assert read == [500, 500, 437]


@pytest.mark.filterwarnings("ignore::batchnorm.errors.UncheckedRunWarning")
@pytest.mark.parametrize("sample", ["run-format-1", "run-format-2"])
def test_runs_of_earlier_versions_say_what_they_lack(sample, digits):
    run = bn.load_run(SAMPLES / sample)
    assert run.signature is None
    with pytest.raises(InputError, match=f"{sample} was begun by an earlier version, which did not record the scale"):
        run.predict(digits.test.inputs)


def test_what_is_recorded_is_checked(run, digits, tmp_path):
    path = run.path / "config.json"
    dataset = json.loads(path.read_text())["dataset"]
    assert (dataset["dtype"], dataset["scale"], dataset["class_names"]) == ("uint8", 1 / 16, list("0123456789"))
    try:
        for name, value in (("dtype", "object"), ("scale", None), ("class_names", [1])):
            edit(path, dataset=dataset | {name: value})
            seal_as_it_is(run.path)
            with pytest.raises(InputError, match=rf"config.json.dataset.{name}"):
                bn.load_run(run.path)
        edit(path, dataset=dataset | {"class_names": list("abcdefghij")})
        seal_as_it_is(run.path)
        with pytest.raises(InputError, match="was begun with other data: class_names was"):
            bn.resume(run.path, digits)
    finally:
        edit(path, dataset=dataset)
        seal_as_it_is(run.path)
