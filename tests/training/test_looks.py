"""What a training sees of its layers on the way, and that it trains as if nobody looked."""

import copy
import dataclasses
import json
import math
import random
import shutil

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.dynamics import Observer, sample_of, thinned
from batchnorm.errors import DivergedError, TrainingInterrupted
from batchnorm.training.runs import RunFolder, list_runs
from helpers import (
    PLAIN,
    VARIANTS,
    InterruptAt,
    PoisonAt,
    make_network,
    plain,
    run_files,
    same_weights,
    seal_as_it_is,
    train,
)


class Weights(bn.Monitor):
    """Keeps the first weight after each step."""

    def __init__(self, weight):
        self.weight, self.kept, self.looks = weight, [], []

    def step(self, epoch, step, loss):
        self.kept.append(self.weight.detach().clone())

    def looked(self, look):
        self.looks.append(look)


class Warnings(bn.Monitor):
    def __init__(self):
        self.texts = []

    def warn(self, message):
        self.texts.append(message)


@pytest.fixture(scope="module")
def begun(blobs, tmp_path_factory):
    """A run with looks, its folder, and what a monitor was told."""
    network = make_network(blobs, PLAIN)
    monitor = Weights(network[0].weight)
    return bn.fit(network, blobs, PLAIN, out=tmp_path_factory.mktemp("runs") / "run", monitor=monitor), monitor


@pytest.mark.parametrize("variant", ["nesterov and dropout", "noise", "autograd"])
def test_looks_change_nothing_of_what_is_trained(variant, blobs):
    config = dataclasses.replace(PLAIN, **VARIANTS[variant])
    seen, unseen = (train(blobs, config, observe=observe) for observe in (True, False))
    assert len(seen.layers) == 4
    assert unseen.layers == []
    assert same_weights(seen.network, unseen.network)
    assert seen.history == unseen.history
    assert seen.results == unseen.results


def test_looks_change_nothing_of_a_module_that_draws_from_torch(blobs):
    network, state = nn.Sequential(nn.Dropout(0.2), *plain()), torch.get_rng_state()
    runs = [bn.fit(copy.deepcopy(network), blobs, PLAIN, observe=observe) for observe in (True, False)]
    assert same_weights(*(run.network for run in runs))
    assert len(runs[0].layers) == 4
    assert torch.equal(state, torch.get_rng_state())


class DrawnElsewhere(nn.Sequential):
    """Draws from the generators of numpy and Python, as models do that drop whole layers."""

    def forward(self, x):
        return super().forward(x) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())


def normalised_by_power_iterations():
    """A weight whose buffers move each time that it is read in training mode."""
    layer, *others = plain()
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(layer), *others)


@pytest.mark.parametrize("make", [lambda: DrawnElsewhere(*plain()), normalised_by_power_iterations])
def test_looks_change_nothing_of_a_module_that_draws_elsewhere_or_moves_when_it_is_read(make, blobs):
    network, runs = make(), []
    for observe in (True, False):
        random.seed(0)
        np.random.seed(0)
        runs.append(bn.fit(copy.deepcopy(network), blobs, PLAIN, observe=observe))
    assert same_weights(*(run.network for run in runs))
    assert runs[0].history == runs[1].history
    assert len(runs[0].layers) == 4


def test_there_is_a_look_at_the_start_and_at_each_evaluation(begun):
    run, monitor = begun
    n_steps = len(monitor.kept) // PLAIN.epochs
    assert [(look["epoch"], look["step"]) for look in run.layers] == [
        (-1, 0), (0, n_steps), (1, 2 * n_steps), (2, 3 * n_steps)
    ]  # fmt: skip
    assert [[layer["name"] for layer in look["layers"]] for look in run.layers] == [["0", "3"]] * 4
    assert monitor.looks == run.layers
    assert bn.load_run(run.path).layers == run.layers


def test_the_update_ratio_is_that_of_the_last_step(begun):
    run, monitor = begun
    assert [layer["update_ratio"] for layer in run.layers[0]["layers"]] == [None, None]
    for look in run.layers[1:]:
        before, after = monitor.kept[look["step"] - 2], monitor.kept[look["step"] - 1]
        expected = ((after - before).norm() / before.norm()).item()
        assert look["layers"][0]["update_ratio"] == pytest.approx(expected, rel=1e-4)


def test_the_last_look_is_that_of_the_trained_network(begun):
    run, _ = begun
    first = run.layers[-1]["layers"][0]
    assert first["weight_norm"] == pytest.approx(run.network[0].weight.norm().item(), rel=1e-4)
    assert first["running_mean"][0] == pytest.approx(run.network[1].running_mean.min().item(), rel=1e-4)


def test_it_is_asked_for_or_follows_from_a_run_folder(blobs, tmp_path):
    assert train(blobs, PLAIN).layers == []
    assert train(blobs, PLAIN, out=tmp_path / "without", observe=False).layers == []
    assert not (tmp_path / "without" / "layers.jsonl").exists()
    altered = make_network(blobs, PLAIN).append(nn.Identity())
    assert bn.fit(altered, blobs, PLAIN, out=tmp_path / "altered").layers == []


