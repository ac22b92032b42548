"""Runs on images and arrays leave as files that take raw inputs and name the classes."""

import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import batchnorm as bn
from batchnorm.errors import InputError
from conftest import SAMPLES
from exported_cases import run as run_file

SHORT = bn.TrainingConfig(epochs=3)


def fitted(dataset, network=None, **options):
    network = bn.DenseNetwork(dataset.n_features, (16,), dataset.n_classes, **options) if network is None else network
    return bn.fit(network, dataset, SHORT)


@pytest.fixture(scope="module")
def digits():
    return bn.load_dataset("digits")


@pytest.fixture(scope="module")
def run(digits):
    return fitted(digits, normalize_logits=True)


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_onnx_takes_raw_inputs_and_names_the_classes(run, digits, tmp_path):
    exported = bn.export(run, tmp_path / "run.onnx", example=digits)
    assert (exported.rows, exported.quantized) == (len(digits.test), None)
    assert exported.deviation < 1e-5
    assert exported.inputs == {"inputs": "uint8 (batch, 8, 8)"}
    assert exported.outputs == {"label": "string (batch,)", "probabilities": "float32 (batch, 10)"}
    for inputs in (digits.test.inputs.numpy(), digits.test.inputs[:1].numpy()):
        found = run_file(tmp_path / "run.onnx", inputs=inputs)
        assert found["label"].tolist() == run.predict(inputs).tolist()
        np.testing.assert_allclose(found["probabilities"], run.predict_proba(inputs), atol=1e-6)
    said = metadata(tmp_path / "run.onnx")
    assert json.loads(said["classes"]) == list("0123456789")
    assert (said["task"], said["dtype"], said["scale"]) == ("classification", "uint8", "0.0625")
    assert said["batchnorm"] == bn.__version__
    domains = [opset.domain for opset in onnx.load(tmp_path / "run.onnx").opset_import]
    assert sorted(domains) == sorted(set(domains))


def test_torch_says_what_is_not_in_the_file(run, digits, tmp_path):
    exported = bn.export(run, tmp_path / "run.safetensors", "torch", example=digits.test.inputs, rows=50)
    assert exported.rows == 50
    scaled, logits = exported.notes
    assert scaled == "its inputs are to be multiplied with 0.0625 before"
    assert logits == "its outputs are logits of the classes that the metadata name"
    names = {}
    exec(exported.usage.replace("run.safetensors", str(tmp_path / "run.safetensors")), names)
    with torch.no_grad():
        found = names["model"](digits.test.inputs / 16).softmax(1).numpy()
    np.testing.assert_allclose(found, run.predict_proba(digits.test.inputs), atol=1e-6)
    assert load_file(tmp_path / "run.safetensors")


def test_torch_export_is_a_program(run, digits, tmp_path):
    exported = bn.export(run, tmp_path / "run.pt2", "torch-export", example=digits)
    assert exported.notes == ("its first output are numbers of classes: see the metadata for their names",)
    texts = {"batchnorm.json": ""}
    program = torch.export.load(tmp_path / "run.pt2", extra_files=texts).module()
    labels, probabilities = program(digits.test.inputs[:3])
    assert [digits.class_names[label] for label in labels] == run.predict(digits.test.inputs[:3]).tolist()
    np.testing.assert_allclose(probabilities.detach(), run.predict_proba(digits.test.inputs[:3]), atol=1e-6)
    assert json.loads(json.loads(texts["batchnorm.json"])["classes"]) == list("0123456789")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_modules_of_ones_own_and_other_numbers(blobs, tmp_path, dtype):
    kind = getattr(torch, dtype)
    parts = [bn.Examples(part.inputs.to(kind) / 3, part.labels, 3.0) for part in blobs.parts.values()]
    dataset = bn.Dataset("scaled", *parts, class_names=("a b", "ä", "\n"))
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)).to(kind)
    own = fitted(dataset, network)
    exported = bn.export(own, tmp_path / "own.onnx", example=dataset)
    assert exported.inputs == {"inputs": f"{dtype} (batch, 6)"}
    inputs = dataset.test.inputs.numpy()
    found = run_file(tmp_path / "own.onnx", inputs=inputs)
    assert found["label"].tolist() == own.predict(inputs).tolist()
    assert bn.export(own, tmp_path / "own.onnx").rows == 100  # made up


def test_a_file_that_would_compute_something_else_is_not_written(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(type(run), "predict_proba", lambda *_: np.full((180, 10), 0.1, np.float32))
    with pytest.raises(bn.BatchnormError, match=r"would deviate by|would give other classes"):
        bn.export(run, tmp_path / "run.onnx", example=digits)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore::batchnorm.errors.UncheckedRunWarning")
def test_what_is_refused(run, digits, blobs, tmp_path):
    for given, message in [
        ({"example": blobs}, "blobs is not what the run was trained on: it has Signature"),
        ({"example": digits.test.inputs / 16}, r"inputs hold .*, expected whole numbers from 0 to 255"),
        ({"quantize": "int8"}, "quantize needs the Dataset that the run was trained on as example"),
        ({"quantize": "int4"}, "quantize is 'int4', expected 'int8' or None"),
        ({"quantize": "int8", "format": "torch"}, "quantize is for the format 'onnx', not for 'torch'"),
    ]:
        with pytest.raises(InputError, match=message):
            bn.export(run, tmp_path / "run", **given)
    with pytest.raises(InputError, match="quantize is for runs on images or arrays"):
        bn.export(run.network, tmp_path / "run", quantize="int8")
    with pytest.raises(InputError, match="was begun by an earlier version"):
        bn.export(bn.load_run(SAMPLES / "run-format-2"), tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_8_bits(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [])
    exported = bn.export(run, tmp_path / "run.onnx", example=digits, quantize="int8")
    figures = exported.quantized
    assert figures["accuracy_before"] == run.test_accuracy
    assert abs(figures["accuracy"] - run.test_accuracy) < 0.03
    assert f"8 bits: test accuracy {figures['accuracy']:.6g}, {run.test_accuracy:.6g} before;" in str(exported)
    assert exported.to_dict()["quantized"] == figures
    assert 1e-5 < exported.deviation < 0.3
    model = onnx.load(tmp_path / "run.onnx")
    assert {tensor.data_type for tensor in model.graph.initializer} >= {onnx.TensorProto.INT8}
    assert json.loads(metadata(tmp_path / "run.onnx")["classes"]) == list("0123456789")
    inputs = digits.test.inputs.numpy()
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx")
    labels, whole = session.run(None, {"inputs": inputs})
    assert (labels == [digits.class_names[label] for label in digits.test.labels]).mean() == figures["accuracy"]
    one = np.concatenate([session.run(None, {"inputs": inputs[i : i + 1]})[1] for i in range(len(inputs))])
    np.testing.assert_allclose(one, whole, atol=1e-6)  # whatever else is in the batch
    assert not logging.root.handlers
    assert logging.root.manager.disable == 0


def test_what_has_nothing_to_quantise(blobs, tmp_path):
    own = fitted(blobs, nn.Sequential(nn.Linear(6, 3)).double())
    with pytest.raises(InputError, match="finds no matrix product of float32 in the model"):
        bn.export(own, tmp_path / "own.onnx", example=blobs, quantize="int8")
    assert not list(tmp_path.iterdir())
