"""Estimators as ONNX: what the file computes is what the estimator predicts."""

import json

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from mlxtend.data import autompg_data
from scipy import sparse
from sklearn import datasets

import batchnorm as bn
from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.exporting.checking import BOUND
from batchnorm.exporting.graphs import as_labels
from exported_cases import OPTIONS, fitted, inputs_of, new_rows, run


def gappy(X):
    """Return a table with gaps in two columns."""
    X = X.copy()
    X[::3, 0], X[1::4, 2] = np.nan, np.nan
    return X


def iris():
    X, y = datasets.load_iris(return_X_y=True)
    return BatchNormClassifier(**OPTIONS), X.astype(np.float32), np.array(["setosa", "versicolor", "virginica"])[y]


def wine_with_gaps():
    X, y = datasets.load_wine(return_X_y=True)
    return BatchNormClassifier(**OPTIONS), gappy(X), y


def breast_cancer():
    return BatchNormClassifier(**OPTIONS, activation="elu"), *datasets.load_breast_cancer(return_X_y=True)


def diabetes():
    return BatchNormRegressor("poisson", **OPTIONS), *datasets.load_diabetes(return_X_y=True)


def linnerud():
    X, y = datasets.load_linnerud(return_X_y=True)
    return BatchNormRegressor(**OPTIONS), X.astype(np.float32), y


def autompg():
    return BatchNormRegressor("absolute_error", **OPTIONS), *autompg_data()


def several_labels():
    X, y = datasets.make_multilabel_classification(80, random_state=0)
    return BatchNormClassifier(**OPTIONS), X, y


def close(a, b):
    return a.shape == b.shape and np.abs(a - b).max() <= BOUND * np.abs(b).max()


@pytest.mark.parametrize("make", [iris, wine_with_gaps, breast_cancer, diabetes, linnerud, autompg, several_labels])
def test_real_tables(make, tmp_path):
    estimator, X, y = make()
    estimator.fit(X, y)
    X = gappy(np.vstack([X, 1e3 * X[:5]]))  # what is missing for the first time, too, and what is far out
    exported = bn.export(estimator, tmp_path / "model.onnx", example=X)
    assert exported.deviation <= BOUND
    assert exported.rows == len(X)
    assert exported.size == (tmp_path / "model.onnx").stat().st_size
    assert exported.inputs == {"X": f"{X.dtype} (batch, {X.shape[1]})"}
    assert [note for note in exported.notes if "Elu in float64" in note] == list(exported.notes)
    assert len(exported.notes) == (make is breast_cancer)
    for rows in (X, X[:1]):
        found = run(tmp_path / "model.onnx", X=rows)
        if "value" in found:
            assert close(found["value"], estimator.predict(rows))
        else:
            assert found["label"].tolist() == estimator.predict(rows).tolist()
            assert close(found["probabilities"], estimator.predict_proba(rows))
            assert found["probabilities"].dtype == X.dtype


def traced(path, X):
    """Return the outputs of a file of torch.export, which is faster made than one of ONNX, of the same module."""
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(X))


def test_numbers_that_are_not_scaled(tmp_path):
    X, y = datasets.load_iris(return_X_y=True)
    estimator = BatchNormClassifier(**OPTIONS, standardize=False).fit(X, y)
    exported = bn.export(estimator, tmp_path / "model", "torch-export", example=X)
    assert close(traced(tmp_path / "model", X)[1].numpy(), estimator.predict_proba(X))
    assert "a number that is missing gives NaN" in str(exported)


def test_a_sparse_table_is_given_dense(tmp_path):
    cells = sparse.random(60, 30, 0.1, format="csr", random_state=0)
    estimator = BatchNormRegressor(**OPTIONS, engine="autograd").fit(cells, np.arange(60.0))
    bn.export(estimator, tmp_path / "model", "torch-export", example=cells)
    assert close(traced(tmp_path / "model", cells.toarray())[0].numpy(), estimator.predict(cells))


def test_a_frame_of_every_kind_of_column(tmp_path):
    estimator, rows = fitted(BatchNormClassifier), new_rows()
    exported = bn.export(estimator, tmp_path / "shop.onnx", example=rows)
    assert exported.deviation <= BOUND
    assert exported.notes == ("columns that are not read: always",)
    assert list(exported.inputs) == [name for name in rows.columns if name != "always"]
    kinds = [exported.inputs[name] for name in ("price", "color", "at")]
    assert kinds == ["float64 (batch,)", "string (batch,)", "int64 (batch,)"]
    for frame in (rows, rows[:1]):
        found = run(tmp_path / "shop.onnx", **inputs_of(frame))
        assert found["label"].tolist() == estimator.predict(frame).tolist()
        assert close(found["probabilities"], estimator.predict_proba(frame))
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "shop.onnx").metadata_props}
    assert said["task"] == "classification"
    assert said["torch"] == torch.__version__
    assert json.loads(said["classes"]) == ["few", "many"]
    assert json.loads(said["features"]) == estimator.feature_names_in_.tolist()
    assert json.loads(said["missing"]) == dict.fromkeys(exported.inputs, "NaN") | {
        "color": "", "place": "", "size": "", "at": str(-(2**63)), "day": str(-(2**63)),
    }  # fmt: skip


def test_names_of_columns_may_be_those_of_outputs_and_the_empty_text_a_value(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"value": rng.normal(size=90).astype(np.float32), "text": ["", "a", None] * 30})
    estimator = BatchNormRegressor(**OPTIONS).fit(frame, rng.normal(size=90))
    exported = bn.export(estimator, tmp_path / "model.onnx", example=frame)
    assert list(exported.outputs) == ["value_"]
    texts = frame["text"].fill_null("?").to_numpy().astype(object)
    found = run(tmp_path / "model.onnx", value=frame["value"].to_numpy(), text=texts)
    assert close(found["value_"], estimator.predict(frame))
    assert len(np.unique(estimator.scale_inputs(frame)[:, 1:], axis=0)) == 3


@pytest.mark.parametrize(
    ("classes", "labels"), [([False, True], [0, 1]), ([0.5, 1.5], [0.5, 1.5]), (["b", 1], ["b", "1"])]
)
def test_classes_of_other_types(classes, labels):
    found = as_labels(np.array(classes, dtype=object if "b" in classes else None))
    assert found.tolist() == labels
    assert found.dtype in (np.int64, np.float64, object)


def test_columns_of_one_name_are_refused(tmp_path):
    estimator = fitted(BatchNormRegressor)
    estimator.feature_names_in_[3:5] = "color"
    with pytest.raises(bn.InputError, match="column 'color' is there twice"):
        bn.export(estimator, tmp_path / "model.onnx", rows=7)
    assert not list(tmp_path.iterdir())