@pytest.mark.parametrize(("epoch", "step"), [(0, 1), (1, 2), (1, None), (2, None)])
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_run_that_goes_on_looks_as_if_it_had_never_stopped(epoch, step, engine, blobs, begun, tmp_path):
    config = dataclasses.replace(PLAIN, engine=engine)
    n_steps = len(begun[1].kept) // PLAIN.epochs
    train(blobs, config, out=tmp_path / "whole")
    with pytest.raises(TrainingInterrupted):
        train(blobs, config, out=tmp_path / "run", monitor=InterruptAt(epoch, step or n_steps))
    assert "interrupted" in list_runs(tmp_path / "run")[0]["ended"]
    monitor = Weights(torch.zeros(1))
    run = bn.resume(tmp_path / "run", blobs, monitor=monitor)
    assert run_files(tmp_path / "run") == run_files(tmp_path / "whole")
    assert monitor.looks == run.layers
    assert len(run.layers) == 4
    assert list_runs(tmp_path / "run")[0]["ended"] is None


def test_a_run_without_looks_goes_on_without(blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        train(blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(1, 2))
    (tmp_path / "run" / "layers.jsonl").unlink()  # as of an earlier version
    assert bn.resume(tmp_path / "run", blobs).layers == []
    assert not (tmp_path / "run" / "layers.jsonl").exists()
    RunFolder.open(tmp_path / "run").verify()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda look: look.update(epoch=-2), "epoch is -2"),
        (lambda look: look["layers"][0]["before"]["counts"].pop(), "a list of 40"),
        (lambda look: look["layers"][0].update(dead=2), "dead is 2"),
        (lambda look: look.update(more=1), "unknown fields: more"),
    ],
)
def test_a_look_is_read_as_strictly_as_anything(change, said, begun, tmp_path):
    shutil.copytree(begun[0].path, tmp_path / "run")
    path = tmp_path / "run" / "layers.jsonl"
    first, *rest = path.read_text().splitlines()
    look = json.loads(first)
    change(look)
    path.write_text("\n".join([json.dumps(look), *rest]) + "\n")
    with pytest.raises(bn.InputError, match="does not have the checksum"):
        bn.load_run(tmp_path / "run")
    seal_as_it_is(tmp_path / "run")
    with pytest.raises(bn.InputError, match=said):
        RunFolder.open(tmp_path / "run").verify()


def test_edited_looks_are_accepted(begun, tmp_path):
    shutil.copytree(begun[0].path, tmp_path / "run")
    path = tmp_path / "run" / "layers.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    RunFolder.open(tmp_path / "run", trusting=True).reseal()
    assert bn.load_run(tmp_path / "run").layers == begun[0].layers[1:]


class Raising(nn.Module):
    """A module that takes no batch as large as a look's."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        if len(x) > 30 and self.training:
            raise RuntimeError("too many")
        return self.net(x)


def test_where_a_look_fails_the_training_goes_on(blobs):
    monitor = Warnings()
    network = Raising(plain())
    run = bn.fit(network, blobs, PLAIN, observe=True, monitor=monitor)
    assert monitor.texts == ["the layers are not looked into: the model cannot be looked into: too many"]
    assert run.layers == []


def test_a_long_training_has_some_25_looks(blobs):
    config = dataclasses.replace(PLAIN, epochs=60, evaluate_every=2, batch_size=100)
    epochs = [look["epoch"] for look in train(blobs, config, observe=True).layers]
    assert epochs == [-1, *range(0, 60, 4), 59]


def test_a_deep_network_is_looked_into_less_often(blobs):
    assert thinned(range(7), 3) == [0, 3, 6]
    assert thinned([0], 3) == [0]
    for n_layers, due in ((1, {-1, *range(10)}), (800, {-1, 0, 2, 4, 6, 8, 9}), (1001, set())):
        network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(n_layers)))
        assert Observer(network, blobs.train, np.arange(2), None, range(10), None)._due == due


def test_the_sample_is_at_most_five_hundred_and_of_large_examples_fewer():
    random = np.random.default_rng(0)
    assert sample_of(7, 10, random).tolist() == list(range(7))
    assert len(set(sample_of(50_000, 784, random).tolist())) == 500
    assert len(sample_of(50_000, 150_000, random)) == 32


def test_a_run_that_diverged_says_so(blobs, tmp_path):
    network = make_network(blobs, PLAIN)
    with pytest.raises(DivergedError) as raised:
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=PoisonAt(network[0].weight, 1, 1))
    assert RunFolder.open(tmp_path / "run").load_sessions()[-1]["ended"] == str(raised.value)
    (row,) = list_runs(tmp_path / "run")
    assert (row["state"], row["ended"]) == ("stopped", str(raised.value))
    assert [look["epoch"] for look in RunFolder.open(tmp_path / "run").load_looks()] == [-1, 0]


@pytest.mark.parametrize("kind", ["labels", "values", "pixels", "float64", "no hidden layer"])
def test_all_kinds_of_data_are_looked_at(kind, blobs):
    inputs, labels = blobs.train.inputs.float().numpy(), blobs.train.labels.numpy()
    config, dtype = PLAIN, torch.float32
    if kind == "labels":
        labels = labels[:, None] == [[0, 1]]
    elif kind == "values":
        labels = inputs[:, :2] * 1e6
    elif kind == "pixels":
        inputs = (inputs * 10 + 128).clip(0, 255).astype("uint8")
    elif kind == "float64":
        dtype = torch.float64
    else:
        config = dataclasses.replace(PLAIN, hidden_layer_sizes=())
    dataset = bn.Dataset.from_arrays(inputs, labels)
    network = make_network(dataset, config).to(dtype)
    for look in bn.fit(network, dataset, config, observe=True).layers:
        assert 0 < look["layers"][0]["gradient_norm"] < 100
        assert math.isfinite(look["layers"][0]["before"]["sd"])
