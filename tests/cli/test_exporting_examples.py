"""Exporting runs on images and arrays from the command line."""

import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import batchnorm as bn
from batchnorm.data import write_idx
from image_folders import digits, trained_on_colours

SHORT = ("--epochs", 3, "--hidden-layer-sizes", "16", "--quiet")


@pytest.fixture
def colours(command, tmp_path):
    """A folder of images, and a run on it."""
    return trained_on_colours(command, tmp_path)


def outputs(name, inputs):
    return onnxruntime.InferenceSession(name).run(None, {"inputs": inputs})


def test_a_run_on_a_folder(command, colours):
    code, out, err = command("export", "run", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["path"], said["rows"], said["inputs"]) == ("run.onnx", 6, {"inputs": "uint8 (batch, 3, 4, 6)"})
    pixels = np.asarray(Image.open(colours / "red" / "000.png")).transpose(2, 0, 1)[None]
    label, probabilities = outputs("run.onnx", pixels)
    run = bn.load_run("run")
    assert label.tolist() == run.predict(pixels).tolist()
    np.testing.assert_allclose(probabilities, run.predict_proba(pixels), atol=1e-6)


def test_a_run_on_arrays_in_8_bits(command, tmp_path):
    images, labels = digits()
    write_idx(tmp_path / "x-idx", images)
    write_idx(tmp_path / "y-idx", labels.astype(np.uint8))
    command("train", "x-idx", "y-idx", *SHORT, "--out", "run")
    code, out, err = command("export", "run", "--quantize", "int8")
    assert (code, err) == (0, "")
    assert "  8 bits: test accuracy 0." in out
    accuracy = float(out.split("test accuracy ")[1].split(",")[0])
    assert abs(accuracy - bn.load_run("run").test_accuracy) < 0.05
    assert outputs("run.onnx", images[:5])[1].shape == (5, 10)


def test_where_the_data_are_not_there(command, colours, tmp_path):
    (tmp_path / "there").mkdir()
    colours.rename(tmp_path / "there" / "colours")
    code, out, err = command("export", "run", "--format", "torch-export")
    assert (code, "deviates by" in out) == (0, True)
    assert err.endswith("which folder holds colours now; outputs are compared on inputs that are made up\n")
    assert command("export", "run", "--quantize", "int8")[0] == 2
    assert command("export", "run", "--quantize", "int8", "--data-dir", "there")[::2] == (0, "")
    Image.new("RGB", (6, 4), "green").save(tmp_path / "there" / "colours" / "red" / "003.png")
    code, _, err = command("export", "run", "--data-dir", "there", "-o", "other.onnx")
    assert (code, "run was begun with other data" in err) == (2, True)
    assert not (tmp_path / "other.onnx").exists()


def test_what_is_refused(command, colours, tmp_path):
    command("train", "colours/", *SHORT, "--batch-size", 8, "--seeds", 2, "--out", "seeds")
    (tmp_path / "a.csv").write_text("a,b\n" + "".join(f"{i},{i % 2}\n" for i in range(40)))
    command("train", "a.csv", "--target", "b", "--epochs", 1, "--out", "table", "--quiet")
    for words, message in [
        (("seeds",), "seeds holds 2 runs: name one of them"),
        (("run", "--rows", "a.csv"), "--rows is for runs on tables: leave it out"),
        (("run", "--quantize", "int8", "--format", "torch"), "quantize is for the format 'onnx'"),
        (
            ("table", "--quantize", "int8"),
            "quantize is for runs on images or arrays: what is trained on a table is small",
        ),
        (("table", "--data-dir", "."), "table was trained on a table: name one by --rows, in place of --data-dir"),
    ]:
        code, out, err = command("export", *words)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
