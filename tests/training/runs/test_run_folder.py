"""The run folder: whole files only, and a run that survives a kill at any moment."""

import copy
import dataclasses
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import torch

import batchnorm as bn
from batchnorm import BatchnormError, InputError, files
from batchnorm.errors import TrainingInterrupted
from batchnorm.training.runs import folder as run_folder
from batchnorm.training.runs.folder import RunFolder
from helpers import PLAIN, VARIANTS, InterruptAt, run_files, train

FILES = {
    "checkpoint.safetensors",
    "config.json",
    "environment.json",
    "metrics.jsonl",
    "population.safetensors",
    "results.json",
    "weights.safetensors",
}


def test_a_finished_run_holds_everything(blobs, tmp_path):
    run = train(blobs, PLAIN, out=tmp_path / "deep" / "run")
    folder = tmp_path / "deep" / "run"
    assert {path.name for path in folder.iterdir()} == FILES
    assert run.path == folder
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records == run.history
    assert json.loads((folder / "results.json").read_text()) == run.results
    (session,) = json.loads((folder / "environment.json").read_text())["sessions"]
    assert session["packages"]["torch"] == torch.__version__
    assert session["threads"] == torch.get_num_threads()
    assert session["cpu"]
    assert session["seconds"] > 0


def test_loads_what_was_trained(blobs, tmp_path):
    run = train(blobs, PLAIN, out=tmp_path / "run")
    loaded = bn.load_run(tmp_path / "run")
    assert not any(module.training for module in loaded.network.modules())
    assert torch.equal(loaded.network(blobs.test.inputs), run.network(blobs.test.inputs))
    assert (loaded.config, loaded.history, loaded.results) == (run.config, run.history, run.results)
    assert all(torch.equal(loaded.population[name], tensor) for name, tensor in run.population.items())
    by_hand = torch.nn.Sequential(
        torch.nn.Linear(6, 8, bias=False), torch.nn.BatchNorm1d(8, eps=1e-3), torch.nn.ReLU(),
        torch.nn.Linear(8, 3, bias=False), torch.nn.BatchNorm1d(3, eps=1e-3),
    )  # fmt: skip
    by_hand.load_state_dict(safetensors.torch.load_file(tmp_path / "run" / "weights.safetensors"))
    assert torch.equal(by_hand.eval()(blobs.test.inputs), run.network(blobs.test.inputs))


