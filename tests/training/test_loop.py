"""The training loop: what a step computes, what an epoch sees, when it evaluates, and that it repeats to the bit."""

import copy
import dataclasses
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import Examples, functional
from batchnorm.training import loop
from batchnorm.training.engines.autograd import AutogradEngine, make_optimizer
from batchnorm.training.loop import batch_slices
from helpers import PLAIN, VARIANTS, make_network, same_weights, train


class Recorder(bn.Monitor):
    def __init__(self):
        self.calls = []

    def step(self, epoch, step, loss):
        self.calls.append(("step", epoch, step))

    def evaluated(self, record):
        self.calls.append(("evaluated", record["epoch"]))

    def finished(self, results):
        self.calls.append(("finished",))

    def end(self):
        self.calls.append(("end",))


def test_an_epoch_is_the_written_formula_applied_step_by_step(blobs):
    """One epoch by hand in float64: forward, cross-entropy, the written gradient, SGD, running averages."""
    config = dataclasses.replace(PLAIN, epochs=1)
    network = make_network(blobs, config)
    w1, w2 = network[0].weight.detach().double(), network[3].weight.detach().double()
    norms = [
        {"weight": torch.ones(n).double(), "bias": torch.zeros(n).double(),
         "mean": torch.zeros(n).double(), "var": torch.ones(n).double()} for n in (8, 3)
    ]  # fmt: skip
    order = loop._random(config.seed, 1, 0).permutation(len(blobs.train))
    for batch in batch_slices(len(blobs.train), config.batch_size):
        x, labels = blobs.train.batch(torch.from_numpy(order[batch]))
        x = x.double()  # (batch, 6)
        z1 = x @ w1.T  # (batch, 8)
        y1, moments1 = functional.batch_norm(z1, norms[0]["weight"], norms[0]["bias"])
        a1 = y1.clamp(min=0)
        z2 = a1 @ w2.T  # (batch, 3)
        logits, moments2 = functional.batch_norm(z2, norms[1]["weight"], norms[1]["bias"])
        grad_logits = (logits.softmax(1) - F.one_hot(labels, 3)) / len(labels)
        grad_z2, *grads2 = functional.batch_norm_backward(grad_logits, z2, moments2, norms[1]["weight"])
        grad_y1 = (grad_z2 @ w2) * (y1 > 0)
        grad_z1, *grads1 = functional.batch_norm_backward(grad_y1, z1, moments1, norms[0]["weight"])
        w2 = w2 - 0.1 * grad_z2.T @ a1
        w1 = w1 - 0.1 * grad_z1.T @ x
        for norm, moments, grads in zip(norms, (moments1, moments2), (grads1, grads2), strict=True):
            norm["weight"], norm["bias"] = norm["weight"] - 0.1 * grads[0], norm["bias"] - 0.1 * grads[1]
            norm["mean"] = 0.9 * norm["mean"] + 0.1 * moments.mean
            norm["var"] = 0.9 * norm["var"] + 0.1 * moments.var  # biased: TensorFlow's convention

    bn.fit(network, blobs, config)
    torch.testing.assert_close(network[0].weight.double(), w1, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(network[3].weight.double(), w2, rtol=1e-4, atol=1e-5)
    for layer, norm in zip((network[1], network[4]), norms, strict=True):
        for ours, theirs in ((layer.weight, "weight"), (layer.bias, "bias"), (layer.running_mean, "mean"),
                             (layer.running_var, "var")):  # fmt: skip
            torch.testing.assert_close(ours.double(), norm[theirs], rtol=1e-4, atol=1e-5)


def test_it_learns(blobs):
    run = train(blobs, dataclasses.replace(PLAIN, epochs=10))
    assert run.history[0]["train_accuracy"] < run.history[-1]["train_accuracy"]
    assert run.test_accuracy >= 0.8  # chance is a third


def test_the_running_statistics_cannot_be_forgotten(blobs):
    run = train(blobs, PLAIN)
    steps = 3 * len(batch_slices(len(blobs.train), 20))
    for layer in run.network:
        if isinstance(layer, nn.BatchNorm1d):
            assert layer.num_batches_tracked == steps
            assert not torch.equal(layer.running_mean, torch.zeros_like(layer.running_mean))


def test_every_epoch_sees_every_example_once_in_a_new_order(blobs, monkeypatch):
    seen = []

    class Engine(AutogradEngine):
        def step(self, indices, learning_rate):
            seen.append(indices.tolist())
            return super().step(indices, learning_rate)

    monkeypatch.setattr(loop, "make_engine", lambda *args, **_: Engine(*args))
    config = dataclasses.replace(PLAIN, batch_size=239, epochs=2)  # 240 examples: 239 + 1, the 1 merged
    train(blobs, config)
    assert [len(indices) for indices in seen] == [240, 240]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(240))
    assert seen[0] != seen[1]
    assert seen[0] != list(range(240))


