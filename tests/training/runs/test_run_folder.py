"""The run folder: whole files only, and what is wrong with others is said."""

import copy
import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

import batchnorm as bn
from batchnorm import BatchnormError, InputError
from batchnorm.errors import DivergedError, TrainingInterrupted
from batchnorm.training.runs.folder import RunFolder
from batchnorm.training.seeds import fit_seeds
from helpers import PLAIN, RUN_FILES, InterruptAt, run_files, train


def test_a_finished_run_holds_everything(blobs, tmp_path):
    run = train(blobs, PLAIN, out=tmp_path / "deep" / "run")
    folder = tmp_path / "deep" / "run"
    assert {path.name for path in folder.iterdir()} == RUN_FILES
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
    with pytest.raises(
        BatchnormError, match=r"cannot be written: No space left on device; .*batchnorm.resume"
    ) as caught:
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
    with pytest.raises(InputError, match=r"exists already: choose another out=, or go on with it by batchnorm\.resume"):
        train(blobs, PLAIN, out=tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


class FailsInTraining(torch.nn.Sequential):
    def forward(self, x):
        if self.training:
            raise OSError("not in training")
        return super().forward(x)


class NeverTold(bn.Monitor):
    def begin(self, *args):
        raise AttributeError("no terminal")


FAILURES = {
    "an engine that cannot": (lambda: torch.nn.Linear(6, 3), {"engine": "fused"}, "engine fused cannot train"),
    "all frozen": (lambda: torch.nn.Linear(6, 3).requires_grad_(False), {}, "no parameter of the network can be"),
    "the first step": (lambda: FailsInTraining(torch.nn.Linear(6, 3)), {}, "not in training"),
    "a monitor": (lambda: torch.nn.Linear(6, 3), {}, "no terminal"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_what_fails_before_anything_was_saved_leaves_no_folder(kind, blobs, tmp_path):
    make, options, message = FAILURES[kind]
    config, monitor = dataclasses.replace(PLAIN, **options), NeverTold() if kind == "a monitor" else None
    with pytest.raises(Exception, match=message):
        bn.fit(make(), blobs, config, out=tmp_path / "run", monitor=monitor)
    assert list(tmp_path.iterdir()) == []
    bn.fit(torch.nn.Linear(6, 3), blobs, PLAIN, out=tmp_path / "run")


def test_nor_do_several_seeds(blobs, tmp_path):
    with pytest.raises(AttributeError, match="no terminal"):
        fit_seeds(blobs, PLAIN, 2, out=tmp_path / "runs", monitor=NeverTold())
    assert list(tmp_path.iterdir()) == []


def test_what_fails_later_leaves_what_can_be_gone_on_with(blobs, tmp_path):
    class FailsLater(bn.Monitor):
        def evaluated(self, record):
            raise OSError("no terminal")

    for train_some in (
        lambda out: train(blobs, PLAIN, out=out, monitor=FailsLater()),
        lambda out: fit_seeds(blobs, PLAIN, 2, out=out, monitor=FailsLater()).pop(),
    ):
        with pytest.raises(OSError, match="no terminal"):
            train_some(tmp_path / "run")
        assert (tmp_path / "run").exists()
        shutil.rmtree(tmp_path / "run")
    with pytest.raises(DivergedError, match=r"the last good checkpoint, .*, is kept"):
        train(blobs, dataclasses.replace(PLAIN, learning_rate=1e30, normalization="none"), out=tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").load_checkpoint().state["epoch"] == 0


def test_a_run_that_another_process_took_up_is_not_discarded(blobs, tmp_path):
    class TakenUp(bn.Monitor):
        def begin(self, *args):
            folder = RunFolder.open(tmp_path / "run")
            folder.discard()  # as another process would whose own attempt on it has failed
            assert folder.path.exists()

    train(blobs, PLAIN, out=tmp_path / "run", monitor=TakenUp())


@pytest.mark.parametrize(
    ("act", "python", "command_line"),
    [
        (lambda path, data: train(data, PLAIN, out=path), "another out=, or go on .* by batchnorm.resume", "--resume"),
        (lambda path, data: bn.load_run(path), r"go on with batchnorm.resume\('", "batchnorm train --resume"),
    ],
)
def test_errors_speak_to_whom_they_are_told(act, python, command_line, blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(0, 3))
    with pytest.raises(InputError, match=python) as caught:
        act(tmp_path / "run", blobs)
    assert "--" not in str(caught.value)
    assert command_line in caught.value.on_command_line


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
        (lambda run: (run / "results.json").unlink(), "is not finished: go on with batchnorm.resume"),
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
