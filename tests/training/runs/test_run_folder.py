"""The run folder: whole files only, and what is wrong with others is said."""

import copy
import dataclasses
import errno
import functools
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
from batchnorm.files import write_atomically
from batchnorm.training.runs import Checkpoint, accept_edits, load_plan
from batchnorm.training.runs.folder import RunFolder
from batchnorm.training.seeds import fit_seeds
from helpers import PLAIN, RUN_FILES, InterruptAt, edit, run_files, seal_as_it_is, train, unsealed


def test_a_finished_run_holds_everything(blobs, tmp_path):
    run = train(blobs, PLAIN, out=tmp_path / "deep" / "run")
    folder = tmp_path / "deep" / "run"
    assert {path.name for path in folder.iterdir()} == RUN_FILES
    assert run.path == folder
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records[:-1] == run.history
    assert records[-1].keys() == {"sha256"}
    assert unsealed(folder / "results.json") == run.results
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
    with pytest.raises(InputError, match=r"run' cannot be the name of a folder: .*file is no folder"):
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


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: shutil.rmtree(run), "is not a folder"),
        (lambda run: (run / "config.json").unlink(), "is not a run folder: it has no config.json"),
        (lambda run: (run / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "config.json").write_text("[]"), "config.json is damaged: expected a JSON object"),
        (lambda run: (run / "results.json").unlink(), "is not finished: go on with batchnorm.resume"),
        (lambda run: (run / "weights.safetensors").write_bytes(b"123"), "weights.safetensors cannot be read as safe"),
        (lambda run: (run / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda run: (run / "metrics.jsonl").write_text("{"), "metrics.jsonl is damaged: its last line has no end"),
        (lambda run: (run / "metrics.jsonl").write_text("{\n"), "metrics.jsonl, line 1, cannot be read as JSON"),
    ],
)
def test_says_what_is_wrong_with_a_folder(damage, message, copied):
    damage(copied)
    with pytest.raises(InputError, match=message):
        bn.load_run(copied)


def swap(run, a, b):
    (run / a).rename(run / "c")
    (run / b).rename(run / a)
    (run / "c").rename(run / b)


def flip_a_bit(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 4
    path.write_bytes(content)


def drop_line(path, number):
    lines = path.read_text().splitlines(keepends=True)
    del lines[number]
    path.write_text("".join(lines))


def from_another_run(run, name, blobs):
    train(blobs, dataclasses.replace(PLAIN, seed=1), out=run.parent / "another")
    shutil.copy(run.parent / "another" / name, run / name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda run, _: flip_a_bit(run / "weights.safetensors", -3),
        lambda run, _: flip_a_bit(run / "population.safetensors", -3),
        lambda run, _: edit(run / "config.json", config=dataclasses.asdict(dataclasses.replace(PLAIN, seed=1))),
        lambda run, _: edit(run / "results.json", epochs=4),
        lambda run, _: edit(run / "results.json", sha256=None),
        lambda run, _: (run / "results.json").write_text(json.dumps(unsealed(run / "results.json"))),
        lambda run, _: drop_line(run / "metrics.jsonl", 0),
        lambda run, _: drop_line(run / "metrics.jsonl", -1),
        lambda run, _: drop_line(run / "metrics.jsonl", -2),
        lambda run, _: (run / "metrics.jsonl").write_text(""),
        lambda run, _: swap(run, "weights.safetensors", "checkpoint.safetensors"),
        lambda run, blobs: from_another_run(run, "weights.safetensors", blobs),
        lambda run, blobs: from_another_run(run, "results.json", blobs),
        lambda run, blobs: from_another_run(run, "config.json", blobs),
        lambda run, _: edit(run / "config.json", format=1),
        lambda run, _: edit(run / "config.json", format=True),
    ],
)
def test_damage_that_the_format_allows_is_noticed(damage, copied, blobs):
    damage(copied, blobs)
    with pytest.raises(
        InputError, match=r"is damaged|does not fit|has format True|reads 1 and 2|unknown fields: sha256"
    ):
        bn.load_run(copied)