@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(10, 5, [5, 5]), (11, 5, [5, 6]), (12, 5, [5, 5, 2]), (3, 2, [3]), (3, 5, [3]), (3, 1, [1, 1, 1]), (2, 2, [2])],
)
def test_a_last_batch_of_one_is_merged(n, size, lengths):
    slices = batch_slices(n, size)
    assert [s.stop - s.start for s in slices] == lengths
    assert np.concatenate([np.arange(n)[s] for s in slices]).tolist() == list(range(n))


def test_evaluates_every_k_epochs_and_after_the_last(blobs):
    recorder = Recorder()
    run = train(blobs, dataclasses.replace(PLAIN, epochs=6, evaluate_every=2), monitor=recorder)
    assert [record["epoch"] for record in run.history] == [0, 2, 4, 5]
    evaluations = [i for i, call in enumerate(recorder.calls) if call[0] == "evaluated"]
    assert [recorder.calls[i - 1] for i in evaluations] == [("step", e, 12) for e in (0, 2, 4, 5)]
    assert recorder.calls[-2:] == [("finished",), ("end",)]


@torch.no_grad()
def test_records_are_inference_mode_measurements_of_the_whole_parts(blobs):
    run = train(blobs, PLAIN)
    for part, name in ((blobs.train, "train"), (blobs.validation, "validation")):
        logits = run.network(part.inputs)  # in inference mode
        last = run.history[-1]
        assert last[f"{name}_accuracy"] == (logits.argmax(1) == part.labels).double().mean().item()
        assert last[f"{name}_loss"] == pytest.approx(F.cross_entropy(logits, part.labels).item(), rel=1e-5)
    assert last["step"] == 36


def test_the_test_set_is_touched_once_at_the_end(blobs):
    log = []

    class Watched(Examples):
        def batch(self, indices):
            log.append(log_name[id(self.labels)])
            return super().batch(indices)

    log_name = {}
    parts = []
    for name, part in blobs.parts.items():
        watched = Watched(part.inputs, part.labels, part.scale)
        log_name[id(watched.labels)] = name
        parts.append(watched)
    dataset = bn.Dataset("watched", *parts, class_names=blobs.class_names)
    train(dataset, PLAIN)
    first = log.index("test")
    assert log[first:] == ["test", "test"]  # with running averages, and with population statistics
    assert log.count("validation") == PLAIN.epochs


@torch.no_grad()
def test_population_statistics_are_those_of_the_network_that_is_evaluated(blobs):
    run = train(blobs, PLAIN)
    twin = copy.deepcopy(run.network).double()
    x = blobs.train.inputs.double()
    for name in ("1", "4"):  # in order: the second layer's input passes the first with its population statistics
        x_in = twin[: int(name)](x)
        twin[int(name)].running_mean.copy_(x_in.mean(0))
        twin[int(name)].running_var.copy_(x_in.var(0, correction=0))
        for buffer in ("running_mean", "running_var"):
            expected = twin.state_dict()[f"{name}.{buffer}"].float()
            torch.testing.assert_close(run.population[f"{name}.{buffer}"], expected, rtol=1e-5, atol=1e-6)
    logits = twin(blobs.test.inputs.double())
    assert (
        run.results["test"]["population"]["accuracy"] == (logits.argmax(1) == blobs.test.labels).double().mean().item()
    )
    assert run.results["test"]["population"]["loss"] == pytest.approx(F.cross_entropy(logits, blobs.test.labels).item())
    assert not torch.equal(run.network[1].running_mean, run.population["1.running_mean"])


