"""Event files, read back with TensorBoard's own reader."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.errors import BatchnormError, MissingPackageError, TrainingInterrupted
from helpers import PLAIN, InterruptAt, train


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    return found.Reload()


@pytest.fixture(scope="module")
def events(blobs, tmp_path_factory):
    """A run that was stopped and went on, and what TensorBoard reads of it."""
    folder = tmp_path_factory.mktemp("tensorboard")
    monitors = [bn.Monitors(InterruptAt(1, 2), bn.TensorBoardMonitor(folder / "events")) for _ in range(2)]
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, out=folder / "run", monitor=monitors[0])
    run = bn.resume(folder / "run", blobs, monitor=monitors[1]._monitors[1])
    return run, read(folder / "events")


def test_tensorboard_reads_each_evaluation_once(events):
    run, found = events
    for tag, name in {
        "Loss/train": "train_loss", "Loss/validation": "validation_loss", "Accuracy/validation": "validation_accuracy",
        "Loss/step": "step_loss", "learning_rate": "learning_rate",
    }.items():  # fmt: skip
        values = [(event.step, event.value) for event in found.Scalars(tag)]
        assert values == [(record["step"], pytest.approx(record[name])) for record in run.history]
    for tag, kind in {"Accuracy/test": "running", "Accuracy/test_population": "population"}.items():
        (last,) = found.Scalars(tag)
        assert (last.step, last.value) == (
            run.history[-1]["step"],
            pytest.approx(run.results["test"][kind]["accuracy"]),
        )


def test_tensorboard_reads_each_look_once(events):
    run, found = events
    gradients = [(event.step, event.value) for event in found.Scalars("gradient_norm/0")]
    assert gradients == [(look["step"], pytest.approx(look["layers"][0]["gradient_norm"])) for look in run.layers]
    for tag, kind in {
        "pre_activations/0": "before", "normalized/3": "after", "activations/0": "outputs", "gradients/0": "gradient",
    }.items():  # fmt: skip
        for event, look in zip(found.Histograms(tag), run.layers, strict=True):
            layer = next(layer for layer in look["layers"] if layer["name"] == tag[-1])
            assert event.step == look["step"]
            assert event.histogram_value.num == sum(layer[kind]["counts"])
            assert event.histogram_value.min == layer[kind]["low"]


class Raising(nn.Linear):
    def forward(self, x):
        if self.training:
            raise RuntimeError("no")
        return super().forward(x)


def test_nothing_is_written_before_anything_is_saved(blobs, tmp_path):
    monitor = bn.TensorBoardMonitor(tmp_path / "run" / "tensorboard")
    with pytest.raises(bn.InputError, match="cannot be trained: no"):
        bn.fit(Raising(6, 3), blobs, PLAIN, out=tmp_path / "run", monitor=monitor, observe=False)
    assert not (tmp_path / "run").exists()


def test_several_seeds_have_a_folder_each(blobs, tmp_path):
    monitor = bn.TensorBoardMonitor(tmp_path / "events", seeds=True)
    config = dataclasses.replace(PLAIN, epochs=1)
    bn.training.fit_seeds(blobs, config, 2, out=tmp_path / "runs", monitor=monitor)
    assert sorted(path.name for path in (tmp_path / "events").iterdir()) == ["seed-0", "seed-1"]
    assert len(read(tmp_path / "events" / "seed-1").Scalars("Loss/train")) == 1


def test_several_values_and_what_is_not_finite(tmp_path):
    monitor = bn.TensorBoardMonitor(tmp_path)
    monitor.begin(PLAIN, 1, 0, 0)
    monitor.evaluated(
        {"step": 3, "learning_rate": 0.1, "step_loss": float("nan"), "train_r2": None, "train_rmse": [1.0, 2.0]}
    )
    network = bn.DenseNetwork(4, (3,), 2)
    with torch.no_grad():
        network[0].weight[0] = float("inf")
    layers = bn.observe_layers(network, torch.randn(9, 4), torch.arange(9) % 2)
    monitor.looked({"epoch": 0, "step": 3, "layers": list(layers)})
    monitor.end()
    found = read(tmp_path)
    assert [found.Scalars(f"RMSE/train/{i}")[0].value for i in range(2)] == [1.0, 2.0]
    assert "R2/train" not in found.Tags()["scalars"]
    assert found.Histograms("pre_activations/0")[0].histogram_value.num == 18


def test_the_folder_is_checked_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(bn.InputError, match="which is a file"):
        bn.TensorBoardMonitor(tmp_path / "file")
    with pytest.raises(BatchnormError, match="cannot be written"):
        bn.TensorBoardMonitor(tmp_path / "file" / "below").finished({"test": {"running": {"loss": 1.0}}})


def test_without_tensorboard_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'batchnorm\[tensorboard\]'"):
        bn.TensorBoardMonitor(tmp_path)


def test_monitors_are_checked():
    with pytest.raises(bn.InputError, match="there are no monitors"):
        bn.Monitors()
    with pytest.raises(bn.InputError, match="monitor is of class int"):
        bn.Monitors(bn.Monitor(), 3)


def test_metrics_are_the_history_as_a_frame(events, monkeypatch):
    run, _ = events
    assert run.metrics.to_dict("records") == run.history
    assert list(run.metrics["epoch"]) == [0, 1, 2]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match=r"pip install pandas, or use Run.history"):
        _ = run.metrics


def test_the_command_line_writes_it_beside_the_run(command, tmp_path):
    options = ("--epochs", "2", "--evaluate-every", "1", "--hidden-layer-sizes", "4", "--quiet", "--tensorboard")
    code, _, err = command("train", "digits", *options, "--out", "run")
    assert (code, err) == (0, "")
    assert [event.step for event in read(tmp_path / "run" / "tensorboard").Scalars("Loss/train")] == [
        record["step"] for record in bn.load_run(tmp_path / "run").history
    ]
    code, _, err = command("train", "--resume", "run", "--quiet", "--tensorboard")  # tells it all again
    assert (code, err) == (0, "")
    code, out, err = command("runs", "run")
    assert (code, err) == (0, "")
    assert "finished" in out
    # Last, as the reader tells standard error that there are two beginnings.
    assert len(read(tmp_path / "run" / "tensorboard").Scalars("Loss/train")) == 2


def test_a_training_on_a_table_has_no_event_files(command, tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n" + "1,2\n" * 20)
    code, _, err = command("train", "t.csv", "--target", "y", "--tensorboard")
    assert code == 2
    assert "--tensorboard" in err