def test_evaluations_of_an_earlier_time_are_noticed(stopped, blobs):
    run = stopped()
    earlier = (run / "metrics.jsonl").read_bytes()
    bn.resume(run, blobs)
    (run / "metrics.jsonl").write_bytes(earlier)
    with pytest.raises(InputError, match=r"metrics.jsonl is damaged: expected the evaluation of epoch 2 at its end"):
        bn.load_run(run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.running_mean": torch.zeros(3)}, r"is torch.float32 of shape \(3,\), expected torch.float32 of \(8,\)"),
        ({"1.running_var": torch.zeros(8, dtype=torch.complex64)}, "'1.running_var' is torch.complex64"),
        ({"1.running_var": -torch.ones(8)}, "NaN, infinite or a negative variance"),
        ({"1.running_mean": torch.full((8,), torch.nan)}, "NaN, infinite or a negative variance"),
        ({"1.running_mean": None}, "'1.running_var' is no mean or variance of the network, or half a pair"),
        ({"0.weight": torch.zeros(8, 6)}, "'0.weight' is no mean or variance"),
        ({"9.running_mean": torch.zeros(8), "9.running_var": torch.zeros(8)}, "'9.running_mean' is no mean or"),
    ],
)
def test_population_statistics_that_are_none_are_told(change, message, copied):
    folder = RunFolder.open(copied)
    population = folder.load_results()[1] | change
    folder.save_population({name: tensor for name, tensor in population.items() if tensor is not None})
    for use in (bn.load_run, lambda run: RunFolder.open(run).verify()):
        with pytest.raises(InputError, match=rf"population.safetensors (is damaged|does not fit)|{message}"):
            use(copied)
    with pytest.raises(InputError, match=message):
        RunFolder.open(copied).verify()


def test_a_lazy_network_takes_up_the_shapes_of_a_run(blobs, tmp_path):
    def build(linear):
        return torch.nn.Sequential(linear, torch.nn.BatchNorm1d(3))

    run = bn.fit(build(torch.nn.Linear(6, 3)), blobs, PLAIN, out=tmp_path / "run")
    loaded = bn.load_run(tmp_path / "run", network=build(torch.nn.LazyLinear(3)))
    assert torch.equal(loaded.network(blobs.test.inputs), run.network(blobs.test.inputs))
    with pytest.raises(InputError, match=r"in_features of layer '0' was 6, is 7"):
        bn.load_run(tmp_path / "run", network=build(torch.nn.Linear(7, 3)))
    with pytest.raises(InputError, match=r"class of the network was torch\S+Sequential, is torch\S+Linear"):
        bn.load_run(tmp_path / "run", network=torch.nn.Linear(6, 3))


def test_weights_that_are_not_finite_are_told(copied):
    folder = RunFolder.open(copied)
    weights, population, results = folder.load_results()
    folder.save_results(weights | {"0.weight": torch.full((8, 6), torch.inf)}, population, results)
    with pytest.raises(InputError, match=r"weights.safetensors is damaged: a weight is NaN or infinite"):
        bn.load_run(copied)


def test_another_layout_of_the_same_json_is_no_damage(copied):
    (copied / "results.json").write_text(json.dumps(json.loads((copied / "results.json").read_text()), sort_keys=True))
    assert bn.load_run(copied).results["epochs"] == 3


