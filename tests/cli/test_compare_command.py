"""`batchnorm compare` as a person uses it."""

import json
import re
import shlex

import numpy as np
import pytest

import batchnorm as bn
from batchnorm import comparing
from batchnorm.comparing import page
from batchnorm.comparing.plan import ComparisonPlan

SHORT = ("digits", "--epochs", 1, "--seeds", 1, "--jobs", 1, "--hidden-layer-sizes", 8)


def test_prints_what_is_compared_and_what_came_of_it(command, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "write_page", lambda plan, comparison, folder: folder.save("comparison.html", b""))
    words = ("compare", *SHORT, "--vary", "normalization=batch,none", "--vary", "learning-rate=0.1,1e30")
    code, out, err = command(*words)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "digits from the package scikit-learn: 1,437 train, 180 validation, 180 test examples",
        "compared: 2 of normalization, 2 of learning_rate; from 1 seed each",
        "4 trainings, 1 at a time",
    ]
    (start,) = (i for i, line in enumerate(lines) if line.split()[:2] == ["normalization", "learning_rate"])
    assert [line.split()[:2] for line in lines[start + 1 : start + 5]] == [
        ["batch", "0.1"], ["batch", "1e+30"], ["none", "0.1"], ["none", "1e+30"],
    ]  # fmt: skip
    folder = lines[-1].removeprefix("comparison ")
    assert re.fullmatch(r"comparisons/digits-learning_rate-normalization-[0-9a-f]{8}/comparison.html", folder)
    assert (tmp_path / folder).is_file()
    code, again, _ = command(*words)  # goes on, where there is nothing left to do
    assert (code, again.splitlines()[2:]) == (0, lines[start:])
    code, out, err = command(*words, "--json")
    assert (code, err) == (0, "")
    assert [arm["values"]["normalization"] for arm in json.loads(out)["arms"]] == ["batch", "batch", "none", "none"]
    assert command(*words, "--quiet") == (0, "", "")


@pytest.fixture
def asked(monkeypatch):
    """Take note of what is to be compared, and compare nothing."""
    asked = {}

    def note(dataset, config, **options):
        asked.update(options, dataset=dataset, config=config)
        raise SystemExit(77)

    monkeypatch.setattr(comparing, "compare", note)
    return asked


def test_by_default_batch_norm_and_learning_rates_are_varied(command, asked):
    assert command("compare")[0] == 77
    assert asked["dataset"].name == "mnist5k"
    assert asked["vary"] == {"normalization": ("batch", "none"), "learning_rate": (0.01, 0.1, 1.0, 10.0, 100.0)}
    assert (asked["seeds"], asked["config"].epochs, asked["config"].hidden_layer_sizes) == (3, 10, (300, 100))
    command("compare", "digits", "--learning-rate", 0.5)
    assert asked["vary"] == {"normalization": ("batch", "none")}
    assert asked["config"].learning_rate == 0.5


def test_the_command_on_a_page_asks_for_the_same(command, asked):
    words = (
        "compare", "digits", "--vary", "hidden_layer_sizes=8-4,none", "--vary", "bn_momentum=0.1,1e-05",
        "--activation", "sigmoid", "--no-nesterov", "--momentum", 0, "--seed", 3, "--seeds", 2, "--split-seed", 1,
    )  # fmt: skip
    command(*words)
    first = dict(asked)
    plan = ComparisonPlan(first["dataset"], first["config"], first["vary"], first["seeds"])
    command(*shlex.split(page._command(plan))[1:])
    assert [asked[name] for name in ("config", "vary", "seeds")] == [
        first[name] for name in ("config", "vary", "seeds")
    ]
    assert asked["dataset"].fingerprint == first["dataset"].fingerprint


def test_arrays_of_ones_own(command, asked, tmp_path):
    np.savez(tmp_path / "mine.npz", inputs=np.random.default_rng(0).random((40, 3)), labels=np.arange(40) % 2)
    assert command("compare", "mine.npz", "--task", "classification")[0] == 77
    assert (asked["dataset"].name, asked["dataset"].n_classes) == ("mine", 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("people.csv",), "people.csv is no data set of examples, and tables are not compared: train on them"),
        (("flowers.old/",), "there is no file or folder flowers.old/"),
        (("flowers/",), "flowers is missing"),
        (("a", "b"), "a is no data set of examples, and tables are not compared"),
        (("digits", "--vary", "depth"), "'depth' is no variation: expected a name and values"),
        (("digits", "--vary", "seed=1,2"), "give their number by --seeds"),
        (("digits", "--vary", "epochs=1,2", "--epochs", 3), "epochs is varied, and --epochs gives it one value"),
        (("digits", "--image-size", 8), "--image-size is for a folder of images: name one"),
        (("digits", "--seeds", 0), "Invalid value for '--seeds'"),
        (("nothing",), "there is no data set 'nothing'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(command, words, message, tmp_path):
    (tmp_path / "people.csv").write_text("age\n42\n")
    code, out, err = command("compare", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "comparisons").exists()


def test_after_ctrl_c_it_says_how_to_go_on(command, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "compare", interrupted)
    code, _, err = command("compare", *SHORT)
    assert (code, err) == (130, "batchnorm: interrupted, and what was trained is kept: the same command goes on\n")


def test_help_shows_its_own_defaults(command):
    words = " ".join(command("compare", "--help")[1].split())
    assert "Times through the training set. [default: 10]" in words
    assert "[default: normalization=batch,none and learning_rate=0.01,0.1,1,10,100]" in words
    for name in bn.TrainingConfig().to_dict():
        assert f" --{name.replace('_', '-')} " in words
