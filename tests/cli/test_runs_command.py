"""Run folders, listed, verified and compared; edits that are accepted; statistics that are put into a run."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import batchnorm as bn
from batchnorm import files
from batchnorm.training import runs as of_training
from batchnorm.training.runs import RunFolder
from conftest import SAMPLES
from helpers import edit, run_files, seal_as_it_is


@pytest.fixture
def runs(command, tmp_path):
    """Runs of each kind, in the folder runs; run the command line there."""
    for name in ("run-format-2", "stopped-run-format-2", "run-format-1"):
        shutil.copytree(SAMPLES / name, tmp_path / "runs" / name)
    (tmp_path / "runs" / "no run").mkdir()
    (tmp_path / "runs" / "file").touch()
    return command


def test_lists_what_is_there(runs):
    code, out, err = runs("runs")
    assert (code, err) == (0, "")
    header, *lines = (line for line in out.splitlines() if not line.startswith(" "))
    assert header.split() == ["run", "dataset", "state", "test", "acc", "population", "what", "differs"]
    old, finished, stopped = (" ".join(line.split()) for line in lines)
    assert old.startswith("runs/run-format-1 digits finished (no checksums) 0.9000 0.9000 hidden_layer_sizes 8,")
    assert finished.startswith("runs/run-format-2 digits finished ")
    assert stopped.startswith("runs/stopped-run-format-2 digits stopped after 1 epochs – – hidden_layer_sizes 4,")
    assert "optimizer adamw" in " ".join(out.split())
    assert "batch_size" not in out  # which is the same in all
    code, out, err = runs("runs", "runs/run-format-2")
    assert (code, err, len(out.splitlines())) == (0, "", 2)


def test_lists_once_what_a_link_leads_to_as_well(runs):
    shutil.copytree(SAMPLES / "seeds-format-2", "runs/seeds")
    shutil.move("runs/stopped-run-format-2", "runs/seeds/seed-0")
    shutil.move("runs/run-format-1", "elsewhere")
    for link, target in {"a": "run-format-2", "b": "seeds/seed-0", "c": "../elsewhere", "d": "c"}.items():
        Path("runs", link).symlink_to(target)
    listed = json.loads(runs("runs", "--json")[1])["runs"]
    assert [row["run"] for row in listed] == ["runs/run-format-2", "runs/seeds", "runs/seeds/seed-0", "runs/c"]


def test_lists_them_for_a_program(runs):
    code, out, err = runs("runs", "--json")
    assert (code, err) == (0, "")
    listed = json.loads(out)
    assert [(row["run"], row["state"], row["checked"], row["epoch"]) for row in listed["runs"]] == [
        ("runs/run-format-1", "finished", False, 2),
        ("runs/run-format-2", "finished", True, 2),
        ("runs/stopped-run-format-2", "stopped", True, 1),
    ]
    assert listed["runs"][1]["config"]["hidden_layer_sizes"] == [8]
    assert listed["runs"][1]["test"] == json.loads((SAMPLES / "format-2.json").read_text())["run"]["test"]
    assert "optimizer" in listed["differing"]
    assert "seed" not in listed["differing"]


def test_one_that_is_being_trained_is_no_stopped_one(runs):
    with RunFolder.open("runs/stopped-run-format-2").locked():
        assert "running after 1 epochs" in " ".join(runs("runs", "runs/stopped-run-format-2")[1].split())


@pytest.mark.parametrize(
    "name", ["config.json", "metrics.jsonl", "results.json", "checkpoint.safetensors", "population.safetensors"]
)
def test_a_damaged_one_is_named_and_ends_with_1(name, runs):
    path = Path("runs/run-format-2", name)
    content = path.read_bytes()
    path.write_bytes(content.replace(b": 0.", b": 1.", 1) if path.suffix != ".safetensors" else content[:-1] + b"!")
    code, out, err = runs("runs")
    assert code == 1
    assert err.startswith(f"batchnorm: 1 of 3 runs cannot be used: runs/run-format-2/{name} is damaged: ")
    assert err.endswith("put that right by batchnorm runs --accept-edits runs/run-format-2)\n")
    assert re.search(r"runs/run-format-2 +(digits|–) +damaged", out)
    code, out, _ = runs("runs", "--json")
    assert code == 1
    assert json.loads(out)["runs"][1]["state"] == "damaged"


def test_several_seeds_are_one_and_each(runs):
    shutil.copytree(SAMPLES / "seeds-format-2", "runs/seeds")
    shutil.copytree(SAMPLES / "stopped-run-format-2", "runs/seeds/seed-0")
    _, out, _ = runs("runs", "runs/seeds")
    assert [line.split()[:2] for line in out.splitlines()[1:] if line[0] != " "] == [
        ["runs/seeds", "digits"],
        ["runs/seeds/seed-0", "digits"],
    ]
    assert "stopped, 0 of 2 seeds" in " ".join(out.split())
    edit(Path("runs/seeds/seeds.json"), n_seeds=1000)
    code, _, err = runs("runs", "runs/seeds")
    assert (code, "runs/seeds/seeds.json is damaged" in err) == (1, True)
    assert runs("runs", "--accept-edits", "runs/seeds")[0] == 0
    assert bn.training.runs.load_plan("runs/seeds").n_seeds == 1000


def test_what_a_file_says_does_not_command_the_terminal(runs):
    run = Path("runs/run-format-2")
    dataset = json.loads((run / "config.json").read_text())["dataset"]
    edit(run / "config.json", dataset=dataset | {"name": "\x1b[31m[red]x"})
    seal_as_it_is(run)
    _, out, _ = runs("runs", run)
    assert "\\x1b[31m[red]x" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no folder nowhere: name one that holds run folders"),
        (["--accept-edits"], "runs is not a run folder: name the one that you have edited"),
    ],
)
def test_what_cannot_be_listed_is_told(words, message, runs):
    assert runs("runs", *words) == (2, "", f"batchnorm: {message}\n")


def test_a_folder_without_runs(runs):
    assert runs("runs", "runs/no run") == (0, "there are no run folders in runs/no run\n", "")


def test_the_runs_of_comparisons_are_listed(runs):
    for name in ("run-format-2", "stopped-run-format-2"):
        shutil.copytree(SAMPLES / name, f"comparisons/mine/cells/{name}")
    Path("comparisons/mine/plan.json").write_text("{}")
    Path("comparisons/begun").mkdir()
    Path("comparisons/begun/plan.json").write_text("{}")
    for folder in ("comparisons", "comparisons/mine", "comparisons/mine/cells"):
        listed = json.loads(runs("runs", folder, "--json")[1])["runs"]
        assert [row["run"] for row in listed] == [
            "comparisons/mine/cells/run-format-2", "comparisons/mine/cells/stopped-run-format-2",
        ]  # fmt: skip
    assert runs("runs", "comparisons/begun") == (0, "there are no run folders in comparisons/begun\n", "")


def test_edits_are_accepted_if_the_file_may_hold_them(runs):
    path = Path("runs/run-format-2/config.json")
    config = json.loads(path.read_text())["config"]
    edit(path, config=config | {"epochs": 3})
    assert runs("evaluate", "runs/run-format-2")[0] == 2
    assert runs("runs", "--accept-edits", "runs/run-format-2")[0] == 0
    assert bn.load_run("runs/run-format-2").config.epochs == 3
    before = run_files(path.parent)
    edit(path, config=config | {"epochs": 0})
    code, _, err = runs("runs", "--accept-edits", "runs/run-format-2")
    assert (code, "config.json.config: epochs is 0, expected" in err) == (2, True)
    assert {**run_files(path.parent), "config.json": 0} == {**before, "config.json": 0}


@pytest.mark.parametrize("n_written", range(1, 9))  # of seven files of the run, and two of the folder above it
def test_accepting_that_was_killed_between_two_files_is_done_again(n_written, runs, monkeypatch):
    shutil.copytree(SAMPLES / "seeds-format-2", "runs/seeds")
    shutil.copytree(SAMPLES / "run-format-2", "runs/seeds/seed-0")
    of_training.save_summary(Path("runs/seeds"), {"seeds": [0, 1]})
    config = bn.load_run("runs/seeds/seed-0").config.to_dict() | {"learning_rate": 0.5}
    for name in ("seeds.json", "seed-0/config.json"):
        edit(Path("runs/seeds", name), config=config)
    left = iter(range(n_written))

    def write(path, content):
        if next(left, None) is None:
            raise KeyboardInterrupt
        files.write_atomically(path, content)

    with monkeypatch.context() as patched:
        for module in ("holding", "listing", "plan"):
            patched.setattr(f"batchnorm.training.runs.{module}.write_atomically", write)
        with pytest.raises(KeyboardInterrupt):
            of_training.accept_edits("runs/seeds")
    assert runs("runs", "runs/seeds")[0] == 1
    assert runs("runs", "--accept-edits", "runs/seeds")[0] == 0
    assert of_training.load_plan("runs/seeds").config.learning_rate == 0.5
    assert of_training.load_summary(Path("runs/seeds")) == {"seeds": [0, 1]}
    assert bn.load_run("runs/seeds/seed-0").config.learning_rate == 0.5


def test_a_run_of_the_first_format_is_noticed_once_and_given_checksums(runs):
    code, _, err = runs("evaluate", "runs/run-format-1")
    assert code == 0
    assert err == (
        "batchnorm: warning: runs/run-format-1 was written by an earlier version, without checksums: damage to it "
        "would go unnoticed (batchnorm runs --accept-edits runs/run-format-1 gives it some)\n"
    )
    assert runs("runs", "--accept-edits", "runs/run-format-1")[0] == 0
    assert runs("evaluate", "runs/run-format-1")[2] == ""


@pytest.mark.parametrize("number", [1, 2])
def test_statistics_of_other_data_are_put_into_a_run(number, runs):
    run = f"runs/run-format-{number}"
    np.save("new.npy", np.random.default_rng(0).uniform(0, 9, (50, 8, 8)).astype(np.float32))
    before, files = bn_load(run, number), run_files(Path(run))
    code, out, _ = runs("recalibrate", run, "--in-place", "--data", "new.npy", "--method", "one-pass")
    assert code == 0
    assert out.endswith(f"put into {run}\n")
    after = bn_load(run, number)
    assert after.results["recalibrated"] == {"data": "new.npy", "method": "one-pass"}
    assert after.results["test"] == {"running": before.results["test"]["running"]}  # the other figure is of others
    assert after.population.keys() == before.population.keys()
    assert not any(torch.equal(after.population[name], before.population[name]) for name in before.population)
    assert {**run_files(Path(run)), "population.safetensors": 0} == {**files, "population.safetensors": 0}
    network, digits = after.network, bn.load_dataset("digits")
    expected = bn.evaluate(network, digits.test).accuracy, None
    network.load_state_dict(after.population, strict=False)
    expected = expected[0], bn.evaluate(network, digits.test).accuracy
    found = json.loads(runs("evaluate", run, "--json")[1])
    assert (found["running"]["accuracy"], found["population"]["accuracy"]) == expected
    runs("recalibrate", run, "--out", "weights.safetensors", "--data", "new.npy", "--method", "one-pass")
    written = safetensors.torch.load_file("weights.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in after.population.items())


def bn_load(run, number):
    if number == 2:
        return bn.load_run(run)
    with pytest.warns(bn.errors.UncheckedRunWarning):
        return bn.load_run(run)


def test_statistics_of_its_own_data_are_those_that_it_had(runs):
    before = bn.load_run("runs/run-format-2")
    assert json.loads(runs("recalibrate", "runs/run-format-2", "--in-place", "--json")[1])["run"] == "runs/run-format-2"
    after = bn.load_run("runs/run-format-2")
    assert after.results["recalibrated"] == {"data": "the training set", "method": "exact"}
    for name, tensor in before.population.items():
        torch.testing.assert_close(after.population[name], tensor, rtol=1e-5, atol=1e-6)
    assert bn.resume("runs/run-format-2", bn.load_dataset("digits")).results == after.results


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs/run-format-2"], "expected either --out FILE for the weights, or --in-place for a run folder of ours"),
        (["runs/run-format-2", "--in-place", "--out", "x"], "expected either --out FILE for the weights, or --in-pla"),
        (["models:build", "--in-place"], "models:build is not a run folder, which --in-place needs: name a file by -"),
        (["runs/stopped-run-format-2", "--in-place"], "is not finished: go on with batchnorm train --resume"),
        (["runs/run-format-2", "--out", "."], ". is a folder, expected the name of a file to write"),
        (["runs/run-format-2", "--out", "/dev/null"], "/dev/null is a device, expected the name of a file to write"),
    ],
)
def test_what_recalibrate_cannot_write_is_told(words, message, runs):
    code, out, err = runs("recalibrate", *words)
    assert (code, out) == (2, "")
    assert message in err


def test_nothing_is_written_into_a_run_and_no_run_stands_for_another(runs):
    before = run_files(Path("runs/run-format-2"))
    for words in (("fold", "models:build"), ("recalibrate", "models:build", "--data", "new.npy")):
        code, _, err = runs(*words, "--out", "runs/run-format-2/weights.safetensors")
        assert (code, "whose files are its own: choose one outside of it" in err) == (2, True)
    assert run_files(Path("runs/run-format-2")) == before


def test_a_folder_of_runs_that_cannot_be_is_told(runs, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    Path("runs").symlink_to("nowhere")
    code, _, err = runs("train", "digits", "--epochs", "1")
    assert (code, err) == (2, "batchnorm: runs is no folder in which runs could be: name one to make by --out\n")


@pytest.fixture
def forbidden(monkeypatch):
    """Have the system refuse to read a path and what is below, as it does others' files; root it refuses nothing."""

    def forbid(path):
        def refusing(call, beginning=str(path)):
            def refused(given, *args, **options):
                if str(given).startswith(beginning):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(given))
                return call(given, *args, **options)

            return refused

        monkeypatch.setattr(os, "open", refusing(os.open))
        if path.is_dir():
            monkeypatch.setattr(os, "lstat", refusing(os.lstat, f"{path}/"))
            monkeypatch.setattr(Path, "lstat", refusing(Path.lstat, f"{path}/"))

    return forbid


