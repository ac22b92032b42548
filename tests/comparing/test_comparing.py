"""A comparison from beginning to end: what is trained, kept, gone on with, and said."""

import io
import json
import shutil
import signal

import numpy as np
import pytest
import torch

import batchnorm as bn
from batchnorm.comparing import cells, page, plan, training
from batchnorm.comparing.cells import pool, worker
from batchnorm.comparing.cells.carrying import load_dataset, save_dataset
from helpers import same_weights

CONFIG = bn.TrainingConfig(hidden_layer_sizes=(8,), epochs=2, batch_size=20, momentum=0.0, nesterov=False)
VARY = {"normalization": ["batch", "none"], "learning_rate": [0.1, 1e30]}


@pytest.fixture(autouse=True, scope="module")
def _pages_have_tests_of_their_own():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_page", lambda plan, comparison, folder: None)
        yield


def files_in(folder):
    """Return what is in a folder, but for what tells of times and places."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "environment.json"
    }


@pytest.fixture(scope="module")
def found(blobs, tmp_path_factory):
    return bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=tmp_path_factory.mktemp("compared") / "here", jobs=1)


def arm_of(found, **values):
    (arm,) = (arm for arm in found.summary["arms"] if arm["values"] == values)
    return arm


def test_each_cell_is_the_run_that_would_be_trained_alone(found, blobs, tmp_path):
    arm = arm_of(found, normalization="batch", learning_rate=0.1)
    assert [run["seed"] for run in arm["runs"]] == [0, 1]
    run = bn.load_run(found.path / arm["runs"][1]["run"])
    config = bn.TrainingConfig(**{**CONFIG.to_dict(), "seed": 1})
    alone = bn.fit(bn.DenseNetwork.from_config(config, 6, 3), blobs, config, out=tmp_path / "alone")
    assert run.config == config
    assert same_weights(run.network, alone.network)
    scores = [bn.load_run(found.path / run["run"]).history[-1]["validation_accuracy"] for run in arm["runs"]]
    assert [run["score"] for run in arm["runs"]] == scores
    assert arm["score"]["mean"] == pytest.approx(np.mean(scores))
    assert arm["score"]["sd"] == pytest.approx(np.std(scores, ddof=1))


def test_a_training_that_diverges_is_a_result(found):
    arm = arm_of(found, normalization="none", learning_rate=1e30)
    assert (arm["diverged"], arm["learnt"], arm["learns"], arm["score"]["mean"]) == (2, 0, False, None)
    for run in arm["runs"]:
        assert run["diverged"]["step"] < 12
        assert run["diverged"]["why"].startswith("the loss became")
    assert "4 trainings diverged" in str(found)  # batch norm does not save those of such steps either


def test_the_highest_learning_rate_that_learns(found):
    with_norm, without = found.summary["sweep"]["groups"]
    assert (with_norm["values"], without["values"]) == ({"normalization": "batch"}, {"normalization": "none"})
    assert (without["highest"], without["is_highest_tried"]) == (0.1, False)
    summary = found.summary
    assert summary["threshold"] == pytest.approx((summary["chance"] + summary["best"]) / 2)
    assert summary["best"] == max(run["score"] or 0 for arm in summary["arms"] for run in arm["runs"])
    assert "Without batch norm, it learns at learning rate 0.1, and at no other that was tried.\n" in str(found)


def test_what_is_written_is_what_is_returned(found):
    written = json.loads((found.path / "comparison.json").read_bytes())
    assert {"comparison": str(found.path), **written} == found.to_dict()
    columns, *rows = str(found).splitlines()[: 1 + len(found.rows)]
    assert columns.split() == ["normalization", "learning_rate", "val", "acc", "learns", "diverged"]
    assert rows[3].split() == ["none", "1e+30", "–", "0", "of", "2", "2", "of", "2"]
    assert found._repr_html_().count("<tr>") == 5


def test_processes_give_what_this_one_gives(found, blobs, tmp_path, monkeypatch):
    (tmp_path / "queue.py").write_text("raise SystemExit('a module of the user, not of Python')")
    monkeypatch.chdir(tmp_path)
    told = []
    other = bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=tmp_path / "there", jobs=2, tell=told.append)
    assert told[0] == "8 trainings, 2 at a time"
    assert files_in(other.path) == files_in(found.path)


@pytest.mark.parametrize("stopped_at", [(0, 0, 2), (0, 1, 3), (1, 1, 3)])
def test_what_is_stopped_goes_on(found, blobs, tmp_path, monkeypatch, stopped_at):
    n_trainings, at_epoch, at_step = stopped_at
    step, ended = cells.Teller.step, []

    def stopping(teller, epoch, number, loss):
        step(teller, epoch, number, loss)
        if (len(ended), epoch, number) == (n_trainings, at_epoch, at_step):
            signal.raise_signal(signal.SIGINT)
        if (epoch, number) == (1, 12):
            ended.append(teller)

    monkeypatch.setattr(cells.Teller, "step", stopping)
    options = {"vary": VARY, "seeds": 2, "out": tmp_path / "stopped", "jobs": 1}
    with pytest.raises(KeyboardInterrupt):
        bn.compare(blobs, CONFIG, **options)
    assert not (tmp_path / "stopped" / "comparison.json").exists()
    monkeypatch.undo()
    told = []
    again = bn.compare(blobs, CONFIG, **options, tell=told.append)
    assert told[0] == ("6 trainings (2 of 8 are done), 1 at a time" if n_trainings else "8 trainings, 1 at a time")
    assert files_in(again.path) == files_in(found.path)


def test_it_trains_with_one_thread_and_leaves_as_many_as_there_were(blobs, tmp_path):
    torch.set_num_threads(2)
    try:
        other = bn.compare(blobs, CONFIG, vary={"normalization": ["batch"]}, seeds=1, out=tmp_path / "one", jobs=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    (file,) = other.path.rglob("environment.json")
    assert json.loads(file.read_text())["sessions"][0]["threads"] == 1


def test_a_finished_comparison_trains_nothing_again(found, blobs, monkeypatch):
    monkeypatch.setattr(cells.Cell, "train", None)
    again = bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=found.path)
    assert again.to_dict() == found.to_dict()


def test_what_a_killed_process_has_left_is_removed(found, blobs):
    left = found.path / "cells" / f"{pool._DATA}left"
    left.mkdir()
    save_dataset(blobs, left)
    bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=found.path)  # all is trained: no process begins
    assert not left.exists()


def _end(path):
    path.write_bytes(path.read_bytes()[:-9])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: _end(run / "metrics.jsonl"), "its last line has no end"),
        (lambda run: (run / "config.json").unlink(), "it has no config.json"),
        (lambda run: shutil.copytree(f"{run}"[:-1] + "1", run, dirs_exist_ok=True), "holds another run"),
    ],
)
def test_a_run_that_was_damaged_is_named_with_what_to_do(found, blobs, tmp_path, damage, message):
    shutil.copytree(found.path, tmp_path / "here")
    run = tmp_path / "here" / "cells" / "learning_rate=0.1,normalization=batch,seed=0"
    damage(run)
    with pytest.raises(bn.InputError, match=f"{message}.*; or remove {run}, and do the same again"):
        bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=tmp_path / "here", jobs=1)
    shutil.rmtree(run)
    again = bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=tmp_path / "here", jobs=1)
    assert files_in(again.path) == files_in(found.path)


def test_a_run_without_looks_leaves_those_of_others(found, blobs, tmp_path):
    shutil.copytree(found.path, tmp_path / "here")
    (tmp_path / "here" / "cells" / "learning_rate=0.1,normalization=batch,seed=0" / "layers.jsonl").unlink()
    again = bn.compare(blobs, CONFIG, vary=VARY, seeds=2, out=tmp_path / "here", jobs=1)
    looks = arm_of(again, normalization="batch", learning_rate=0.1)["looks"]
    assert [look["epoch"] for look in looks.values()] == [-1, 0, 1]


def test_who_begins_at_the_same_time_does_not_begin_it_again(blobs, tmp_path, monkeypatch):
    asked, path = plan.ComparisonPlan(blobs, CONFIG, VARY, 2), tmp_path / "here"
    make, made = plan.make_folder, []

    def meanwhile(*folder):
        if not made:  # another process is faster
            made.append(make(*folder))
        make(*folder)

    monkeypatch.setattr(plan, "make_folder", meanwhile)
    assert plan.ComparisonFolder.begin(path, asked).path == path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 3}, r"seeds \[0, 1\], not \[0, 1, 2\]"),
        ({"vary": {"normalization": ["batch"]}}, r"normalization \['batch', 'none'\], not \['batch'\]"),
        ({"config": bn.TrainingConfig(epochs=3)}, r"hidden_layer_sizes \[8\], not \[300, 100\]"),
    ],
)
def test_another_comparison_in_its_folder_is_refused(found, blobs, options, message):
    options = {"config": CONFIG, "vary": VARY, "seeds": 2, "out": found.path} | options
    with pytest.raises(bn.InputError, match=f"holds another comparison, of {message}: choose another out="):
        bn.compare(blobs, **options)


def test_a_folder_of_something_else_is_refused(blobs, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(bn.InputError, match="exists already, and is no comparison: choose another out="):
        bn.compare(blobs, CONFIG, vary=VARY, out=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(bn.InputError, match="nothing is varied"):
        bn.compare(blobs, CONFIG, vary={}, out=tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


def test_the_default_folder_follows_from_what_is_compared(blobs):
    def default(name="a/../<b>", **config):
        dataset = bn.Dataset(name, *blobs.parts.values(), blobs.class_names)
        return plan.ComparisonPlan(dataset, bn.TrainingConfig(**config), VARY, 2).default_out

    assert default() == default()
    assert default() != default(epochs=3)
    assert default().parent.name == "comparisons"
    assert default().name.startswith("a_____b_-learning_rate-normalization-")


def test_values_are_compared_by_r2(tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 4))
    dataset = bn.Dataset.from_arrays(inputs, inputs @ [1.0, 2.0, 0.5, -1.0] + 3)
    vary = {"normalization": ["batch", "none"]}
    found = bn.compare(dataset, CONFIG, vary=vary, seeds=1, out=tmp_path / "values", jobs=1)
    assert (found.summary["measure"], found.summary["chance"]) == ("r2", 0.0)
    assert found.columns[1] == "val R²"
    assert [arm["score"]["sd"] for arm in found.summary["arms"]] == [None, None]
    assert 0.5 < found.summary["best"] <= 1
    assert found.summary["sweep"] is None


def test_the_scale_of_initial_weights_is_that_of_the_weights(blobs, tmp_path):
    drawn = cells.Cell("one", CONFIG, 1.0)._network(blobs)
    for plain, scaled in zip(drawn, cells.Cell("ten", CONFIG, 10.0)._network(blobs), strict=True):
        if isinstance(plain, torch.nn.Linear):
            assert torch.equal(10 * plain.weight, scaled.weight)
        elif isinstance(plain, torch.nn.BatchNorm1d):
            assert torch.equal(plain.weight, scaled.weight)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"refused": "no."}, bn.InputError, "one: no."),
        ({"failed": "the disk is full"}, bn.BatchnormError, "one: the disk is full"),
        (None, bn.BatchnormError, "that trained one ended with exit code -9, .*: do the same again to go on"),
    ],
)
def test_a_process_that_fails_ends_the_comparison(answer, error, message):
    class Process:
        cell = cells.Cell("one", CONFIG, 1.0)

        def end(self):
            return -9

    with pytest.raises(error, match=message):
        pool._check(Process(), answer)


def test_a_process_says_what_went_wrong_and_ends_with_its_lines(blobs, tmp_path, monkeypatch):
    interrupted = []
    monkeypatch.setattr(worker._thread, "interrupt_main", lambda: interrupted.append(True))
    save_dataset(blobs, tmp_path)
    (tmp_path / "bad").write_text("in the way")
    lines = [json.dumps(cells.Cell(name, CONFIG, 1.0).to_dict()) for name in ("bad", "good")]
    answers = io.StringIO()
    worker.work(tmp_path, tmp_path, io.StringIO("\n".join(lines)), answers)
    told = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert told[0] == {"refused": f"{tmp_path / 'bad'} is not a folder"}
    assert told[1:] == [{"epochs": 0}, {"epochs": 1}, {"epochs": 2}, {"outcome": None}]
    assert interrupted  # a training that nobody waits for any more


def test_a_disk_that_is_full_is_named(blobs, tmp_path, monkeypatch):
    def full(file, array, allow_pickle):
        raise OSError("1968 requested and 872 written")  # as numpy does

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        bn.BatchnormError, match=r"train-inputs\.npy cannot be written: the disk is full; jobs=1 writes no"
    ):
        save_dataset(blobs, tmp_path)


def test_no_more_trainings_at_a_time_than_memory_allows(blobs, monkeypatch):
    asked = plan.ComparisonPlan(blobs, CONFIG, VARY, 2)
    monkeypatch.setattr(training, "available_memory", lambda: 3 * 2**29 + 2**20)
    assert [training.jobs_for(asked, jobs) for jobs in (1, 2, 8)] == [1, 2, 3]
    monkeypatch.setattr(training, "available_memory", lambda: 0)
    assert training.jobs_for(asked, 2) == 1
    monkeypatch.setattr(training, "available_memory", lambda: None)
    assert training.jobs_for(asked, 500) == 8  # there are no more trainings
    with pytest.raises(bn.InputError, match="jobs is 0, expected a whole number from 1 to 1024"):
        training.jobs_for(asked, 0)


@pytest.mark.parametrize(
    "labels", [np.arange(40) % 4, np.eye(4)[np.arange(40) % 4] < 1, np.linspace(0, 1, 40).reshape(40, 1)]
)
def test_a_data_set_goes_to_other_processes_as_it_is(labels, tmp_path):
    inputs = np.random.default_rng(0).integers(0, 255, (40, 2, 2)).astype(np.uint8)
    dataset = bn.Dataset.from_arrays(inputs, labels, name="<b>", source="ö")
    save_dataset(dataset, tmp_path)
    there = load_dataset(tmp_path)
    assert (there.fingerprint, there.name, there.source) == (dataset.fingerprint, "<b>", "ö")
    assert (there.task, there.target_scale) == (dataset.task, dataset.target_scale)
    assert list(there.class_names) == list(dataset.class_names)
    there.train.inputs[:] = 0  # which changes the file for nobody
    assert load_dataset(tmp_path).fingerprint == dataset.fingerprint