NETWORK = {"class": "DenseNetwork", "in_features": 6, "n_classes": 3}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("config", {"config": None}, "config.json.config is None, expected an object"),
        ("config", {"config": {"epochs": 0}}, "config.json.config: epochs is 0, expected"),
        ("config", {"config": {"hidden_layer_sizes": [8, True]}}, r"config: hidden_layer_sizes\[1\] is True, expected"),
        ("config", {"config": {"hidden_layer_sizes": "12"}}, "config: hidden_layer_sizes is '12', expected a list"),
        ("config", {"dataset": {}}, "config.json.dataset has no name, split_seed"),
        ("config", {"network": {}}, "config.json.network has no class"),
        ("config", {"network": {"class": "DenseNetwork"}}, "is damaged: the network is"),
        ("config", {"network": NETWORK | {"in_features": 6.0}}, "network.in_features is 6.0, expected a whole number"),
        ("config", {"network": NETWORK | {"n_classes": 4}}, r"'3.weight' has shape \(3, 8\), expected \(4, 8\)"),
        ("config", {"config": {"hidden_layer_sizes": [10**5] * 2}}, "does not fit the network"),
        ("config", {"config": {"hidden_layer_sizes": [2**31 - 1] * 2}}, "config.json is damaged|does not fit"),
        ("config", {"more": 1}, "config.json has unknown fields: more"),
        ("results", {"test": {}}, "results.json.test has no running"),
        ("results", {"epochs": "3"}, "results.json.epochs is '3', expected a whole number"),
        ("results", {"test": {"running": {"accuracy": 1.5, "loss": 0}}}, "test.running.accuracy is 1.5, expected"),
        ("environment", {"sessions": [{"threads": 100_000}]}, r"sessions\[0\].threads is 100000, .* from 1 to 1024"),
        ("environment", {"sessions": 3}, "environment.json.sessions is 3, expected a list"),
        ("environment", {"sessions": [3]}, r"environment.json.sessions\[0\] is 3, expected an object"),
    ],
)
def test_what_a_field_may_not_be_is_told_with_its_place(name, changes, message, copied):
    edit(copied / f"{name}.json", **changes)
    seal_as_it_is(copied)
    with pytest.raises(InputError, match=message):
        load_plan(copied) if name == "environment" else bn.load_run(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "cannot be read as JSON: maximum recursion"),
        (b'{"epochs": NaN}', "NaN is not JSON"),
        (b'{"epochs": -Infinity}', "-Infinity is not JSON"),
        (b'{"epochs": 1e999}', "1e999 is beyond the numbers"),
        (b'{"epochs": ' + b"9" * 5000 + b"}", "cannot be read as JSON: Exceeds the limit"),
        (b'{"epochs": 1, "epochs": 1}', "'epochs' is there twice"),
        (b'{"epochs": "\xff"}', "cannot be read as JSON: .*invalid start byte"),
        (b"\0", "cannot be read as JSON"),
        (b"", "cannot be read as JSON"),
    ],
)
def test_json_is_strict(content, message, copied):
    (copied / "results.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        bn.load_run(copied)


@pytest.mark.parametrize("name", sorted(RUN_FILES))
def test_what_is_no_regular_file_is_not_read(name, copied, blobs):
    (copied / name).unlink()
    os.mkfifo(copied / name)
    with pytest.raises(InputError, match=f"{name} is a pipe, expected a file"):
        RunFolder.open(copied).verify()
    (copied / name).unlink()
    (copied / name).mkdir()
    with pytest.raises(InputError, match=f"{name} is a folder, expected a file"):
        RunFolder.open(copied).verify()


@pytest.mark.parametrize("name", ["results.json", "weights.safetensors"])
def test_a_huge_file_is_not_read(name, copied):
    os.truncate(copied / name, 2**40)
    with pytest.raises(InputError, match=r"has 1,099,511,627,776 bytes, expected at most"):
        bn.load_run(copied)


def test_what_someone_edited_on_purpose_is_accepted(copied):
    edit(copied / "results.json", stopped_early=True)
    with pytest.raises(InputError, match="if you have edited it, put that right by batchnorm runs --accept-edits"):
        bn.load_run(copied)
    RunFolder.open(copied, trusting=True).reseal()
    assert bn.load_run(copied).results["stopped_early"]
    edit(copied / "results.json", epochs=-2)
    with pytest.raises(InputError, match=r"results.json.epochs is -2, expected"):
        RunFolder.open(copied, trusting=True).reseal()


def test_says_what_does_not_fit_the_folder(copied, blobs):
    with pytest.raises(InputError, match="was begun with other data: name was blobs, is digits"):
        bn.resume(copied, bn.load_dataset("digits"))
    fewer = bn.Dataset.from_arrays(blobs.train.inputs, blobs.train.labels, name="blobs")
    with pytest.raises(InputError, match="examples was"):
        bn.resume(copied, fewer)
    changed = copy.deepcopy(blobs)
    changed.test.inputs[0, 0] += 1
    with pytest.raises(InputError, match="other data: fingerprint was"):
        bn.resume(copied, dataclasses.replace(changed))
    edit(copied / "config.json", format=3)
    with pytest.raises(InputError, match="has format 3, this version of batchnorm reads 1 and 2"):
        bn.load_run(copied)


@pytest.fixture(scope="module")
def every_stopped(blobs, tmp_path_factory):
    """Runs that were stopped in their second epoch, by configuration."""

    @functools.cache
    def stop(**changes):
        path = tmp_path_factory.mktemp("stopped") / "run"
        with pytest.raises(TrainingInterrupted):
            train(blobs, dataclasses.replace(PLAIN, **changes), out=path, monitor=InterruptAt(1, 3))
        return path

    return stop


@pytest.fixture
def stopped(every_stopped, tmp_path):
    """A copy of such a run, to change."""
    return lambda **changes: Path(shutil.copytree(every_stopped(**changes), tmp_path / "run"))


def change_checkpoint(run, tensors=lambda tensors: tensors, state=lambda state: state):
    folder = RunFolder.open(run)
    checkpoint = folder.load_checkpoint()
    folder.save_checkpoint(Checkpoint(tensors(checkpoint.tensors), state(checkpoint.state)))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"network.0.weight": torch.zeros(2, 2)}, r"'network.0.weight' has shape \(2, 2\), expected \(8, 6\)"),
        (
            {"network.0.weight": torch.zeros(8, 6).double()},
            "'network.0.weight' is torch.float64, expected torch.float32",
        ),
        ({"network.more": torch.zeros(1)}, "the checkpoint does not fit the run: .*more"),
        ({"best.0.weight": torch.zeros(8, 6)}, "best weights are not those of the network"),
        ({"more": torch.zeros(1)}, "the checkpoint does not fit the run: KeyError: 'more'"),
        ({"optimizer.0.momentum_buffer": torch.zeros(3)}, "the checkpoint does not fit the run: .*optimiser"),
        ({"optimizer.0.more": torch.zeros(8, 6)}, "the checkpoint does not fit the run: .*optimiser"),
        ({"optimizer.99.momentum_buffer": torch.zeros(1)}, "the checkpoint does not fit the run: .*"),
        ({"optimizer.momentum_buffer": torch.zeros(1)}, "the checkpoint does not fit the run: .*"),
        ({"rng.cpu": torch.zeros(5)}, "the checkpoint does not fit the run: .*"),
        ({"rng.cpu": torch.zeros(5, dtype=torch.uint8)}, "the checkpoint does not fit the run: .*"),
    ],
)
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_tensors_that_do_not_fit_are_told(tensors, message, engine, stopped, blobs):
    run = stopped(engine=engine, momentum=0.9)
    change_checkpoint(run, lambda old: {name: t for name, t in (old | tensors).items() if t is not None})
    with pytest.raises(InputError, match=message):
        bn.resume(run, blobs)


