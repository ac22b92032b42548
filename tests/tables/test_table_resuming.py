"""A training on a table survives whatever ends it, and goes on to the bits that it would have ended with."""

import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import batchnorm as bn
from batchnorm import files
from batchnorm.errors import BatchnormError, BatchnormWarning, TrainingInterrupted
from batchnorm.estimator import base, parameters_from_json
from batchnorm.tables import (
    Split,
    TableFolder,
    TableRun,
    checkpoints,
    evaluate_table,
    keeping,
    list_table_runs,
    train_table,
)
from batchnorm.tables.folder import as_saved
from batchnorm.training import Monitor
from batchnorm.training.runs import Seal, holding
from processes import SECONDS, Copied
from table_cases import write

RNG = np.random.default_rng(0)
N = 90
FRAME = pd.DataFrame({"a": RNG.normal(size=N), "b": RNG.choice(["p", "q", "r", None], N), "w": RNG.integers(1, 4, N)})
FRAME["y"] = FRAME["a"] * 3 + (FRAME["b"] == "p") + RNG.normal(size=N)
FRAME["kind"] = np.where(FRAME["a"] + RNG.normal(size=N) > 0, "warm", "cold")
FRAME["day"] = pd.date_range("2020-01-01", periods=N)
SMALL = {"hidden_layer_sizes": (6,), "batch_size": 16, "random_state": 0}
ADAPTIVE = {
    **SMALL, "solver": "sgd", "learning_rate": "adaptive", "n_iter_no_change": 2, "tol": 0.01, "max_iter": 30,
    "early_stopping": True, "dropout": 0.1, "input_noise": 0.1,
}  # fmt: skip