def test_without_batch_norm_there_are_no_population_statistics(blobs):
    run = train(blobs, dataclasses.replace(PLAIN, normalization="none"))
    assert run.population == {}
    assert list(run.results["test"]) == ["running"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_same_seed_gives_the_same_bits_whatever_torchs_generator_holds(variant, blobs):
    config = dataclasses.replace(PLAIN, **VARIANTS[variant])
    torch.manual_seed(1)
    a = train(blobs, config)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    b = train(blobs, config)
    c = train(blobs, dataclasses.replace(config, seed=1))
    assert same_weights(a.network, b.network)
    assert a.history == b.history
    assert not same_weights(a.network, c.network)
    if variant == "plain":  # building a torch layer draws from torch's generator, training does not
        network = make_network(blobs, config)
        before = torch.get_rng_state()
        bn.fit(network, blobs, dataclasses.replace(config, dropout=0.5))
        assert torch.equal(torch.get_rng_state(), before)


def test_with_several_threads_too():
    """On a network large enough for torch to share its work out."""
    labels = torch.arange(1250) % 10
    inputs = torch.randn(1250, 784, generator=torch.Generator().manual_seed(0)) + labels[:, None] / 10
    images = bn.Dataset.from_arrays(inputs.numpy(), labels.numpy(), name="images")
    config = dataclasses.replace(bn.recipes["classic"], epochs=2, batch_size=250)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        a, b = (train(images, config) for _ in range(2))
    finally:
        torch.set_num_threads(before)
    assert same_weights(a.network, b.network)
    assert a.results == b.results


def test_trains_in_another_thread(blobs):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train(blobs, PLAIN)))
    thread.start()
    thread.join()
    assert same_weights(runs[0].network, train(blobs, PLAIN).network)


def test_early_stopping_keeps_the_best_weights(blobs):
    config = dataclasses.replace(PLAIN, epochs=60, learning_rate=0.5, early_stopping_patience=3)
    run = train(blobs, config)
    accuracies = [record["validation_accuracy"] for record in run.history]
    assert run.results["stopped_early"]
    assert run.results["epochs"] == len(accuracies) < 60
    best = accuracies.index(max(accuracies))
    assert len(accuracies) - 1 - best == 3
    assert bn.evaluate(run.network, blobs.validation).accuracy == max(accuracies)
    shorter = train(blobs, dataclasses.replace(config, epochs=best + 1, early_stopping_patience=None))
    assert same_weights(run.network, shorter.network)


def test_weight_decay_leaves_batch_norm_and_biases_alone(blobs):
    network = bn.DenseNetwork(6, (8,), 3)
    for name in ("sgd", "adamw"):
        optimizer = make_optimizer(network, dataclasses.replace(PLAIN, optimizer=name, weight_decay=0.1))
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        by_name = {name: decays[id(p)] for name, p in network.named_parameters()}
        assert by_name == {"0.weight": 0.1, "1.weight": 0.0, "1.bias": 0.0, "3.weight": 0.1, "3.bias": 0.0}


@pytest.mark.parametrize("variant", ["momentum", "nesterov and dropout", "adamw", "smoothing"])
def test_a_step_is_torchs_own(variant, blobs):
    config = dataclasses.replace(PLAIN, weight_decay=0.01, dropout=0.0) if variant != "adamw" else PLAIN
    config = dataclasses.replace(config, **{**VARIANTS[variant], "dropout": 0.0})
    network, twin = (make_network(blobs, config) for _ in range(2))
    engine = AutogradEngine(network, blobs.train, config)
    groups = [
        {"params": [p for p in twin.parameters() if p.dim() == 2], "weight_decay": config.weight_decay},
        {"params": [p for p in twin.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=0.05)
    else:
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=config.momentum, nesterov=config.nesterov)
    twin.train()
    for step in range(4):
        indices = np.arange(step * 20, step * 20 + 20)
        loss = engine.step(indices, 0.05)
        inputs, labels = blobs.train.batch(torch.from_numpy(indices))
        expected = F.cross_entropy(twin(inputs), labels, label_smoothing=config.label_smoothing)
        optimizer.zero_grad()
        expected.backward()
        optimizer.step()
        assert loss == expected.item()
    assert same_weights(network, twin)


def test_the_schedule_sets_the_rate_of_every_step(blobs, monkeypatch):
    rates = []

    class Engine(AutogradEngine):
        def step(self, indices, learning_rate):
            rates.append(learning_rate)
            return super().step(indices, learning_rate)

    monkeypatch.setattr(loop, "make_engine", lambda *args, **_: Engine(*args))
    run = train(blobs, dataclasses.replace(PLAIN, schedule="one-cycle"))
    from batchnorm.training.schedules import learning_rate

    assert rates == [learning_rate("one-cycle", 0.1, step, 36) for step in range(36)]
    assert [record["learning_rate"] for record in run.history] == [rates[11], rates[23], rates[35]]


def test_a_monitor_may_change_what_it_is_told(blobs, tmp_path):
    class Takes(bn.Monitor):
        def evaluated(self, record):
            record.clear()

        def finished(self, results):
            results["test"].clear()

    run = train(blobs, PLAIN, out=tmp_path / "run", monitor=Takes())
    assert [record["epoch"] for record in run.history] == [0, 1, 2]
    again = bn.resume(tmp_path / "run", blobs, monitor=Takes())
    assert (again.history, again.results) == (run.history, run.results)