def test_a_finished_run_resumes_to_itself(blobs, tmp_path):
    run = train(blobs, PLAIN, out=tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert bn.resume(tmp_path / "run", blobs).results == run.results
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


class KilledError(BaseException):
    """What a kill looks like from inside: nothing catches it, nothing is cleaned up."""


@pytest.mark.parametrize("variant", ["plain", "early stopping"])
def test_a_kill_before_or_after_any_write_loses_nothing(variant, blobs, tmp_path, monkeypatch):
    config = dataclasses.replace(PLAIN, **VARIANTS[variant])
    config = dataclasses.replace(config, epochs=3)
    train(blobs, config, out=tmp_path / "undisturbed")
    expected = run_files(tmp_path / "undisturbed")
    write = files.write_atomically
    n_killed = 0
    for after in (False, True):
        for moment in range(100):
            writes = 0

            def killed_write(path, content, moment=moment, after=after):
                nonlocal writes
                writes += 1
                if writes - 1 < moment or after:
                    write(path, content)
                if writes - 1 == moment:
                    raise KilledError

            out = tmp_path / f"killed-{moment}-{after}"
            monkeypatch.setattr(run_folder, "write_atomically", killed_write)
            try:
                train(blobs, config, out=out)
                break  # the run has no write of this number
            except KilledError:
                n_killed += 1
            finally:
                monkeypatch.setattr(run_folder, "write_atomically", write)
            bn.resume(out, blobs)
            assert run_files(out) == expected
    assert n_killed >= 20


def start_training(out, *options):
    command = [sys.executable, "-m", "batchnorm", "train", "digits", "--epochs", "25", "--momentum", "0.9",
               "--dropout", "0.2", *options, out]  # fmt: skip
    return subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_until_begun(process, out):
    while not (out / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_kill_9_at_ten_random_moments_each_ends_with_the_bytes_of_an_undisturbed_run(tmp_path):
    undisturbed = tmp_path / "undisturbed"
    process = start_training(undisturbed, "--threads", "1", "--out")
    wait_until_begun(process, undisturbed)
    begun = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    duration = time.monotonic() - begun
    expected = run_files(undisturbed)
    rng = random.Random(0)

    def kill_and_resume(number):
        out = tmp_path / f"killed-{number}"
        process = start_training(out, "--threads", "1", "--out")
        wait_until_begun(process, out)
        time.sleep(rng.uniform(0, duration))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        resumed = start_training(out, "--resume")  # which knows by itself how many threads it was
        _, errors = resumed.communicate()
        assert resumed.returncode == 0, errors
        assert errors == b""
        left_over = {path.name for path in out.iterdir()} - FILES
        assert not left_over
        return process.returncode, run_files(out)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(kill_and_resume, range(10)))
    assert all(files == expected for _, files in outcomes)
    assert sum(code == -signal.SIGKILL for code, _ in outcomes) >= 5  # most were still running


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    process = start_training(tmp_path / "stopped", "--epochs", "400", "--out")
    while not (tmp_path / "stopped" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert b"and saved: go on with batchnorm train --resume" in errors
    assert errors.count(b"\n") == 1
    state = RunFolder.open(tmp_path / "stopped").load_checkpoint().state
    assert f"interrupted in epoch {state['epoch']} after step {state['step']}".encode() in errors
    assert not (tmp_path / "stopped" / "results.json").exists()


def test_ctrl_c_while_libraries_are_imported_ends_without_a_word(tmp_path):
    process = start_training(tmp_path / "run", "--out")
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (-signal.SIGINT, b"", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_keeps_the_last_checkpoint(blobs, tmp_path, monkeypatch):
    """It fills up while the third epoch's checkpoint is written."""
    real_fsync, n_checkpoints = os.fsync, 0

    def fsync(descriptor):
        nonlocal n_checkpoints
        n_checkpoints += ".checkpoint" in str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if n_checkpoints == 4:  # the first is that of the beginning
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BatchnormError, match=r"cannot be written: No space left on device; .*--resume") as caught:
        train(blobs, PLAIN, out=tmp_path / "run")
    assert not isinstance(caught.value, InputError)
    assert not any(path.name.endswith(".tmp") for path in (tmp_path / "run").iterdir())
    assert RunFolder.open(tmp_path / "run").load_checkpoint().state["epoch"] == 2
    monkeypatch.setattr(os, "fsync", real_fsync)
    train(blobs, PLAIN, out=tmp_path / "undisturbed")
    bn.resume(tmp_path / "run", blobs)
    assert run_files(tmp_path / "run") == run_files(tmp_path / "undisturbed")


def test_a_disk_that_is_full_from_the_beginning_leaves_nothing(blobs, tmp_path, monkeypatch):
    def fsync(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(BatchnormError, match=r"run folder .*run cannot be made: No space left on device$"):
        train(blobs, PLAIN, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_two_processes_do_not_work_on_one_run(blobs, tmp_path):
    class Second(bn.Monitor):
        def begin(self, *args):
            with pytest.raises(InputError, match=r"another process is working on .*run: wait for it, or stop it"):
                bn.resume(tmp_path / "run", blobs)

    train(blobs, PLAIN, out=tmp_path / "run", monitor=Second())
    assert bn.load_run(tmp_path / "run").results["epochs"] == 3


def test_an_output_that_would_block_is_not_taken_for_another_process(blobs, tmp_path):
    class Blocked(bn.Monitor):
        def evaluated(self, record):
            raise BlockingIOError("standard output is full")

    with pytest.raises(BlockingIOError, match="standard output is full"):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=Blocked())


def test_a_folder_that_cannot_be_made_is_told(blobs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BatchnormError, match=r"run folder .*run cannot be made: (Not a directory|File exists)"):
        train(blobs, PLAIN, out=tmp_path / "file" / "run")


def test_an_existing_folder_is_not_touched(blobs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already: choose another --out, or go on with it by --resume"):
        train(blobs, PLAIN, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    train(blobs, PLAIN, out=path)
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "is not a folder"),
        (lambda run: (run / "config.json").unlink(), "is not a run folder: it has no config.json"),
        (lambda run: (run / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json is damaged: expected a JSON object with"),
        (lambda run: edit_config(run, config=None), "config.json, config, is damaged"),
        (lambda run: edit_config(run, config={"epochs": 0}), "epochs is 0, expected"),
        (lambda run: edit_config(run, dataset={}), "config.json, dataset, is damaged: .*fingerprint, name"),
        (lambda run: edit_config(run, network={}), "config.json, network, is damaged: .*class"),
        (lambda run: edit_config(run, network={"class": "DenseNetwork"}), "is damaged: the network is"),
        (lambda run: (run / "results.json").write_text("{}"), "results.json is damaged: .*epochs, test"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), "metrics.jsonl cannot be read as lines of JSON"),
        (lambda run: (run / "results.json").unlink(), "is not finished: go on with batchnorm train --resume"),
        (lambda run: (run / "weights.safetensors").write_bytes(b"123"), "weights.safetensors cannot be read as safe"),
        (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors cannot be read as safetensors"),
    ],
)
def test_says_what_is_wrong_with_a_folder(damage, message, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run)
    with pytest.raises(InputError, match=message):
        bn.load_run(run)


def edit_config(run, **changes):
    settings = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(settings | changes))


def test_says_what_does_not_fit_the_folder(finished, blobs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    with pytest.raises(InputError, match="was begun with other data: name was blobs, is digits"):
        bn.resume(run, bn.load_dataset("digits"))
    fewer = bn.Dataset.from_arrays(blobs.train.inputs, blobs.train.labels, name="blobs")
    with pytest.raises(InputError, match="examples was"):
        bn.resume(run, fewer)
    changed = copy.deepcopy(blobs)
    changed.test.inputs[0, 0] += 1
    with pytest.raises(InputError, match="other data: fingerprint was"):
        bn.resume(run, dataclasses.replace(changed))
    edit_config(run, format=2)
    with pytest.raises(InputError, match="has format 2, this version of batchnorm reads 1"):
        bn.load_run(run)
    edit_config(run, format=1, network={"class": "DenseNetwork", "in_features": 6, "n_classes": 4})
    with pytest.raises(InputError, match=r"do not fit the network: .*size mismatch"):
        bn.load_run(run)


def test_a_checkpoint_without_its_state_is_told(finished, blobs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "results.json").unlink()
    shutil.copy(run / "weights.safetensors", run / "checkpoint.safetensors")
    with pytest.raises(InputError, match="is not the checkpoint of a training"):
        bn.resume(run, blobs)
    for state in ([], {"epochs": 1}):
        safetensors.torch.save_file(
            {"network.0.weight": torch.zeros(1)}, run / "checkpoint.safetensors", {"state": json.dumps(state)}
        )
        with pytest.raises(InputError, match="the checkpoint does not fit the run"):
            bn.resume(run, blobs)


def test_a_damaged_record_of_the_environment_is_no_obstacle(finished, blobs, tmp_path):
    run = tmp_path / "run"
    for content in ("", "{}", '{"sessions": 3}', '{"sessions": [3]}'):
        shutil.copytree(finished, run, dirs_exist_ok=True)
        (run / "results.json").unlink()
        (run / "environment.json").write_text(content)
        assert bn.resume(run, blobs).results["epochs"] == 3


def test_another_environment_is_warned_about(blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(0, 3))
    path = tmp_path / "run" / "environment.json"
    content = json.loads(path.read_text())
    content["sessions"][0] |= {"threads": 77, "cpu": "another"}
    path.write_text(json.dumps(content))
    warnings = []

    class Warned(bn.Monitor):
        def warn(self, message):
            warnings.append(message)

    bn.resume(tmp_path / "run", blobs, monitor=Warned())
    assert warnings[0].startswith("cpu was another when the run was begun and is ")
    assert warnings[1:] == [
        f"threads was 77 when the run was begun and is {torch.get_num_threads()} now: "
        "its last bits may differ from an undisturbed run's"
    ]
    assert len(json.loads(path.read_text())["sessions"]) == 2


def test_an_interrupted_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def fail(self, target):
        raise KilledError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(KilledError):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
