"""A training is what it is wherever it is called from, and leaves its surroundings as they were."""

import dataclasses
import functools
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import batchnorm as bn
from batchnorm import BatchNormClassifier, BatchNormRegressor, InputError
from batchnorm.training import fit_seeds
from helpers import PLAIN, make_network, same_weights


@contextmanager
def setting(set_it, value, before):
    set_it(value)
    try:
        yield
    finally:
        set_it(before)


SURROUNDINGS = {
    "autocast to bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "default dtype float64": lambda: setting(torch.set_default_dtype, torch.float64, torch.float32),
    "default dtype bfloat16": lambda: setting(torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device meta": lambda: setting(torch.set_default_device, "meta", None),
    "with device meta": lambda: torch.device("meta"),
    "deterministic algorithms": lambda: setting(torch.use_deterministic_algorithms, True, False),
    "anomaly mode": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "flushed denormals": lambda: setting(torch.set_flush_denormal, True, False),
    "numpy raises": lambda: np.errstate(all="raise"),
    "hooks on saved tensors": torch.autograd.graph.save_on_cpu,
}
EVERYWHERE = pytest.mark.parametrize("surrounding", SURROUNDINGS.values(), ids=SURROUNDINGS)


def state():
    """Return what a training might leave changed."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.empty(0).device,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_anomaly_enabled(),
        sys.float_info.min * 0.5,
        np.geterr(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
    )


def assert_same_run(run, other):
    assert same_weights(run.network, other.network)
    assert run.history == other.history
    assert run.results == other.results
    assert run.population.keys() == other.population.keys()
    assert all(torch.equal(tensor, other.population[name]) for name, tensor in run.population.items())


@EVERYWHERE
@pytest.mark.parametrize(
    "options",
    [
        {"engine": "fused", "optimizer": "adamw", "learning_rate": 0.01},
        {"engine": "autograd", "optimizer": "adamw", "dropout": 0.3, "input_noise": 0.1, "learning_rate": 0.01},
    ],
    ids=["fused", "autograd"],
)
def test_a_run_is_the_same_everywhere(surrounding, options, blobs):
    config = dataclasses.replace(PLAIN, **options)
    expected = bn.fit(make_network(blobs, config), blobs, config)
    network = make_network(blobs, config)
    with surrounding():
        before = state()
        run = bn.fit(network, blobs, config)
        assert state() == before
    assert_same_run(run, expected)


@pytest.fixture(scope="module")
def undisturbed(blobs, tmp_path_factory):
    """What is trained where nothing is unusual, with its configuration, by engine."""

    @functools.cache
    def trained(engine):
        config = dataclasses.replace(PLAIN, engine=engine, dropout=0.3, optimizer="adamw", learning_rate=0.01)
        return config, bn.fit(make_network(blobs, config), blobs, config, out=tmp_path_factory.mktemp(engine) / "run")

    return trained


@EVERYWHERE
@pytest.mark.parametrize("engine", ["fused", "autograd"])
def test_a_run_is_stopped_resumed_and_loaded_everywhere(surrounding, engine, undisturbed, blobs, tmp_path):
    class Stopped(bn.Monitor):
        def step(self, epoch, step, loss):
            if (epoch, step) == (1, 3):
                raise KeyboardInterrupt

    config, expected = undisturbed(engine)
    network = make_network(blobs, config)
    with surrounding():
        with pytest.raises(KeyboardInterrupt):
            bn.fit(network, blobs, config, out=tmp_path / "run", monitor=Stopped())
        before = state()
        assert_same_run(bn.resume(tmp_path / "run", blobs), expected)
        assert_same_run(bn.load_run(tmp_path / "run"), expected)
        assert state() == before
    ours, theirs = (path / "checkpoint.safetensors" for path in (tmp_path / "run", expected.path))
    assert ours.read_bytes() == theirs.read_bytes()


@EVERYWHERE
def test_any_module_is_trained_the_same_everywhere(surrounding, blobs):
    def module():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

    expected = bn.fit(module(), blobs, PLAIN)
    network = module()
    with surrounding():
        run = bn.fit(network, blobs, PLAIN)
    assert_same_run(run, expected)


@EVERYWHERE
@pytest.mark.parametrize("estimator_class", [BatchNormClassifier, BatchNormRegressor])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_estimator_is_the_same_everywhere(surrounding, estimator_class, dtype, blobs):
    x, y = blobs.train.inputs.numpy().astype(dtype), blobs.train.labels.numpy()

    def trained():
        estimator = estimator_class(
            hidden_layer_sizes=(4,), epochs=2, random_state=0, dropout=0.2, n_iter_no_change=1, tol=1e9
        )
        estimator.fit(x, y).partial_fit(x, y)
        return estimator, estimator.predict(x), estimator.coefs_

    expected, predicted, coefs = trained()
    with surrounding():
        before = state()
        estimator, predictions, inside = trained()
        assert state() == before
    assert same_weights(estimator.network_, expected.network_)
    assert np.array_equal(predictions, predicted)
    assert all(map(np.array_equal, inside, coefs))


def test_seeds_are_the_same_under_a_default_device(blobs, tmp_path):
    config = dataclasses.replace(PLAIN, epochs=1)
    expected = fit_seeds(blobs, config, 2, out=tmp_path / "expected")
    with torch.device("meta"), torch.autocast("cpu"):
        runs = fit_seeds(blobs, config, 2, out=tmp_path / "runs")
    for run, other in zip(runs, expected, strict=True):
        assert_same_run(run, other)


def test_transforms_and_modes_that_replace_tensors_are_refused(blobs):
    network = make_network(blobs, PLAIN)
    with pytest.raises(InputError, match=r"inside a transform of torch\.func .* call it outside"):
        torch.vmap(lambda x: (bn.fit(network, blobs, PLAIN), x)[1])(torch.ones(2))
    with pytest.raises(InputError, match=r"inside a transform of torch\.func"):
        torch.func.grad(lambda x: (bn.fit(network, blobs, PLAIN), x)[1])(torch.ones(()))
    with FakeTensorMode(), pytest.raises(InputError, match="tensors are FakeTensors: call it outside"):
        bn.fit(network, blobs, PLAIN)
    assert same_weights(network, make_network(blobs, PLAIN))