@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_half_a_state_of_the_optimizer_is_told(engine, stopped, blobs):
    run = stopped(engine=engine, optimizer="adamw", learning_rate=0.01)
    change_checkpoint(run, lambda old: {name: t for name, t in old.items() if name != "optimizer.0.exp_avg"})
    with pytest.raises(InputError, match=r"the checkpoint does not fit the run: .*optimiser"):
        bn.resume(run, blobs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 1.0}, "state.epoch is 1.0, expected a whole number"),
        ({"epoch": 99}, "at epoch 99, step 3 of 3 epochs"),
        ({"step": 99}, "at epoch 1, step 99 of 3 epochs"),
        ({"history": {}}, "state.history is {}, expected a list"),
        ({"history": [{}]}, r"state.history\[0\] has no epoch"),
        ({"loss_sum": "1"}, "state.loss_sum is '1', expected a number"),
        ({"more": 1}, "state has unknown fields: more"),
    ],
)
def test_a_state_that_is_none_is_told(changes, message, stopped, blobs):
    run = stopped()
    change_checkpoint(run, state=lambda state: state | changes)
    with pytest.raises(InputError, match=message):
        bn.resume(run, blobs)


def test_a_checkpoint_without_its_state_is_told(stopped, blobs):
    run = stopped()
    change_checkpoint(run, state=lambda _: None)
    with pytest.raises(InputError, match="is not the checkpoint of a training"):
        bn.resume(run, blobs)


