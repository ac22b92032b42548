"""Modules of any kind in each format, what is refused, and what is left on disk then."""

import json
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from sklearn import datasets
from torch import nn

import batchnorm as bn
from batchnorm.errors import MissingPackageError
from batchnorm.exporting import checking, sessions
from exported_cases import OPTIONS, fitted, new_rows, run

FORMATS = pytest.mark.parametrize("format", ["onnx", "torch", "torch-export"])


def trained(*layers):
    """Return a model in inference mode whose statistics are not those of a new one."""
    model = nn.Sequential(*layers)
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


def convolutional():
    body = (nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout())
    return trained(nn.Sequential(*body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)), torch.randn(
        5, 3, 9, 9
    )


def dense():
    return trained(nn.Linear(6, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 3)).double(), torch.randn(4, 6).double()


def ours():
    return bn.DenseNetwork(6, (8, 5), 3, activation="gelu", dropout=0.2), torch.randn(4, 6)


def loaded(exported, format):
    """Return the file's model, by the lines that the result prints."""
    if format == "onnx":
        (name,) = exported.inputs
        return lambda x: torch.from_numpy(next(iter(run(exported.path, **{name: x.numpy()}).values())))
    names = {}
    exec(exported.usage.replace(repr(exported.path.name), repr(str(exported.path))), names)
    return names["model"]


@FORMATS
@pytest.mark.parametrize("make", [convolutional, dense, ours])
def test_a_file_computes_what_the_model_does(make, format, tmp_path):
    model, x = make()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = bn.export(model, tmp_path / "model", format, example=x)
    assert exported.deviation < 1e-6
    assert exported.rows == len(x)
    assert not exported.notes
    for batch in (x, x[:1], torch.cat([x] * 3)):
        with torch.no_grad():
            assert torch.allclose(loaded(exported, format)(batch), model(batch), atol=1e-6)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    if format == "onnx":
        model = onnx.load(tmp_path / "model")
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert __file__.encode() not in model.SerializeToString()
        assert b"site-packages" not in model.SerializeToString()


@pytest.mark.parametrize("format", ["torch", "torch-export"])
@pytest.mark.parametrize("loss", [None, "squared_error", "poisson"])
def test_an_estimator_without_frames(loss, format, tmp_path):
    X, y = datasets.load_iris(return_X_y=True)
    estimator = bn.BatchNormClassifier(**OPTIONS) if loss is None else bn.BatchNormRegressor(loss, **OPTIONS)
    estimator.fit(X, y)
    exported = bn.export(estimator, tmp_path / "model", format, example=X)
    with torch.no_grad():
        given = X if format == "torch-export" else estimator.scale_inputs(X)
        outputs = loaded(exported, format)(torch.from_numpy(given))
    if format == "torch-export":
        assert np.allclose(outputs[-1], estimator.predict_proba(X) if loss is None else estimator.predict(X))
        described = zipfile.ZipFile(exported.path).read("archive/extra/batchnorm.json")
    else:
        with safe_open(exported.path, "pt") as file:
            described = file.metadata()["batchnorm export"]
        assert json.loads(described)["usage"] == exported.usage
        assert any("scale_inputs" in note for note in exported.notes)
        if loss is None:
            assert np.array_equal(estimator.classes_[outputs.argmax(1)], estimator.predict(X))
        else:
            assert np.allclose((outputs.exp() if loss == "poisson" else outputs)[:, 0], estimator.predict(X))
    assert json.loads(described)["task"] == ("classification" if loss is None else "regression")


@pytest.mark.parametrize("format", ["torch", "torch-export"])
def test_what_of_a_frame_is_not_in_a_file_is_said(format, tmp_path):
    estimator, rows = fitted(bn.BatchNormRegressor), new_rows()
    exported = bn.export(estimator, tmp_path / "model", format, example=rows)
    assert any("columns are read, filled and scaled outside" in note for note in exported.notes)
    with torch.no_grad():
        outputs = loaded(exported, format)(torch.from_numpy(estimator.scale_inputs(rows)))
    values = outputs[0] if format == "torch-export" else outputs[:, 0]
    assert np.allclose(values, estimator.predict(rows))


def test_a_raw_table_goes_into_plain_layers(tmp_path):
    X, y = datasets.load_iris(return_X_y=True)
    estimator = bn.BatchNormRegressor(**OPTIONS, standardize=False).fit(X, y)
    exported = bn.export(estimator, tmp_path / "model", "torch", example=X)
    assert not exported.notes
    with torch.no_grad():
        assert np.allclose(loaded(exported, "torch")(torch.from_numpy(X))[:, 0], estimator.predict(X))


def test_nothing_of_a_file_of_torch_export_is_pickled(tmp_path):
    model, x = convolutional()
    bn.export(model, tmp_path / "model", "torch-export", example=x)
    with zipfile.ZipFile(tmp_path / "model") as archive:
        texts = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".json"))
        assert b'"use_pickle": false' in texts
        assert b'"use_pickle": true' not in texts
        assert archive.read("archive/data/sample_inputs/model.pt") == b""


class Several(nn.Module):
    """Takes and returns several tensors."""

    def forward(self, first, second):
        return first + second, {"product": first * second}


def test_several_inputs_and_outputs(tmp_path):
    first, second = torch.randn(2, 4, 3)
    exported = bn.export(Several().eval(), tmp_path / "model", example={"second": second, "first": first})
    found = run(tmp_path / "model", first=first.numpy(), second=second.numpy())
    assert np.allclose(found["output_1"], first * second)
    assert set(exported.inputs) == {"first", "second"}


