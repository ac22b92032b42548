"""Predicting images and arrays with a run that was trained on such, as a person does it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import batchnorm as bn
from batchnorm.data import write_idx
from batchnorm.progress import Bar
from conftest import SAMPLES
from image_folders import digits, mnist, png_that_claims, trained_on_colours, write_folder

SHORT = ("--epochs", 3, "--hidden-layer-sizes", "16", "--quiet")


@pytest.fixture
def colours(command, tmp_path):
    """A folder of images, and a run on it."""
    return trained_on_colours(command, tmp_path)


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet"])
def test_a_folder_is_predicted_by_the_names_of_its_files(command, colours, name):
    assert command("predict", "run", "colours", "-o", name) == (0, "", "rows predicted: 60\n")
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "jsonl": lambda path: pd.read_json(path, lines=True)}
    found = read[name.partition(".")[2]](name)
    assert list(found) == ["file", "prediction", "probability_blue", "probability_red"]
    assert sorted(found["file"]) == sorted(str(path.relative_to(colours.parent)) for path in colours.glob("*/*"))
    run = bn.load_run("run")
    pixels = np.stack([np.asarray(Image.open(path)).transpose(2, 0, 1) for path in found["file"]])
    np.testing.assert_allclose(found[["probability_blue", "probability_red"]], run.predict_proba(pixels), rtol=1e-6)
    assert found["prediction"].tolist() == run.predict(pixels).tolist()


def test_the_accuracy_is_that_of_evaluate(command, tmp_path):
    write_folder(tmp_path / "mnist" / "train", *mnist(300))
    images, labels = mnist(250)
    write_folder(tmp_path / "mnist" / "test", images, labels, ".webp", lossless=True)
    command("train", "mnist/", *SHORT, "--batch-size", 20, "--out", "run")
    code, out, err = command("predict", "run", "mnist/test")
    assert (code, err) == (0, "")
    lines = [line.replace('"', "").split(",")[:2] for line in out.splitlines()[1:]]
    right = np.mean([name.split("/")[2] == predicted for name, predicted in lines])
    accuracy = json.loads(command("evaluate", "run", "--json")[1])["running"]["accuracy"]
    assert 0.3 < accuracy == right


def test_arrays_are_predicted_whatever_they_are_in(command, tmp_path):
    images, labels = digits()
    np.savez(tmp_path / "mine.npz", X=images, y=labels)
    np.save(tmp_path / "x.npy", images[:40])
    write_idx(tmp_path / "x-idx3-ubyte.gz", images[:40])
    np.savez(tmp_path / "x.npz", inputs=images[:40])
    command("train", "mine.npz", *SHORT, "--out", "run")
    printed = [command("predict", "run", name, "--quiet") for name in ("x.npy", "x-idx3-ubyte.gz", "x.npz")]
    assert printed[0] == printed[1] == printed[2]
    assert printed[0][::2] == (0, "")
    assert printed[0][1].startswith('"prediction","probability_0",')
    found = [line.split(",")[0].strip('"') for line in printed[0][1].splitlines()[1:]]
    assert found == bn.load_run("run").predict(images[:40]).tolist()
    code, out, err = command("predict", "run", "x.npy", "x.npz", "-o", "p.csv", "--unsure-below", 0.9, "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)["files"]
    assert [(each["file"], each["rows"]) for each in said] == [("x.npy", 40), ("x.npz", 40)]
    unsure = pd.read_csv("p.csv")["unsure"]
    assert [each["unsure"] for each in said] == [unsure[:40].sum(), unsure[40:].sum()]


def test_what_is_no_image_is_named_counted_and_passed_over(command, colours):
    (colours / "red" / "notes\n.txt").write_text("no image")
    (colours / "blue" / "bomb.png").write_bytes(png_that_claims(9_000, 9_000))
    Image.new("RGB", (10_000, 3), "blue").save(colours / "wide.png")
    Image.new("RGBA", (6, 4)).save(colours / "glass.png")
    code, out, err = command("predict", "run", "colours", "-o", "p.csv", "--unsure-below", 0.5)
    assert (code, out) == (0, "")
    bomb, notes, *rest = err.splitlines()
    assert bomb.startswith("passed over: colours/blue/bomb.png claims 81,000,000 pixels")
    assert notes == "passed over: colours/red/notes .txt: it is no PNG, JPEG, WebP, BMP or GIF"
    assert rest == [
        "2 of 64 files cannot be read as images, and are passed over",
        "1 of 62 images had another size, and were resized to 6 × 4",
        "1 of 62 images are transparent in parts: white was laid under",
        "rows that are unsure: 0 of 62",
        "rows predicted: 62",
    ]
    assert len(pd.read_csv("p.csv")) == 62
    said = json.loads(command("predict", "run", "colours", "-o", "p.csv", "--json")[1])["files"]
    assert [(each["rows"], len(each["unreadable"]), each["resized"]) for each in said] == [(62, 2, 1)]


def test_colours_become_grey_with_a_notice(command, tmp_path):
    write_folder(tmp_path / "digits", *digits())
    command("train", "./digits", *SHORT, "--out", "run")
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    code, out, err = command("predict", "run", "red.png")
    assert (code, out.count("\n")) == (0, 2)
    assert err == "1 of 1 images are in colour, and were made grey as those of the training\n"


def test_where_nothing_is_left_nothing_is_written(command, colours, tmp_path):
    (tmp_path / "a.png").write_text("no image")
    (tmp_path / "p.csv").write_text("earlier")
    code, out, err = command("predict", "run", "a.png", "-o", "p.csv")
    assert (code, out) == (2, "")
    assert err == (
        "batchnorm: none of 1 files is an image that can be read; a.png: it is no PNG, JPEG, WebP, BMP or GIF\n"
    )
    assert (tmp_path / "p.csv").read_text() == "earlier"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("colours", "--keep", "a"), "--keep hands on a column of a table, and run was not trained on one: leave it"),
        (("-",), "standard input is read for runs on tables, and run was not trained on one: name files"),
        (("missing.png",), "missing.png is missing"),
        (("colours", "x.npy"), "x.npy holds arrays and colours does not"),
        (("x.npy",), "x.npy: inputs have shape (2, 9), expected (examples, 3, 4, 6)"),
        (("bad.npy",), "bad.npy, rows from 1 on: inputs hold 0.5, expected whole numbers from 0 to 255"),
        (("colours", "-o", "p.xlsx"), "p.xlsx does not say by its suffix how to write it"),
        (("colours", "--json"), "--json prints what was done"),
        (("colours", "-o", "-", "--json"), "--json prints what was done"),
    ],
)
def test_what_is_refused(command, colours, tmp_path, words, message):
    np.save(tmp_path / "x.npy", np.zeros((2, 9)))
    np.save(tmp_path / "bad.npy", np.full((2, 3, 4, 6), 0.5))
    code, out, err = command("predict", "run", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_runs_that_cannot_predict(command, colours, tmp_path):
    assert command("predict", "nowhere", "colours")[0] == 2
    command("train", "colours/", *SHORT, "--batch-size", 8, "--seeds", 2, "--out", "seeds")
    assert "seeds holds 2 runs: name one of them, such as seeds/seed-0" in command("predict", "seeds", "colours")[2]
    assert command("predict", "seeds/seed-1", "colours")[0] == 0
    command("train", "digits", *SHORT, "--out", "digits")
    message = "blue/000.png is no NPZ, NPY or IDX file, expected arrays of shape (examples, 8, 8)"
    assert message in command("predict", "digits", "colours/blue/000.png")[2]
    shutil.copytree(SAMPLES / "run-format-2", tmp_path / "old")
    code, _, err = command("predict", "old", "colours")
    assert (code, "old was begun by an earlier version, which did not record" in err) == (2, True)


def test_the_bar_counts_rows(command, colours, monkeypatch):
    said = []
    monkeypatch.setattr(Bar, "advance", lambda bar, steps=1: said.append((bar.description, steps, bar._total)))
    command("predict", "run", "colours", "-o", "p.csv")
    assert said == [("predicting", 60, 60)]