# name: target, and what else a training is given
CASES = {
    "values": (["y"], {"sample_weight": "w", "drop": ["kind"], "parameters": {**SMALL, "epochs": 4, "dropout": 0.2}}),
    "classes": (["kind"], {"parameters": ADAPTIVE, "split": Split(0.3, 1)}),
    "several values": (["y", "w"], {"task": "regression", "parameters": {**SMALL, "epochs": 4}}),
    "few steps": (
        ["kind"], {"parameters": {**SMALL, "batch_size": 40, "epochs": 2, "dropout": 0.2, "early_stopping": True}}
    ),
    "the latest": (["y"], {"split": Split(time="day"), "parameters": {**ADAPTIVE, "max_iter": 10}}),
}  # fmt: skip
FIRST = {"checkpoint.safetensors", "environment.json", "layers.jsonl", "table.json"}
FINISHED = {"environment.json", "layers.jsonl", "estimator.safetensors", "results.json", "table.json"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(FRAME, tmp_path / "t.csv")


@pytest.fixture
def always_due(monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS", 0)
    monkeypatch.setattr(checkpoints, "_COST", 0)


def train(case="values", out="run", **options):
    target, others = CASES[case]
    return train_table([Path("t.csv")], target, **others, out=Path(out), **options)


def content(run):
    """Return all files of a run but the one that says when and where."""
    return {path.name: path.read_bytes() for path in Path(run).iterdir() if path.name != "environment.json"}


class SignalAt(Monitor):
    def __init__(self, number, epoch, step):
        self.number, self.at = number, (epoch, step)

    def step(self, epoch, step, loss):
        if (epoch, step) == self.at:
            signal.raise_signal(self.number)


@pytest.fixture
def interrupted(monkeypatch):
    """Train until a signal comes."""

    def run(case="values", out="run", number=signal.SIGINT, epoch=1, step=2, **options):
        with monkeypatch.context() as patched:
            patched.setattr("batchnorm.estimator.base.monitor_for", lambda verbose: SignalAt(number, epoch, step))
            with pytest.raises(TrainingInterrupted, match=f"interrupted in epoch {epoch} after step {step}"):
                train(case, out, **options)

    return run


@pytest.mark.parametrize("case", [case for case in CASES if case != "few steps"])
def test_an_interrupted_run_ends_with_the_same_bits(case, interrupted):
    train(case, "whole")
    interrupted(case, epoch=3, step=2)
    assert {path.name for path in Path("run").iterdir()} == FIRST
    run = bn.resume("run")
    assert isinstance(run, TableRun)
    assert content("run") == content("whole")
    assert {path.name for path in Path("run").iterdir()} == FINISHED
    assert run.to_dict() == {**bn.load_run("whole").to_dict(), "run": "run"} == bn.load_run("run").to_dict()
    assert run.estimator.loss_curve_ == bn.load_run("whole").estimator.loss_curve_
    assert len(run.layers) > 2
    assert run.layers == bn.load_run("run").layers


def test_a_table_that_is_larger_than_memory(interrupted, monkeypatch):
    monkeypatch.setattr(keeping, "IN_MEMORY", 1000)
    monkeypatch.setattr(keeping, "BLOCK_BYTES", 2000)
    told = []
    train("classes", "whole")
    interrupted("classes", tell=told.append)
    assert any("scratch file" in text for text in told)
    bn.resume("run")
    assert content("run") == content("whole")
    assert {path.name for path in Path.cwd().iterdir()} == {"run", "t.csv", "whole"}


class KilledError(BaseException):
    """What a kill looks like from inside: nothing catches it."""


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.usefixtures("always_due")
def test_a_kill_before_or_after_any_write_loses_nothing(after, monkeypatch):
    train("few steps", "whole")
    expected, write_atomically = content("whole"), files.write_atomically
    for moment in range(100):
        left = iter(range(moment))

        def killed(path, written, left=left):
            is_over = next(left, None) is None
            if after or not is_over:
                write_atomically(path, written)
            if is_over:
                raise KilledError

        monkeypatch.setattr(holding, "write_atomically", killed)
        try:
            train("few steps", f"killed-{moment}")
            break  # there is no write of this number
        except KilledError:
            pass
        finally:
            monkeypatch.setattr(holding, "write_atomically", write_atomically)
        bn.resume(f"killed-{moment}")
        assert content(f"killed-{moment}") == expected
    assert moment == 10  # of 4 steps, 3 looks, estimator, results, environment


def _train_until_killed(out):
    class Sleep(Monitor):
        def step(self, epoch, step, loss):
            if (epoch, step) == (2, 3):
                time.sleep(SECONDS)

    torch.set_num_threads(1)
    base.monitor_for = lambda verbose: Sleep()
    checkpoints.SECONDS = checkpoints._COST = 0
    train("values", out)


def test_kill_9_in_the_middle_ends_with_the_same_bits(tmp_path):
    train("values", "whole")
    process = Copied(_train_until_killed, tmp_path / "run", folder=tmp_path)
    while not Path("run").exists() or list_table_runs(Path("run"))[0]["epoch"] < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    assert [row["state"] for row in list_table_runs(Path("run"))] == ["running"]
    with pytest.raises(bn.InputError, match="another process is working on run: wait for it, or stop it"):
        bn.resume("run")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.poll() == -signal.SIGKILL
    assert [row["state"] for row in list_table_runs(Path("run"))] == ["stopped"]
    bn.resume("run")
    assert content("run") == content("whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_the_command_line_says_of_a_signal(command, monkeypatch, number):
    words = ("t.csv", "--target", "kind", "--drop", "y", "--epochs", 4, "--hidden-layer-sizes", "6", "--batch-size", 16)
    assert command("train", *words, "--out", "whole", "--quiet") == (0, "", "")
    with monkeypatch.context() as patched:
        patched.setattr("batchnorm.estimator.base.monitor_for", lambda verbose: SignalAt(number, 2, 1))
        code, _, err = command("train", *words)
    how = "go on with batchnorm train --resume runs/t-kind\n"
    finishing = "batchnorm: finishing this step, then saving; "
    assert (code, err) == (128 + number, f"{finishing}batchnorm: interrupted in epoch 2 after step 1, and saved: {how}")

    run = "runs/t-kind"
    assert "stopped after 2 epochs" in command("runs")[1]
    for words in (("evaluate", run), ("predict", run, "t.csv"), ("export", run)):
        assert command(*words) == (2, "", f"batchnorm: runs/t-kind is not finished: {how}")
    with pytest.raises(bn.InputError, match=r"is not finished: go on with batchnorm\.resume\('runs/t-kind'\)$"):
        bn.load_run(run)

    code, out, err = command("train", "--resume", run)
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "kind: classification, as it has string values; --task says otherwise"
    assert out.splitlines()[-1] == f"run folder {run}"
    assert content(run) == content("whole")
    assert command("train", "--resume", run)[1].splitlines()[-3:] == out.splitlines()[-3:]  # told again
    said = json.loads(command("train", "--resume", run, "--json")[1])
    assert said == {**bn.load_run("whole").to_dict(), "run": run}


def test_the_table_is_not_read_again_with_other_options(command, interrupted):
    interrupted()
    for words, odd in (
        (("t.csv",), "a file"), (("--epochs", 9), "--epochs"), (("--target", "y"), "--target"),
        (("--seed", 1), "--seed"), (("--split-seed", 1), "--split-seed"),
        (("--out", "other"), "--out"), (("--device", "cpu"), "--device"),
    ):  # fmt: skip
        code, out, err = command("train", *words, "--resume", "run")
        assert (code, out, err) == (2, "", f"batchnorm: run goes on as it was begun: leave {odd} out\n")
    assert command("train", "--resume", "run", "--out", "run", "--quiet") == (0, "", "")
    for argument in ({"dataset": 1}, {"network": 1}, {"monitor": Monitor()}, {"device": "cuda"}):
        with pytest.raises(bn.InputError, match=f"holds a run on a table, .* leave out {next(iter(argument))}"):
            bn.resume("run", **argument)
    with pytest.raises(bn.InputError, match="data_dir is for a run on a table"):
        bn.resume("elsewhere", data_dir="here")


def test_files_that_moved(interrupted, capsys, command):
    train("values", "whole")
    interrupted()
    Path("new").mkdir()
    Path("t.csv").rename("new/t.csv")
    code, _, err = command("train", "--resume", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "t.csv, which is not there now: say by --data-dir where it is" in err
    code, out, err = command("train", "--resume", "run", "--data-dir", "new")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"t.csv is read from new, it was in {Path.cwd()}"
    assert content("run") == content("whole")
    assert command("evaluate", "run")[0] == 0  # the run knows where they are now


def test_files_of_one_name_that_moved_together(interrupted, tmp_path):
    for folder, part in (("old/first", FRAME[:50]), ("old/second", FRAME[50:])):
        Path(folder).mkdir(parents=True)
        write(part, tmp_path / folder / "t.csv")
    paths, (target, options) = [Path("old/first/t.csv"), Path("old/second/t.csv")], CASES["values"]
    train_table(paths, target, **options, out=Path("run"))
    Path("old").rename("new")
    with pytest.raises(bn.InputError, match=r"nor is new/elsewhere/first/t.csv"):
        evaluate_table(bn.load_run("run"), data_dir=Path("new/elsewhere"))
    assert evaluate_table(bn.load_run("run"), data_dir=Path("new")) == bn.load_run("run").results["test"]


def test_files_that_changed(interrupted, tmp_path):
    interrupted()
    before = content("run")
    write(FRAME[:-1], tmp_path / "t.csv")
    with pytest.raises(bn.InputError, match=r"t.csv has changed since the run was trained on it"):
        bn.resume("run")
    assert content("run") == before
    write(FRAME, tmp_path / "t.csv")
    bn.resume("run")


def test_another_environment_is_told_of(interrupted, monkeypatch):
    interrupted()
    monkeypatch.setattr("batchnorm.training.runs.environment._version_of", lambda name: "0.1")
    with pytest.warns(
        BatchnormWarning, match="^packages was .* when the run was begun and is .*: its last bits may differ"
    ):
        bn.resume("run")
    assert bn.load_run("run").session["packages"]["pyarrow"] == "0.1"


def test_threads_are_those_that_it_was_begun_with(command, interrupted, monkeypatch):
    interrupted()
    torch.set_num_threads(2)
    assert command("train", "--resume", "run", "--quiet") == (0, "", "")
    assert [s["threads"] for s in TableFolder.open(Path("run")).load_sessions()] == [1, 1]


def test_columns_that_are_read_otherwise_now(interrupted, monkeypatch):
    """As another version of this package may."""
    interrupted()
    settings = as_saved(TableFolder.open(Path("run")).settings)
    settings["columns"] = ["a"]
    forged(Path("run"), settings)
    with pytest.raises(
        bn.InputError, match=r"run was begun with columns \['a'\], which are \['a', 'b', 'day'\] now: begin"
    ):
        bn.resume("run")


def test_a_run_is_listed_while_its_checkpoints_are_replaced(interrupted, monkeypatch):
    interrupted()
    load_checkpoint, listed = TableFolder.load_checkpoint, Path("run/checkpoint.safetensors")

    def replaced_meanwhile(folder, network=None):
        monkeypatch.setattr(TableFolder, "load_checkpoint", load_checkpoint)
        files.write_atomically(listed, listed.read_bytes())
        raise bn.InputError("half of one, half of the other")

    monkeypatch.setattr(TableFolder, "load_checkpoint", replaced_meanwhile)
    assert [row["state"] for row in list_table_runs(Path("run"))] == ["stopped"]
    bn.resume("run")


def forged(run, settings=None, change=lambda tensors, state: None, sessions=None):
    """Write a run's files again, with the checksums of what they hold then."""
    folder = TableFolder.open(run)
    tensors, state = folder.load_checkpoint()
    change(tensors, state)
    session = folder.load_sessions()[0]
    shutil.rmtree(run)
    TableFolder.create(run, settings or folder.settings, session | (sessions or {}), tensors, state)


def with_settings(**values):
    return lambda folder: forged(folder, as_saved(TableFolder.open(folder).settings) | values)


def flipped(name):
    def change(folder):
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / name).write_bytes(content)

    return change


SEED = {"random_state": 0}
NO_FILE = {"name": "t.csv", "bytes": 1, "sha256": ""}
HOSTILE = {
    "damaged settings": (flipped("table.json"), "table.json"),
    "damaged environment": (flipped("environment.json"), "environment.json"),
    "a damaged checkpoint": (flipped("checkpoint.safetensors"), "checkpoint.safetensors"),
    "no checkpoint": (lambda run: (run / "checkpoint.safetensors").unlink(), "checkpoint.safetensors is missing"),
    "no environment": (lambda run: (run / "environment.json").unlink(), "environment.json is missing"),
    "a folder as a checkpoint": (
        lambda run: [(run / "checkpoint.safetensors").unlink(), (run / "checkpoint.safetensors").mkdir()], "is a folder"
    ),
    "a huge checkpoint": (lambda run: os.truncate(run / "checkpoint.safetensors", 2**40), "bytes, expected at most"),
    "another network": (
        lambda run: forged(run, change=lambda t, s: t.update({"network.0.weight": torch.zeros(2, 2)})),
        "does not fit the network: 'network.0.weight' has shape (2, 2)",
    ),
    "no number": (lambda run: forged(run, change=lambda t, s: t["best.0.weight"].fill_(np.nan)), "is finite: False"),
    "beyond its end": (lambda run: forged(run, change=lambda t, s: s.update(epoch=10**9)), "it is at epoch 1000000000"),
    "an epoch of text": (lambda run: forged(run, change=lambda t, s: s.update(epoch="x")), "'epoch' is 'x'"),
    "no parameters": (with_settings(parameters=[]), "'parameters' is '[]'"),
    "unknown parameters": (with_settings(parameters={"random_state": 0, "x": 1}), "unexpected keyword argument 'x'"),
    "parameters of another kind": (with_settings(parameters=SEED | {"batch_size": "x"}), "'batch_size' parameter"),
    "parameters that are no values": (with_settings(parameters=SMALL | {"alpha": {"x": "1"}}), "begun with parameters"),
    "other layers": (with_settings(parameters=SMALL | {"hidden_layer_sizes": 7}), "does not fit the network"),
    "a task": (with_settings(task="x"), "expected a task of"),
    "a split of text": (with_settings(split={"share": "x"}), "'share' is 'x'"),
    "an unknown split": (with_settings(split={**vars(Split()), "x": 1}), "expected a split"),
    "a huge seed": (with_settings(split={**vars(Split()), "seed": 2**32}), "a seed below"),
    "no files": (with_settings(files=[]), "expected files and a target"),
    "files of text": (with_settings(files=["t.csv"]), "expected a JSON object"),
    "more files": (with_settings(files=[NO_FILE] * 2), "expected the paths of 2 files"),
    "another sum": (with_settings(files=[NO_FILE]), "t.csv has changed"),
    "another target": (with_settings(target=["day"]), ""),
    "threads": (lambda run: forged(run, sessions={"threads": 10**9}), "expected a whole number from 1 to 1024"),
    "a later format": (
        lambda run: (run / "table.json").write_bytes(Seal(2).to_json("table.json", {"format": 3})), "has format 3"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_damaged_is_refused_in_a_line(case, command, interrupted):
    change, message = HOSTILE[case]
    interrupted("classes")
    change(Path("run"))
    before = {path.name for path in Path("run").iterdir()}
    code, out, err = command("train", "--resume", "run", "--quiet")
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message in err
    assert {path.name for path in Path("run").iterdir()} == before
    code, out, err = command("runs", "run")
    assert code in (0, 1)
    assert not err or err.count("\n") == 1


def test_a_training_that_fails_before_anything_was_saved_leaves_no_folder(monkeypatch):
    diverging = {**SMALL, "alpha": 0, "solver": "sgd", "learning_rate_init": 1e30}
    with pytest.raises(bn.InputError, match="the training diverged"):
        train_table([Path("t.csv")], ["y"], parameters=diverging, out=Path("run"))
    assert not Path("run").exists()
    monkeypatch.setattr("batchnorm.tables.fitting.scores_of", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train()
    assert not Path("run").exists()


@pytest.mark.usefixtures("always_due")
def test_one_that_fails_later_leaves_what_can_be_gone_on_from(monkeypatch):
    train("values", "whole")
    with monkeypatch.context() as patched:
        patched.setattr("batchnorm.tables.fitting.scores_of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train()
    bn.resume("run")
    assert content("run") == content("whole")


def test_a_full_disk_says_how_to_go_on(monkeypatch):
    train("values", "whole")

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(holding, "write_atomically", full)
        with pytest.raises(BatchnormError, match=r"layers.jsonl cannot be written: No space left .* batchnorm.resume"):
            train()
    bn.resume("run")
    assert content("run") == content("whole")


def test_what_is_not_in_the_way(interrupted):
    """Without an `out` nothing is written; a checkpoint is written every few seconds, and gone when all is done."""
    target, options = CASES["values"]
    before = set(Path.cwd().iterdir())
    run = train_table([Path("t.csv")], target, **options)
    assert set(Path.cwd().iterdir()) == before
    train("values", "whole")
    assert run.estimator._to_file() == (Path("whole") / "estimator.safetensors").read_bytes()
    (Path("whole") / "checkpoint.safetensors").write_bytes(b"of a kill after the last file")
    assert [row["state"] for row in list_table_runs(Path("whole"))] == ["finished"]
    bn.resume("whole")
    assert {path.name for path in Path("whole").iterdir()} == FINISHED


@pytest.mark.parametrize(
    "random_state", [None, np.random.RandomState(3), np.int64(4)], ids=["none", "a state", "numpy's"]
)
def test_whatever_draws_the_numbers(random_state, monkeypatch):
    parameters = {**SMALL, "epochs": 3, "random_state": random_state, "dropout": 0.3}
    with monkeypatch.context() as patched:
        patched.setattr("batchnorm.estimator.base.monitor_for", lambda verbose: SignalAt(signal.SIGINT, 1, 1))
        with pytest.raises(TrainingInterrupted):
            train_table([Path("t.csv")], ["y"], parameters=parameters, out=Path("run"))
    settings = TableFolder.open(Path("run")).settings["parameters"]
    assert settings.keys() == parameters.keys()
    train_table([Path("t.csv")], ["y"], parameters=parameters_from_json(settings), out=Path("whole"))
    bn.resume("run")
    assert content("run") == content("whole")


def test_a_parameter_without_a_form_in_a_file_is_refused_before_the_training():
    with pytest.raises(bn.InputError, match=r"random_state=.* has no form in a file"):
        train_table([Path("t.csv")], ["y"], parameters={"random_state": np.random.default_rng()}, out=Path("run"))
    assert not Path("run").exists()


def test_a_run_of_an_earlier_format_is_read(interrupted):
    train()
    folder = TableFolder.open(Path("run"))
    settings = {k: v for k, v in folder.settings.items() if k not in ("parameters", "task_is_recognized")} | {
        "format": 1
    }
    seal = Seal(2, Seal(2).sum_of("table.json", settings))
    session, results = folder.load_sessions()[0], folder.load_results()
    Path("run/table.json").write_bytes(Seal(2).to_json("table.json", settings))
    Path("run/environment.json").write_bytes(seal.to_json("environment.json", {"session": session}))
    Path("run/results.json").write_bytes(seal.to_json("results.json", results))
    Path("run/layers.jsonl").unlink()
    assert bn.load_run("run").layers == []
    assert evaluate_table(bn.load_run("run")) == results["test"]
