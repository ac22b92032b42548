"""A training that ends before its time: interrupted, and gone on with to the same bits; diverged, and told where."""

import dataclasses
import errno
import io
import json
import signal
import sys

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import InputError
from batchnorm.errors import DivergedError, TrainingInterrupted
from helpers import PLAIN, VARIANTS, InterruptAt, PoisonAt, make_network, run_files, same_weights, train


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_interrupted_run_goes_on_to_the_same_bits(variant, blobs, tmp_path):
    config = dataclasses.replace(PLAIN, **VARIANTS[variant])
    train(blobs, config, out=tmp_path / "undisturbed")
    with pytest.raises(TrainingInterrupted, match="interrupted in epoch 1 after step 5"):
        train(blobs, config, out=tmp_path / "stopped", monitor=InterruptAt(1, 5))
    with pytest.raises(TrainingInterrupted) as caught:  # a second time, after the last step of the epoch
        bn.resume(tmp_path / "stopped", blobs, monitor=InterruptAt(1, 12, signal.SIGTERM))
    assert caught.value.exit_code == 128 + signal.SIGTERM
    run = bn.resume(tmp_path / "stopped", blobs)
    assert run_files(tmp_path / "stopped") == run_files(tmp_path / "undisturbed")
    assert run.history == bn.load_run(tmp_path / "undisturbed").history


def test_after_an_interruption_signals_are_what_they_were(blobs):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, monitor=InterruptAt(0, 1))
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interruption_ends_at_once(blobs):
    class Twice(bn.Monitor):
        def step(self, epoch, step, loss):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second signal did not interrupt")

    with pytest.raises(KeyboardInterrupt) as caught:
        train(blobs, PLAIN, monitor=Twice())
    assert not isinstance(caught.value, TrainingInterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_that_asks_to_stop_is_answered_at_once_and_saves(number, blobs, tmp_path, capsys):
    class Stop(bn.ProgressMonitor):
        said_at_once = False

        def step(self, epoch, step, loss):
            if (epoch, step) == (1, 5):
                signal.raise_signal(number)
                self.said_at_once = "finishing this step, then saving" in capsys.readouterr().err

    monitor = Stop(lines=False)
    with pytest.raises(TrainingInterrupted, match="interrupted in epoch 1 after step 5") as caught:
        train(blobs, PLAIN, out=tmp_path / "run", monitor=monitor)
    assert caught.value.exit_code == 128 + number
    assert monitor.said_at_once
    bn.resume(tmp_path / "run", blobs)


def test_a_terminal_that_is_closed_may_say_so_twice(blobs, tmp_path):
    class Twice(bn.Monitor):
        def step(self, epoch, step, loss):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(TrainingInterrupted) as caught:
        train(blobs, PLAIN, out=tmp_path / "run", monitor=Twice())
    assert caught.value.exit_code == 129


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_the_process_ignores_stays_ignored(number, blobs):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        train(blobs, PLAIN, monitor=InterruptAt(0, 1, number))
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_a_terminal_that_is_gone_does_not_keep_a_run_from_being_saved(blobs, tmp_path, monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    class Stop(bn.ProgressMonitor):
        def step(self, epoch, step, loss):
            if (epoch, step) == (0, 5):
                monkeypatch.setattr(sys, "stderr", Gone())
                signal.raise_signal(signal.SIGHUP)

    with pytest.raises(TrainingInterrupted, match="in epoch 0 after step 5"):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=Stop(lines=False))
    bn.resume(tmp_path / "run", blobs)


def test_a_module_of_ones_own_resumes_when_it_is_given(blobs, tmp_path):
    def module():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))

    bn.fit(module(), blobs, PLAIN, out=tmp_path / "a")
    with pytest.raises(TrainingInterrupted):
        bn.fit(module(), blobs, PLAIN, out=tmp_path / "b", monitor=InterruptAt(0, 3))
    with pytest.raises(InputError, match=r"trains a torch\.nn\.modules\.container\.Sequential, which must be given"):
        bn.resume(tmp_path / "b", blobs)
    torch.manual_seed(5)
    other = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    bn.resume(tmp_path / "b", blobs, network=other)
    assert run_files(tmp_path / "a") == run_files(tmp_path / "b")