def test_the_result_prints_itself(tmp_path):
    model, x = ours()
    exported = bn.export(model, tmp_path / "model.pt2", "torch-export", example=x, rows=2)
    printed = str(exported)
    assert f"{exported.size:,} bytes" in printed
    assert "on 2 rows" in printed
    assert "in  input: float32 (batch, 6)" in printed
    assert "torch.export.load('model.pt2')" in printed
    assert json.loads(exported.to_json())["format"] == "torch-export"
    assert "<table>" in exported._repr_html_()


class Fixed(nn.Module):
    """Works for one size of a batch alone."""

    def forward(self, x):
        return x.reshape(4, 3)


@torch.library.custom_op("batchnorm_tests::own", mutates_args=())
def own(x: torch.Tensor) -> torch.Tensor:
    return x.clone()


@own.register_fake
def _(x):
    return torch.empty_like(x)


class WithOwn(nn.Module):
    """Has an operation that ONNX does not know."""

    def forward(self, x):
        return own(x)


class Kept(nn.Module):
    """Uses what goes into its batch norm elsewhere, so that it stays."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.linear(x)
        return x.relu() + self.norm(x)


def test_a_batch_norm_that_stays_is_named(tmp_path):
    exported = bn.export(Kept().eval(), tmp_path / "model")
    (note,) = exported.notes
    assert note.startswith("norm stays: ")


@pytest.mark.parametrize(
    ("model", "format", "message"),
    [
        (bn.BatchNormClassifier(), "onnx", "this BatchNormClassifier is not fitted: call fit before export"),
        (nn.Linear(3, 3).eval(), "pmml", "format is 'pmml', expected one of 'onnx', 'torch', 'torch-export'"),
        (nn.Linear(3, 3), "onnx", "the model is in training mode"),
        (nn.Linear(3, 3).half().eval(), "onnx", "weight is of type torch.float16, expected float32 or float64"),
        (WithOwn().eval(), "onnx", "cannot write the model: No ONNX function found for .*batchnorm_tests.own"),
        (WithOwn().eval(), "torch", "there is a WithOwn in the model: format='torch' is for sequences"),
        (Fixed().eval(), "onnx", r"torch.export cannot trace the model for batches of any size: Constraints violated"),
        (nn.Sequential(nn.Linear(3, 3), nn.ELU()).double().eval(), "onnx", "onnxruntime has no Elu of this precision"),
        (object(), "onnx", "model is a object, expected a torch.nn.Module, a fitted estimator"),
    ],
)
def test_what_is_refused_leaves_what_is_there(model, format, message, tmp_path):
    (tmp_path / "model").write_text("before")
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    dtype = next((parameter.dtype for parameter in parameters), torch.float32)
    with pytest.raises(bn.InputError, match=message) as raised:
        bn.export(model, tmp_path / "model", format, example=torch.randn(4, 3, dtype=dtype))
    assert "\n" not in str(raised.value)
    assert (tmp_path / "model").read_text() == "before"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_paths_and_rows_that_cannot_be(tmp_path):
    model = nn.Linear(3, 3).eval()
    for path, options, message in (
        (tmp_path, {}, "is a folder, expected the name of a file to write"),
        (tmp_path / "none" / "model", {}, "there is no folder"),
        (tmp_path / "model", {"rows": 0}, "rows is 0, expected a whole number from 1"),
        (tmp_path / "model", {"example": torch.randn(0, 3)}, "rows, expected one number of them, from 1"),
        (5, {}, "path is of class int"),
    ):
        with pytest.raises(bn.InputError, match=message):
            bn.export(model, path, **options)


def test_a_file_that_would_deviate_is_not_written(tmp_path, monkeypatch):
    compute = sessions.run
    monkeypatch.setattr(sessions, "run", lambda *args: [1.0001 * array for array in compute(*args)])
    with pytest.raises(bn.BatchnormError, match=r"would deviate by 0\.0001 relative to their largest value"):
        bn.export(nn.Linear(3, 3).eval(), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_labels_may_differ_only_where_probabilities_are_even():
    probabilities = np.array([[0.5, 0.5], [0.9, 0.1]])
    assert checking.same_labels(np.array([0, 0]), np.array([1, 0]), probabilities)
    assert not checking.same_labels(np.array([0, 0]), np.array([0, 1]), probabilities)
    assert not checking.same_labels(np.array([0, 0]), np.array([0]), probabilities)
    assert checking.same_labels(np.array([[1, 0]]), np.array([[0, 0]]), np.array([[0.5, 0.1]]))
    assert not checking.same_labels(np.array([[1, 0]]), np.array([[1, 1]]), np.array([[0.5, 0.1]]))


def test_deviations_count_shapes_and_what_is_no_number():
    one = np.array([1.0, np.nan, np.inf])
    assert checking.deviation([one], [one]) == 0
    assert checking.deviation([one], [np.array([1.0, 1.0, np.inf])]) == np.inf
    assert checking.deviation([one], [one[:2]]) == np.inf
    assert checking.deviation([np.array([0.0, -4.0])], [np.array([1.0, -4.0])]) == 0.25


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_what_is_not_installed_is_named_with_what_installs_it(missing, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("graphs", "sessions"):
        monkeypatch.delitem(sys.modules, f"batchnorm.exporting.{name}", raising=False)
        monkeypatch.delattr(f"batchnorm.exporting.{name}", raising=False)
    with pytest.raises(MissingPackageError, match=r"needs onnx, onnxscript and onnxruntime: .*batchnorm\[onnx\]"):
        bn.export(nn.Linear(3, 3).eval(), tmp_path / "model")
    assert not list(tmp_path.iterdir())
    bn.export(nn.Linear(3, 3).eval(), tmp_path / "model", "torch")