def test_without_a_record_of_the_environment_a_run_goes_on(stopped, blobs):
    run = stopped()
    (run / "environment.json").write_text("{}")
    with pytest.raises(InputError, match="without this file, the run goes on with the threads that are given"):
        bn.resume(run, blobs)
    (run / "environment.json").unlink()
    assert bn.resume(run, blobs).results["epochs"] == 3


def test_another_environment_is_warned_about(blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(0, 3))
    path = tmp_path / "run" / "environment.json"
    content = json.loads(path.read_text())
    content["sessions"][0] |= {"threads": 77, "cpu": "another"}
    path.write_text(json.dumps(content))
    seal_as_it_is(path.parent)
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


def test_a_disk_that_is_full_when_edits_are_accepted_is_told_and_the_next_try_does_it(copied, monkeypatch):
    """The first files are written then, and fit those that are not only when all are."""
    written = []

    def fail_at_the_second(path, content):
        written.append(path.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        write_atomically(path, content)

    edit(copied / "config.json", format=2)
    with monkeypatch.context() as patch:
        patch.setattr("batchnorm.training.runs.holding.write_atomically", fail_at_the_second)
        with pytest.raises(BatchnormError, match="No space left on device; fix that, then do the same again"):
            accept_edits(copied)
    accept_edits(copied)
    assert bn.load_run(copied).results["epochs"] == PLAIN.epochs


@pytest.mark.parametrize("changes", [{"format": "a\nb"}, {"dataset": {"fingerprint": "a\x85b\u2028c"}}])
def test_what_a_file_holds_breaks_no_line_of_a_message(changes, copied, blobs):
    settings = unsealed(copied / "config.json")
    edit(
        copied / "config.json",
        **{key: settings[key] | value if key == "dataset" else value for key, value in changes.items()},
    )
    if "format" not in changes:
        seal_as_it_is(copied)
    with pytest.raises(InputError) as caught:
        bn.resume(copied, blobs)
    assert len(str(caught.value).splitlines()) == 1


class Acts(bn.Monitor):
    """Does something after the first step."""

    def __init__(self, action):
        self.action = action

    def step(self, epoch, step, loss):
        if (epoch, step) == (0, 1):
            self.action()


def test_a_run_is_written_where_it_was_begun_wherever_the_process_goes(blobs, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    train(blobs, PLAIN, out="run", monitor=Acts(lambda: os.chdir("elsewhere")))
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES
    monkeypatch.chdir(tmp_path)
    runs = fit_seeds(blobs, PLAIN, 2, out="seeds", monitor=Acts(lambda: os.chdir(tmp_path / "elsewhere")))
    assert len(runs) == len(list((tmp_path / "seeds").glob("seed-*"))) == 2
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_folder_that_is_moved_or_removed_is_told(blobs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for action in (lambda: shutil.move("run", "moved"), lambda: shutil.rmtree("run")):
        with pytest.raises(BatchnormError, match=r"^the run folder run was moved or removed") as told:
            train(blobs, PLAIN, out="run", monitor=Acts(action))
        assert not isinstance(told.value, InputError)
    assert bn.resume("moved", blobs).results == train(blobs, PLAIN).results
