"""A run survives a kill at any moment, and Ctrl-C saves it."""

import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import batchnorm as bn
from batchnorm import files
from batchnorm.training.runs import holding
from batchnorm.training.runs.folder import RunFolder
from helpers import PLAIN, RUN_FILES, VARIANTS, run_files, train
from processes import command_line


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
            monkeypatch.setattr(holding, "write_atomically", killed_write)
            try:
                train(blobs, config, out=out)
                break  # the run has no write of this number
            except KilledError:
                n_killed += 1
            finally:
                monkeypatch.setattr(holding, "write_atomically", write)
            bn.resume(out, blobs)
            assert run_files(out) == expected
    assert n_killed >= 20


def test_what_a_kill_leaves_of_a_finished_run_is_removed(blobs, tmp_path):
    """The last thing that a run writes is how long it took."""
    train(blobs, PLAIN, out=tmp_path / "run")
    left_over = tmp_path / "run" / ".environment.json.tmp"
    left_over.write_bytes(b'{"sess')
    with RunFolder.open(tmp_path / "run").locked():  # by somebody who may be writing it
        bn.resume(tmp_path / "run", blobs)
    assert left_over.exists()
    bn.resume(tmp_path / "run", blobs)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= RUN_FILES


# How often a process is killed below: each time costs two of them, a second each. The full ten are for CI alone.
N_KILLS = 10 if os.environ.get("CI") else 2


TRAINING = ("train", "mnist", "--epochs", "25", "--momentum", "0.9", "--dropout", "0.2")


@pytest.fixture
def start(tmp_path_factory):
    """Start a process that trains, or goes on training, in a run folder."""
    folder = tmp_path_factory.mktemp("streams")
    return lambda out, *options: command_line([*TRAINING, *options, out], folder)


@pytest.fixture
def begin(start, small_mnist):
    """Start a training."""
    return lambda out, *options: start(out, "--data-dir", small_mnist, "--threads", "1", *options, "--out")


def wait_until_begun(process, out):
    while not (out / "config.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def test_kill_9_at_random_moments_each_ends_with_the_bytes_of_an_undisturbed_run(begin, start, tmp_path):
    undisturbed = tmp_path / "undisturbed"
    process = begin(undisturbed)
    wait_until_begun(process, undisturbed)
    begun = time.monotonic()
    _, errors = process.communicate()
    assert process.poll() == 0, errors
    duration = time.monotonic() - begun
    expected = run_files(undisturbed)

    def kill(out, moment):
        """Kill a run after a share of the duration; if it has ended by then, another one earlier."""
        process = begin(out)
        wait_until_begun(process, out)
        time.sleep(moment * duration)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.poll() != -signal.SIGKILL:
            shutil.rmtree(out)
            kill(out, moment / 2)

    def kill_and_resume(moment):
        out = tmp_path / f"killed-{moment}"
        kill(out, moment)
        resumed = start(out, "--resume")  # which knows by itself how many threads it was, and where the data is
        _, errors = resumed.communicate()
        assert resumed.poll() == 0, errors
        assert errors == b""
        left_over = {path.name for path in out.iterdir()} - RUN_FILES
        assert not left_over
        return run_files(out)

    rng = random.Random(0)
    moments = [(i + rng.random()) / N_KILLS for i in range(N_KILLS)]  # one in each part of the run
    for moment in moments:
        assert kill_and_resume(moment) == expected


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(begin, tmp_path):
    process = begin(tmp_path / "stopped", "--epochs", "400")
    while not (tmp_path / "stopped" / "metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.poll() == 130
    assert errors.startswith(b"batchnorm: finishing this step, then saving; batchnorm: interrupted in epoch ")
    assert b"and saved: go on with batchnorm train --resume" in errors
    assert errors.count(b"\n") == 1
    state = RunFolder.open(tmp_path / "stopped").load_checkpoint().state
    assert f"interrupted in epoch {state['epoch']} after step {state['step']}".encode() in errors
    assert not (tmp_path / "stopped" / "results.json").exists()


def test_ctrl_c_while_libraries_are_imported_ends_without_a_word(tmp_path):
    command = [sys.executable, "-m", "batchnorm", *TRAINING, "--out", tmp_path / "run"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while "numpy" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert (process.returncode, output, errors) == (-signal.SIGINT, b"", b"")
    assert list(tmp_path.iterdir()) == []


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
