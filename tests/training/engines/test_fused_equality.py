"""The fused engine against autograd: the same gradients, the same training, whatever the network and the options."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import Examples, functional
from batchnorm.kernels import cpu as kernels
from batchnorm.kernels import tensors as operators
from batchnorm.kernels.draws import add_noise_, drawn_mask_like
from batchnorm.training.engines.autograd import make_optimizer
from batchnorm.training.engines.fused import FusedEngine
from engine_pairs import BASE, OPTIMIZERS, OPTIONS, deviation, engines, examples, gradients, steps
from helpers import PLAIN, train


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_gradients_are_autograds(activation, options):
    config = dataclasses.replace(BASE, **{"activation": activation, **OPTIMIZERS["momentum"], **OPTIONS[options]})
    data = examples()
    fused, autograd = engines(config, data)
    torch.manual_seed(1)
    a = fused.step(np.arange(24), 0.0)
    torch.manual_seed(1)
    b = autograd.step(np.arange(24), 0.0)
    assert a == pytest.approx(b, rel=1e-6)
    assert deviation(gradients(fused, fused.network), gradients(autograd, autograd.network)) <= 1e-6


def reference_loss(network, inputs, labels, config):
    """The network in training, out of the formula's own functions, in the dtype of its parameters."""
    if config.input_noise:
        noise = torch.zeros_like(inputs)
        add_noise_(noise, config.input_noise)
        inputs = inputs + noise
    x, layers = inputs, list(network)
    for i, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            x = F.linear(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.BatchNorm1d):
            x, _ = functional.batch_norm(x, layer.weight, layer.bias, layer.eps)
        elif isinstance(layer, nn.Dropout):
            x = x * drawn_mask_like(x, layer.p)
        else:
            x = layers[i](x)
    return F.cross_entropy(x, labels, label_smoothing=config.label_smoothing)


@settings(max_examples=60, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 40), max_size=3),
    features=st.integers(1, 40),
    classes=st.integers(2, 7),
    n=st.integers(2, 70),
    activation=st.sampled_from(kernels.ACTIVATIONS),
    options=st.sampled_from(list(OPTIONS)),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 2**31),
)
def test_in_float64_gradients_are_the_formulas(hidden, features, classes, n, activation, options, dtype, seed):
    config = dataclasses.replace(
        BASE, hidden_layer_sizes=hidden, batch_size=max(n, 2), seed=seed,
        **{"activation": activation, **OPTIMIZERS["momentum"], **OPTIONS[options]},
    )  # fmt: skip
    data = examples(n, features, classes, seed, dtype)
    network = bn.DenseNetwork.from_config(config, features, classes).double()
    engine = FusedEngine(network, data, config)
    order = np.random.default_rng(seed).permutation(n)
    torch.manual_seed(seed)
    expected = reference_loss(network, data.inputs[order].double() * data.scale, data.labels[order], config)
    expected_gradients = torch.autograd.grad(expected, list(network.parameters()))
    torch.manual_seed(seed)
    loss = engine.step(order, 0.0)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    # With relu and its like, an input that is rounded to the other side of 0 has another slope: there is none here.
    assert deviation(gradients(engine, network), expected_gradients) <= 1e-12


# Each activation with each optimiser and all options, and each optimiser with all options: each is a kernel of its own.
EVERY_PAIR = [
    (activation, list(OPTIMIZERS)[(i + j) % len(OPTIMIZERS)], options)
    for i, activation in enumerate(kernels.ACTIVATIONS)
    for j, options in enumerate(OPTIONS)
]


def test_every_pair_is_there():
    for places, tables in (((0, 1), (kernels.ACTIVATIONS, OPTIMIZERS)), ((1, 2), (OPTIMIZERS, OPTIONS))):
        assert {tuple(case[place] for place in places) for case in EVERY_PAIR} == set(itertools.product(*tables))


@pytest.mark.parametrize(("activation", "optimizer", "options"), EVERY_PAIR)
def test_a_hundred_steps_are_autograds(activation, optimizer, options):
    config = dataclasses.replace(BASE, **{"activation": activation, **OPTIMIZERS[optimizer], **OPTIONS[options]})
    fused, autograd = engines(config, examples())
    initial = copy.deepcopy(fused.network.state_dict())
    losses = steps(fused, 100, config.learning_rate)
    assert losses == pytest.approx(steps(autograd, 100, config.learning_rate), rel=1e-3)
    ours, theirs = fused.network.state_dict(), autograd.network.state_dict()
    for name in ours:
        if "num_batches" in name:
            assert ours[name] == theirs[name] == 100
            continue
        assert not torch.equal(ours[name], initial[name]), name
        if name not in drifting(fused.network):
            assert deviation([ours[name]], [theirs[name]]) <= 1e-4, name


def drifting(network):
    """Name the β that the next batch norm takes away again, and that one's running mean, which follows it.

    Its gradient is rounding errors alone, which AdamW makes steps of full size of.
    """
    names = set()
    for i, (norm, activation, _, following) in enumerate(zip(*(list(network)[k:] for k in range(4)), strict=False)):
        if (
            isinstance(norm, nn.BatchNorm1d)
            and type(activation) is nn.Identity
            and isinstance(following, nn.BatchNorm1d)
        ):
            names |= {f"{i}.bias", f"{i + 3}.running_mean"}
    return names


