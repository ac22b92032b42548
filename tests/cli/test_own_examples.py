"""Training on images and arrays of one's own, as a person does it."""

import json
import os
import shutil

import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image

import batchnorm as bn
from batchnorm.data import load_own, write_idx
from helpers import edit, seal_as_it_is
from image_folders import coloured, digits, mnist, write_folder

SHORT = ("--epochs", 2, "--hidden-layer-sizes", "16")


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Two folders, to be copied by tests that change them."""
    folder = tmp_path_factory.mktemp("images")
    write_folder(folder / "digits", *digits())
    write_folder(folder / "mnist", *mnist(), ".jpg", quality=90)
    return folder


@pytest.fixture
def colours(tmp_path):
    return coloured(tmp_path / "colours")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_folder_is_trained_on_predicted_and_exported(command, folders, name):
    path = folders / name
    assert command("train", path, *SHORT, "--out", "run", "--quiet")[0] == 0
    assert command("predict", "run", path, "-o", "out.parquet", "--quiet")[0] == 0
    predicted = pq.read_table("out.parquet").to_pandas()
    assert len(predicted) == sum(1 for file in path.rglob("*") if file.is_file())
    assert command("export", "run", "-o", "run.onnx", "--json")[0] == 0
    data = load_own([path])
    label, probabilities = onnxruntime.InferenceSession("run.onnx").run(None, {"inputs": data.test.inputs.numpy()})
    run = bn.load_run("run")
    np.testing.assert_allclose(probabilities, run.predict_proba(data.test.inputs), atol=1e-5)
    assert (label == np.array(data.class_names)[data.test.labels]).mean() == pytest.approx(run.test_accuracy)


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_a_folder_trains_as_its_arrays_would(command, folders, name):
    path = folders / name
    code, out, err = command("train", path, *SHORT, "--out", "run")
    assert (code, err) == (0, "")
    data = load_own([path])
    first, second, *_ = out.splitlines()
    sizes = ", ".join(f"{len(part):,} {part_name}" for part_name, part in data.parts.items())
    assert first == f"{name} from {path}: {sizes} examples; run folder run"
    shape, n = (" × ".join(map(str, data.feature_shape))), sum(p.inputs.numel() for p in data.parts.values())
    assert second == f"10 classes, inputs of {shape} uint8, {n / 2**20:.1f} MiB in memory"
    config = bn.load_run("run").config
    network = bn.DenseNetwork.from_config(config, data.n_features, data.n_classes)
    plain = bn.Dataset(data.name, data.train, data.validation, data.test, data.class_names)
    assert bn.fit(network, plain, config).history == bn.load_run("run").history

    code, out, err = command("evaluate", "run", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["running"]["accuracy"] == bn.load_run("run").test_accuracy
    code, out, err = command("train", "--resume", "run")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [first, second]


def test_classes_and_files_are_recorded(command, colours):
    command("train", "colours/", *SHORT, "--image-size", 3, "--out", "run", "--quiet")
    dataset = json.loads((colours.parent / "run" / "config.json").read_text())["dataset"]
    assert (dataset["class_names"], dataset["feature_shape"]) == (["blue", "red"], [3, 3, 3])
    session = json.loads((colours.parent / "run" / "environment.json").read_text())["sessions"][0]
    assert session["origin"]["paths"] == [str(colours)]
    assert session["origin"]["image_size"] == [3, 3]
    assert {name: entry["size"] for name, entry in session["origin"]["contents"].items()} == {"blue": 20, "red": 20}
    code, out, _ = command("evaluate", "run")
    assert code == 0
    assert "red" in out
    assert "colours" in command("runs", ".")[1]
    assert command("recalibrate", "run", "--in-place")[0] == 0  # which needs the training part


def stop_in_epoch_1(monkeypatch):
    """Stop the first training, as a kill would, after its first epoch was saved."""
    from batchnorm.errors import TrainingInterrupted
    from batchnorm.training import loop

    real = loop.make_engine

    def make_engine(*arguments, **options):
        monkeypatch.setattr(loop, "make_engine", real)
        engine = real(*arguments, **options)
        step, steps = engine.step, iter(range(6))

        def stopping_step(*batch):
            if next(steps) == 5:
                raise TrainingInterrupted(1, 1, 130)
            return step(*batch)

        engine.step = stopping_step
        return engine

    monkeypatch.setattr(loop, "make_engine", make_engine)


@pytest.mark.parametrize("seeds", [(), ("--seeds", 2)])
def test_a_stopped_run_goes_on_with_its_files(command, colours, monkeypatch, seeds):
    words = ("train", colours, *SHORT, "--batch-size", 8, "--image-size", 4, "--split-seed", 3, *seeds, "--quiet")
    assert command(*words, "--out", "whole")[0] == 0
    stop_in_epoch_1(monkeypatch)
    assert command(*words, "--out", "stopped")[0] == 130
    assert command("train", "--resume", "stopped", "--quiet")[0] == 0
    inner = "seed-1" if seeds else "."
    weights = [(colours.parent / run / inner / "weights.safetensors").read_bytes() for run in ("whole", "stopped")]
    assert weights[0] == weights[1]
    assert command(*words, "--resume", "stopped")[0] == 0  # the same command again


def test_files_that_moved_are_asked_for_and_found(command, colours):
    command("train", "colours", *SHORT, "--out", "run")
    folder = colours.parent
    (folder / "there").mkdir()
    colours.rename(folder / "there" / "colours")
    for words in (("evaluate", "run"), ("train", "--resume", "run")):
        code, out, err = command(*words)
        assert (code, out) == (2, "")
        assert err == (
            f"batchnorm: the run was begun with {colours}, which is not there now: say by --data-dir which folder "
            "holds colours now\n"
        )
        assert command(*words, "--data-dir", "there")[::2] == (0, "")
    assert command("train", "there/colours", "--resume", "run")[::2] == (0, "")
    (folder / "there" / "colours").rename(folder / "renamed")
    assert command("evaluate", "run", "--data-dir", "renamed")[::2] == (0, "")
    assert "nowhere, given as --data-dir, is not a folder" in command("evaluate", "run", "--data-dir", "nowhere")[2]


def repaint(folder):
    Image.new("RGB", (6, 4), "green").save(folder / "red" / "003.png")


def add(folder):
    Image.new("RGB", (6, 4), "red").save(folder / "red" / "more.png")


def rename(folder):
    (folder / "red").rename(folder / "rose")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (repaint, "red has another content"),
        (add, "red has 21 images, not 20"),
        (rename, "class_names was ['blue', 'red'], is ['blue', 'rose'], red is not there, rose is new"),
    ],
)
def test_files_that_changed_are_refused_by_name(command, colours, change, message):
    command("train", "colours", *SHORT, "--out", "run")
    change(colours)
    code, out, err = command("evaluate", "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("batchnorm: run was begun with other data: ")
    assert err.endswith(f"{message}\n")


def test_the_same_pixels_in_other_files_are_the_same_data(command, colours):
    command("train", "colours", *SHORT, "--out", "run")
    for path in colours.glob("*/*.png"):
        Image.open(path).save(path, compress_level=0)
    assert command("evaluate", "run")[::2] == (0, "")


def test_notices_are_warnings_that_count(command, colours):
    (colours / "red" / "notes.txt").write_text("no image")
    Image.new("RGB", (30, 20)).save(colours / "blue" / "large.png")
    code, _, err = command("train", "colours", *SHORT)
    assert code == 0
    assert err.splitlines() == [
        "batchnorm: warning: colours: 1 file cannot be read as images, and left out; colours/red/notes.txt: it is no "
        "PNG, JPEG, WebP, BMP or GIF",
        "batchnorm: warning: colours: 1 of 41 images had another size, and were resized to 6 × 4",
    ]


def arrays(folder):
    """Write the same data in the three ways that arrays come in; return the words that name them."""
    images, labels = digits()
    np.savez(folder / "mine.npz", X=images, y=labels)
    np.save(folder / "X.npy", images)
    np.save(folder / "y.npy", labels)
    write_idx(folder / "d-images-idx3-ubyte.gz", images)
    write_idx(folder / "d-labels-idx1-ubyte", labels.astype(np.uint8))
    return [("mine.npz",), ("X.npy", "y.npy"), ("d-images-idx3-ubyte.gz", "d-labels-idx1-ubyte")]


def test_arrays_train_and_are_found_again(command, tmp_path):
    lines = []
    for number, words in enumerate(arrays(tmp_path)):
        code, out, err = command("train", *words, *SHORT, "--out", f"run{number}")
        assert (code, err) == (0, "")
        lines.append(out.splitlines()[1:])
        assert command("evaluate", f"run{number}")[::2] == (0, "")
    assert lines[0] == lines[1] == lines[2]

    shutil.move(tmp_path / "y.npy", tmp_path / "runs.npy")
    code, _, err = command("evaluate", "run1")
    assert (code, f"the run was begun with {tmp_path / 'y.npy'}, which is not there now" in err) == (2, True)
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "X.npy", digits()[0])
    assert "there holds no y.npy, which the run was begun with" in command("evaluate", "run1", "--data-dir", "there")[2]
    np.save(tmp_path / "there" / "y.npy", (digits()[1] + 1) % 10)
    code, _, err = command("evaluate", "run1", "--data-dir", "there")
    assert (code, "y.npy has another content\n" in err, "X.npy" in err) == (2, True, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--image-size", 8), "--image-size is for a folder of images: name one"),
        (("mine.npz", "--image-size", 8), "--image-size is for a folder of images: name one"),
        (("a.csv", "--target", "a", "--image-size", 8), "--image-size is for data sets that have a name"),
        (("mine.npz", "--data-dir", "."), "--data-dir is for data sets that have a name, and for runs"),
        (("mine.npz", "--group", "a"), "--group is for tables of your own"),
        (("missing.npz",), "missing.npz is missing"),
        (("./missing",), "missing is missing"),
        (("empty",), "empty is empty: expected folders named as the classes"),
        (("X.npy", "y.npy", "y.npy"), "3 files were given"),
        (("elsewhere",), "there is no data set 'elsewhere'"),
    ],
)
def test_what_is_refused(command, tmp_path, words, message):
    arrays(tmp_path)
    (tmp_path / "empty").mkdir()
    code, out, err = command("train", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_other_data(command, colours):
    command("train", "digits", *SHORT, "--out", "named")
    code, _, err = command("train", "colours", "--resume", "named")
    assert (code, "named was begun with digits, not with files of your own: leave colours out" in err) == (2, True)
    command("train", "colours", *SHORT, "--out", "run")
    code, _, err = command("train", "digits", "--resume", "run")
    assert (code, "run was begun with dataset 'colours', not 'digits'" in err) == (2, True)
    code, _, err = command("train", "--resume", "run", "--image-size", 9)
    assert (code, "run was begun with images of [6, 4], not 9" in err.replace("6 × 4", "[6, 4]")) == (2, True)


def test_a_name_that_is_known_is_not_a_folder(command, tmp_path, folders):
    (tmp_path / "digits").symlink_to(folders / "digits")
    assert "digits from the package scikit-learn" in command("train", "digits", *SHORT)[1]
    assert f"digits from {tmp_path / 'digits'}: 480 train" in command("train", "./digits", *SHORT)[1]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("paths", 3, "a list of at most 100"), ("image_size", [1], "two numbers"), ("contents", [], "an object")],
)
def test_what_a_run_may_not_hold_of_its_origin(command, colours, name, value, message):
    command("train", "colours", *SHORT, "--out", "run")
    path = colours.parent / "run" / "environment.json"
    sessions = json.loads(path.read_text())["sessions"]
    sessions[0]["origin"][name] = value
    edit(path, sessions=sessions)
    seal_as_it_is(path.parent)
    code, _, err = command("evaluate", "run")
    assert (code, f"environment.json.sessions[0].origin.{name} is {value}, expected {message}" in err) == (2, True)


def test_names_that_are_no_text(command, colours):
    odd = colours.parent / os.fsdecode(b"odd\xff")
    colours.rename(odd)
    (odd / "red").rename(odd / os.fsdecode(b"r\xfed"))
    code, out, err = command("train", odd, *SHORT)
    assert (code, err) == (0, "")
    assert out.startswith("odd\ufffd from ")
    code, out, err = command("evaluate", "runs/odd\ufffd-classic-seed0")
    assert (code, err) == (0, "")
    assert "r\\udcfed" in out