def test_a_network_with_weights_of_its_own_resumes_from_them(blobs, tmp_path):
    """Its initial weights are not the configuration's seed's: they must be in the folder from the beginning on."""

    def network():
        return bn.DenseNetwork(6, (8,), 3, generator=torch.Generator().manual_seed(99))

    class Fail(bn.Monitor):
        def begin(self, *args):
            raise KeyboardInterrupt

    bn.fit(network(), blobs, PLAIN, out=tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        bn.fit(network(), blobs, PLAIN, out=tmp_path / "b", monitor=Fail())
    bn.resume(tmp_path / "b", blobs)
    assert run_files(tmp_path / "a") == run_files(tmp_path / "b")


def test_divergence_says_where_and_keeps_the_last_good_checkpoint(blobs, tmp_path):
    network = make_network(blobs, PLAIN)
    with pytest.raises(DivergedError, match=r"the loss became nan in epoch 1, step 5, at learning rate 0\.1: try") as e:
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=PoisonAt(network[3].weight, 1, 4))
    assert str(tmp_path / "run" / "checkpoint.safetensors") in str(e.value)
    from batchnorm.training.runs.folder import RunFolder

    checkpoint = RunFolder.open(tmp_path / "run").load_checkpoint()
    assert checkpoint.state["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in checkpoint.tensors.values())
    assert not any(module.training for module in network.modules())


def test_weights_that_overflow_in_an_epochs_last_step_are_not_saved(blobs, tmp_path):
    network = make_network(blobs, PLAIN)
    with pytest.raises(DivergedError, match="a weight became NaN or infinite in epoch 1"):
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=PoisonAt(network[0].weight, 1, 12))
    run = bn.resume(tmp_path / "run", blobs)
    assert same_weights(run.network, train(blobs, PLAIN).network)


def test_a_learning_rate_too_large_is_told(blobs):
    config = dataclasses.replace(PLAIN, normalization="none", learning_rate=1e30)
    with pytest.raises(DivergedError, match=r"in epoch 0.*1e\+30: try a smaller learning_rate or normaliz"):
        train(blobs, config)


ONE_STEP = bn.TrainingConfig(
    hidden_layer_sizes=(8, 8), normalization="none", epochs=2, batch_size=300, learning_rate=1e30, momentum=0.0,
    nesterov=False, schedule="constant",
)  # fmt: skip


def test_a_step_whose_loss_and_weights_are_finite_may_still_have_diverged(blobs, tmp_path):
    with pytest.raises(DivergedError, match="the evaluated loss became nan in epoch 0, step 1, at learning rate 1e"):
        train(blobs, ONE_STEP, out=tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    with pytest.raises(DivergedError):
        bn.resume(tmp_path / "run", blobs)  # from the last good checkpoint, the beginning


def test_one_of_several_seeds_that_diverges_ends_them(blobs, tmp_path):
    from batchnorm.training import fit_seeds

    with pytest.raises(DivergedError, match="the evaluated loss became nan"):
        fit_seeds(blobs, ONE_STEP, 2, out=tmp_path / "many")
    assert not (tmp_path / "many" / "summary.json").exists()


def test_a_test_whose_loss_is_not_a_number_finishes_no_run(blobs, tmp_path):
    class Outliers(nn.Module):
        """Finite on what it is trained and validated on, not on the test set."""

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 3)

        def forward(self, x):
            logits = self.linear(x)
            return logits * torch.nan if torch.equal(x, blobs.test.batch(slice(None))[0]) else logits

    with pytest.raises(DivergedError, match="the loss on the test set is nan"):
        bn.fit(Outliers(), blobs, PLAIN, out=tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    for path in (tmp_path / "run").glob("*.json*"):
        for text in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(text, parse_constant=pytest.fail)


def test_an_interruption_never_saves_a_poisoned_network(blobs, tmp_path):
    class PoisonAndStop(PoisonAt):
        def step(self, epoch, step, loss):
            super().step(epoch, step, loss)
            if (epoch, step) == self.at:
                signal.raise_signal(signal.SIGINT)

    network = make_network(blobs, PLAIN)
    with pytest.raises(DivergedError, match="a weight became NaN or infinite in epoch 1, step 4"):
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=PoisonAndStop(network[0].weight, 1, 4))
    assert same_weights(bn.resume(tmp_path / "run", blobs).network, train(blobs, PLAIN).network)


def test_an_interruption_during_the_last_evaluation_is_not_lost(blobs, tmp_path, monkeypatch):
    class StopAtTheEnd(bn.Monitor):
        def evaluated(self, record):
            if record["epoch"] == 2:
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="in epoch 3 after step 0"):
        train(blobs, PLAIN, out=tmp_path / "stopped", monitor=StopAtTheEnd())
    bn.resume(tmp_path / "stopped", blobs)
    train(blobs, PLAIN, out=tmp_path / "undisturbed")
    assert run_files(tmp_path / "stopped") == run_files(tmp_path / "undisturbed")


def test_what_was_evaluated_is_saved_before_it_is_told(blobs, tmp_path):
    class Fails(bn.Monitor):
        def evaluated(self, record):
            raise OSError("nobody reads this any more")

    with pytest.raises(OSError, match="nobody reads"):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=Fails())
    from batchnorm.training.runs.folder import RunFolder

    assert RunFolder.open(tmp_path / "run").load_checkpoint().state["epoch"] == 1