@settings(max_examples=60, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 33), max_size=3),
    features=st.integers(1, 40),
    classes=st.integers(2, 7),
    n=st.integers(4, 80),
    batch_size=st.integers(2, 40),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    options=st.sampled_from(list(OPTIONS)),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
)
def test_any_shape_trains_as_the_formula_does(hidden, features, classes, n, batch_size, optimizer, options, dtype):
    """In float64: in float32, a batch of few examples makes much of a rounding error in a step or two.

    Where batch norm makes a gradient cancel (of two examples only the signs are left), AdamW makes whole steps of the
    rounding errors that remain.
    """
    assume(optimizer != "adamw" or options == "no batch norm")
    config = dataclasses.replace(
        BASE, hidden_layer_sizes=hidden, batch_size=batch_size, activation="tanh",
        **{**OPTIMIZERS[optimizer], **OPTIONS[options]},
    )  # fmt: skip
    data = examples(n, features, classes, dtype=dtype)
    ours, theirs = (bn.DenseNetwork.from_config(config, features, classes).double() for _ in range(2))

    class Reference:
        optimizer = make_optimizer(theirs, config)

        def step(self, indices, rate):
            loss = reference_loss(theirs, data.inputs[indices].double() * data.scale, data.labels[indices], config)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            return loss.item()

    a, b = (steps(engine, 6, 0.02, batch_size, n) for engine in (FusedEngine(ours, data, config), Reference()))
    assert a == pytest.approx(b, rel=1e-8)
    for x, y in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_through_torchs_operators_as_on_a_gpu(optimizer, options):
    """The path of other devices, run on this one. Its draws are torch's own, as those of `torch.nn.Dropout`."""
    config = dataclasses.replace(BASE, **{"activation": "silu", **OPTIMIZERS[optimizer], **OPTIONS[options]})
    data = examples()
    fused, autograd = engines(config, data, operators)
    for i, layer in enumerate(autograd.network):
        if isinstance(layer, nn.Dropout):
            autograd.network[i] = nn.Dropout(layer.p)
    if config.input_noise:
        autograd.input_noise = 0.0
        gather = data.batch
        noisy = type("Noisy", (), {"labels": data.labels, "weights": None})()
        noisy.batch = lambda i, _: (gather(i)[0] + config.input_noise * torch.randn(len(i), 17), gather(i)[1])
        autograd.examples = noisy
    assert steps(fused, 30, 0.02) == pytest.approx(steps(autograd, 30, 0.02), rel=1e-4)
    theirs = autograd.network.state_dict()
    for name, tensor in fused.network.state_dict().items():
        assert deviation([tensor], [theirs[name]]) <= 1e-4, name


@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
def test_torchs_operators_have_every_activation(activation):
    config = dataclasses.replace(BASE, activation=activation, **OPTIMIZERS["momentum"])
    data = examples()
    fused, through_operators = engines(config, data)[0], engines(config, data, operators)[0]
    fused.step(np.arange(24), 0.0)
    through_operators.step(np.arange(24), 0.0)
    a, b = gradients(fused, fused.network), gradients(through_operators, through_operators.network)
    assert deviation(a, b) <= 1e-6


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_images_that_lie_otherwise_in_memory(noise):
    """Channels last shown as channels first, as image libraries give them."""
    images = torch.randint(256, (60, 4, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = Examples(images.permute(0, 3, 1, 2), torch.arange(60) % 4, 1 / 255)
    fused, autograd = engines(dataclasses.replace(BASE, input_noise=noise), data)
    assert steps(fused, 10, 0.05, n=60) == pytest.approx(steps(autograd, 10, 0.05, n=60), rel=1e-5)


def test_single_examples_train_without_batch_norm():
    config = dataclasses.replace(BASE, normalization="none", batch_size=1)
    fused, autograd = engines(config, examples())
    a, b = ([engine.step(np.array([i]), 0.05) for i in range(20)] for engine in (fused, autograd))
    assert a == pytest.approx(b, rel=1e-5, abs=1e-6)  # float32 resolves a small loss no better


def test_a_last_example_alone_joins_the_batch_before(blobs):
    """240 examples: 239 and one make a batch of 240, one more than the configuration says."""
    config = dataclasses.replace(PLAIN, batch_size=239)
    fused, autograd = (train(blobs, dataclasses.replace(config, engine=name)) for name in ("fused", "autograd"))
    for a, b in zip(fused.history, autograd.history, strict=True):
        assert a["step_loss"] == pytest.approx(b["step_loss"], rel=1e-5)


def test_whole_runs_agree(blobs):
    config = dataclasses.replace(PLAIN, epochs=10, dropout=0.1)
    fused, autograd = (train(blobs, dataclasses.replace(config, engine=name)) for name in ("fused", "autograd"))
    for a, b in zip(fused.history, autograd.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