def test_a_folder_that_may_not_be_read_is_listed(runs, forbidden):
    forbidden(Path("runs/run-format-2"))
    code, out, err = runs("runs", "--json")
    assert (code, err) == (
        1, "batchnorm: 1 of 3 runs cannot be used: runs/run-format-2 cannot be read: Permission denied\n"
    )  # fmt: skip
    assert [row["state"] for row in json.loads(out)["runs"]] == ["finished", "unreadable", "stopped"]
    for words in (("evaluate", "runs/run-format-2"), ("train", "--resume", "runs/run-format-2")):
        assert runs(*words) == (2, "", "batchnorm: runs/run-format-2 cannot be read: Permission denied\n")


def test_a_file_that_may_not_be_read_is_not_missing(runs, forbidden):
    forbidden(Path("runs/run-format-2/weights.safetensors"))
    code, _, err = runs("evaluate", "runs/run-format-2")
    assert (code, err) == (
        2, "batchnorm: runs/run-format-2/weights.safetensors cannot be read: Permission denied\n"
    )  # fmt: skip
    assert "unreadable" in runs("runs")[1]


def test_says_how_a_stopped_run_ended(runs):
    path = Path("runs/stopped-run-format-2")
    environment = json.loads((path / "environment.json").read_text())
    environment["sessions"][-1]["ended"] = (
        "the loss became nan in epoch 1, step 3, at learning rate 9: try a smaller one"
    )
    (path / "environment.json").write_text(json.dumps(environment))
    seal_as_it_is(path)
    out = " ".join(runs("runs", str(path))[1].split())
    assert "stopped after 1 epochs: the loss became nan in" in out
    assert "at learning rate 9" in out
    assert "smaller" not in out
    assert json.loads(runs("runs", str(path), "--json")[1])["runs"][0]["ended"].endswith("a smaller one")
