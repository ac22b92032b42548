"""What is trained from the command line leaves as a file that predicts the same elsewhere."""

import json

import numpy as np
import pandas as pd
import pytest

import batchnorm as bn
from table_cases import TABLES, table_file

onnxruntime = pytest.importorskip("onnxruntime")
SHORT = ("--epochs", 3, "--hidden-layer-sizes", "8")


def fed(session, frame):
    """Return a frame as what a session takes."""
    inputs = {entry.name: entry.type for entry in session.get_inputs()}
    if list(inputs) == ["X"]:
        return {"X": frame.to_numpy(np.float32 if "float)" in inputs["X"] else np.float64)}
    fed = {}
    for name, kind in inputs.items():
        cells = frame[name]
        if "string" in kind:
            fed[name] = cells.fillna("").to_numpy(object)
        elif "int64" in kind:
            fed[name] = cells.to_numpy("datetime64[us]").astype(np.int64)
        else:
            fed[name] = cells.to_numpy(np.float32 if kind == "tensor(float)" else np.float64)
    return fed


# Together they have every kind of column. What is exported knows neither the kind of file nor how it was split;
# matrices of numbers, with each kind of task, are in tests/exporting.
@pytest.mark.parametrize("name", ["cars by origin", "cars by use", "airports", "riots", "cancer"])
def test_onnx_predicts_what_predict_does(command, tmp_path, name):
    _, target, task, _, options = TABLES[name]
    path = table_file(name, tmp_path)
    assert command("train", path, "--target", target, *SHORT, *options, "--out", "run", "--quiet")[0] == 0
    code, out, err = command("export", "run", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["path"] == "run.onnx"
    assert said["deviation"] < 1e-5
    run, table = bn.load_run("run"), bn.tables.read_tables([path])
    session = onnxruntime.InferenceSession("run.onnx")
    outputs = session.run(None, fed(session, run.inputs(table).to_pandas()))
    expected = run.predict_proba(table) if task == "classification" else run.predict(table)
    size = np.abs(expected).max()
    np.testing.assert_allclose(np.reshape(outputs[-1], expected.shape), expected, rtol=0, atol=1e-5 * size)


def test_other_formats_and_a_run_on_a_data_set(command, tmp_path):
    path = table_file("wine", tmp_path)
    assert command("train", path, "--target", "target", *SHORT, "--out", "run", "--quiet")[0] == 0
    code, out, err = command("export", "run", "--format", "torch")
    assert (code, err) == (0, "")
    assert out.startswith("run.safetensors: torch, ")
    path.unlink()
    code, out, err = command("export", "run", "--format", "torch-export", "-o", "program.pt2")
    assert code == 0
    assert err.endswith("is not there as it was: outputs are compared on rows that are made up\n")
    assert command("export", "run", "--rows", "nothing.csv")[0] == 2
    assert command("train", "digits", "--epochs", 1, "--out", "digits", "--quiet")[0] == 0
    code, out, err = command("export", "digits", "-o", "digits.onnx", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["deviation"] < 1e-5
    assert command("export", "nowhere")[0] == 2
    assert not pd.io.common.file_exists("nowhere.onnx")


def test_rows_of_python_are_compared_on_as_they_are_predicted(command, tmp_path):
    """With the target and in any order; those that cannot be predicted are refused in the same words."""
    path = table_file("weather", tmp_path)
    assert command("train", path, "--target", "weather", *SHORT, "--out", "run", "--quiet")[0] == 0
    run, frame = bn.load_run("run"), pd.read_csv(path, parse_dates=["date"])
    exported = bn.export(run, "run.onnx", example=frame[frame.columns[::-1]])
    assert exported.rows == len(frame)
    with pytest.raises(bn.InputError, match="lacks the column 'wind'"):
        bn.export(run, "run.onnx", example=frame.drop(columns="wind"))
    with pytest.raises(bn.InputError, match="not what the estimator takes: column 'wind' holds texts"):
        bn.export(run, "run.onnx", example=frame.assign(wind="x"))
    with pytest.raises(bn.InputError, match="should match those that were passed during fit"):
        bn.export(run.estimator, "run.onnx", example=frame)
    with pytest.raises(bn.InputError, match="is there more than once"):
        run.predict(pd.concat([frame, frame], axis=1))
