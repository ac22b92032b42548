"""The fused engine's step: what it allocates, calls, captures, updates and refuses."""

import dataclasses
import gc
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import batchnorm as bn
from batchnorm import Examples
from batchnorm.kernels import tensors as operators
from engine_pairs import BASE, OPTIMIZERS, engines, examples, steps
from helpers import PLAIN, make_network, same_weights


def test_a_step_is_captured_once_per_size_of_batch(monkeypatch):
    """What a CUDA device would do: after a few steps one graph is launched in place of the calls."""
    graphs = []

    def captured(run):
        graphs.append(0)
        number = len(graphs) - 1

        def replay():
            graphs[number] += 1
            run()

        return replay

    monkeypatch.setattr(operators, "captured", lambda run, device: captured(run))
    config = dataclasses.replace(BASE, schedule="one-cycle", **OPTIMIZERS["adamw"])
    data = examples()
    engine, plain = engines(config, data, operators)[0], engines(config, data, operators)[0]
    engine._captures = True
    rates = np.linspace(0.001, 0.01, 12)  # a graph must not hold on to the rate of its first step
    for i, rate in enumerate(rates):
        size = 24 if i % 2 else 8
        losses = [e.step(np.arange(size) + i, rate) for e in (engine, plain)]
        assert losses[0] == losses[1]
    assert graphs == [3, 3]
    assert same_weights(engine.network, plain.network)


def traced_peak(run):
    """Return by how many bytes Python's memory grows at most while something runs."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_allocates_nothing(optimizer):
    config = dataclasses.replace(
        BASE, hidden_layer_sizes=(1024, 1024), batch_size=64, dropout=0.1, input_noise=0.1, **OPTIMIZERS[optimizer]
    )
    engine, autograd = engines(config, examples(300))
    indices = np.arange(64)
    for e in (engine, autograd):
        e.step(indices, 0.01)

    def five_steps(e):
        for _ in range(5):
            e.step(indices, 0.01)

    def allocated_tensors(e):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as tensors:
            five_steps(e)
        return sum(max(0, event.self_cpu_memory_usage) for event in tensors.key_averages())

    assert allocated_tensors(engine) == 0
    # What other threads allocate meanwhile counts too, pytest-xdist's now and then: it can only add.
    of_arrays = min(traced_peak(lambda: five_steps(engine)) for _ in range(5))
    assert of_arrays < 2000  # a few Python objects; the smallest buffer of a hidden layer has 4,096 bytes
    assert allocated_tensors(autograd) > 64 * 1024 * 4  # so that the measurement sees what there is


def test_a_step_does_no_python_work_that_grows_with_the_batch():
    def lines(batch_size):
        config = dataclasses.replace(BASE, batch_size=batch_size, dropout=0.1, input_noise=0.1)
        engine, _ = engines(config, examples(1200))
        engine.step(np.arange(batch_size), 0.01)
        count = 0

        def tracer(frame, event, arg):
            nonlocal count
            count += 1
            return tracer

        before = sys.gettrace()  # that of a measurement of coverage, or of a debugger
        gc.disable()  # it may call Python, such as hypothesis's clock, at any moment
        sys.settrace(tracer)
        try:
            engine.step(np.arange(batch_size), 0.01)
        finally:
            sys.settrace(before)
            gc.enable()
        return count

    assert lines(8) == lines(1000)


def test_the_engines_take_up_each_others_state():
    for optimizer in OPTIMIZERS:
        config = dataclasses.replace(BASE, **OPTIMIZERS[optimizer])
        fused, autograd = engines(config, examples())
        reference, _ = engines(config, examples())
        steps(reference, 5, 0.01)
        steps(fused, 5, 0.01)
        autograd.network.load_state_dict(fused.network.state_dict())
        autograd.load_state_dict(fused.state_dict())
        back, _ = engines(config, examples())
        expected = [reference.step(np.arange(i, i + 20), 0.01) for i in range(5)]
        assert [autograd.step(np.arange(i, i + 20), 0.01) for i in range(5)] == pytest.approx(expected, rel=1e-5)
        back.network.load_state_dict(autograd.network.state_dict())
        back.load_state_dict(autograd.state_dict())
        expected = [reference.step(np.arange(i, i + 20), 0.01) for i in range(5)]
        assert [back.step(np.arange(i, i + 20), 0.01) for i in range(5)] == pytest.approx(expected, rel=1e-5)


def test_a_foreign_state_is_refused():
    fused, _ = engines(dataclasses.replace(BASE, **OPTIMIZERS["adamw"]), examples())
    with pytest.raises(ValueError, match=r"the optimiser's state has \['0.momentum_buffer'\], expected"):
        fused.load_state_dict({"0.momentum_buffer": torch.zeros(1)})
    state = fused.state_dict() | {"1.exp_avg": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"the optimiser's 1.exp_avg has shape \(1,\), expected \(9, 13\)"):
        fused.load_state_dict(state)


def test_it_updates_the_networks_own_tensors(blobs):
    network = make_network(blobs, PLAIN)
    before = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    bn.fit(network, blobs, dataclasses.replace(PLAIN, engine="fused"))
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == before
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in network.parameters())


def test_refuses_indices_and_labels_that_are_none():
    data = examples()
    engine, _ = engines(BASE, data)
    with pytest.raises(IndexError, match="an index lies outside the examples"):
        engine.step(np.array([0, 120]), 0.1)
    for n in (26, 1, 0):  # of one example the unbiased variance is not a number
        with pytest.raises(ValueError, match=f"a batch of {n} examples, expected 2 to 25"):
            engine.step(np.arange(n), 0.1)
    wrong = Examples(data.inputs, torch.full_like(data.labels, 4))
    engine, _ = engines(BASE, wrong)
    with pytest.raises(IndexError, match="a label lies outside the classes"):
        engine.step(np.arange(4), 0.1)
