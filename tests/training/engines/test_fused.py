"""The fused engine against autograd: the same gradients, the same training, whatever the network and the options."""

import copy
import dataclasses
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

import batchnorm as bn
from batchnorm import Examples, InputError, TrainingConfig, functional
from batchnorm.kernels import cpu as kernels
from batchnorm.kernels import tensors as operators
from batchnorm.kernels.draws import add_noise_, drawn_mask_like
from batchnorm.training.engines.autograd import AutogradEngine, make_optimizer
from batchnorm.training.engines.engine import make_engine
from batchnorm.training.engines.fused import FusedEngine, obstacle_to_fusing
from helpers import PLAIN, make_network, same_weights, train

OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "momentum": 0.0, "nesterov": False},
    "momentum": {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    "nesterov": {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.002},
}
OPTIONS = {
    "batch norm": {},
    "batch norm on the logits": {"normalize_logits": True, "bn_variance": "biased", "bn_momentum": 0.3},
    "no batch norm": {"normalization": "none"},
    "decay and smoothing": {"weight_decay": 0.05, "label_smoothing": 0.2},
    "dropout": {"dropout": 0.3},
    "noise": {"input_noise": 0.5, "normalize_logits": True},
    "everything": {"dropout": 0.2, "input_noise": 0.3, "label_smoothing": 0.1, "weight_decay": 0.01, "bn_eps": 1e-5},
}
BASE = TrainingConfig(hidden_layer_sizes=(13, 9), learning_rate=0.02, schedule="constant", batch_size=24)


def examples(n=120, features=17, classes=4, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (n,), generator=generator)
    if dtype == torch.uint8:
        return Examples(torch.randint(256, (n, features), generator=generator).to(dtype), labels, 1 / 255)
    centers = torch.randn(classes, features, generator=generator)
    return Examples(centers[labels] + torch.randn(n, features, generator=generator), labels)


def engines(config, data, operators=None, classes=4):
    """Return both engines, each with a network of its own, from the same seed."""
    features = data.inputs[0].numel()
    networks = [bn.DenseNetwork.from_config(config, features, classes).train() for _ in range(2)]
    return FusedEngine(networks[0], data, config, operators), AutogradEngine(networks[1], data, config)


def steps(engine, n_steps, rate, batch_size=24, n=120, seed=3):
    """Take steps at changing rates, every third with a smaller batch; return the losses."""
    torch.manual_seed(5)
    rng = np.random.default_rng(seed)
    sizes = [batch_size, batch_size, max(2, batch_size // 3)]
    return [
        engine.step(rng.choice(n, min(n, sizes[i % 3]), replace=False), rate * (1 - i % 4 / 8)) for i in range(n_steps)
    ]


def deviation(a, b):
    """Return the largest relative deviation of two lists of tensors, each tensor measured by its norm.

    A gradient that cancels has rounding errors of what it is the sum of (β before a linear layer and batch norm: all of
    it cancels): a norm counts as at least a tenth of the largest one.
    """
    norms = [float(y.double().norm()) for y in b]
    differences = [float((x.double() - y.double()).norm()) for x, y in zip(a, b, strict=True)]
    least = max(*norms, 1e-30) / 10  # all are 0 where relu lets nothing through
    return max(difference / max(norm, least) for difference, norm in zip(differences, norms, strict=True))


def gradients(engine, network):
    """Return the gradients of the step that an engine took, in the order of the network's parameters."""
    if isinstance(engine, AutogradEngine):
        return [p.grad for p in network.parameters()]
    return [engine._gradients[p.data_ptr()] for p in network.parameters()]


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


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("activation", kernels.ACTIVATIONS)
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


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_allocates_nothing(optimizer):
    config = dataclasses.replace(
        BASE, hidden_layer_sizes=(1024, 1024), batch_size=256, dropout=0.1, input_noise=0.1, **OPTIMIZERS[optimizer]
    )
    engine, autograd = engines(config, examples(300))
    indices = np.arange(256)
    for e in (engine, autograd):
        e.step(indices, 0.01)

    def allocated(e):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as tensors:
            for _ in range(5):
                e.step(indices, 0.01)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5):
            e.step(indices, 0.01)
        arrays = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        return sum(max(0, event.self_cpu_memory_usage) for event in tensors.key_averages()), arrays

    of_tensors, of_arrays = allocated(engine)
    assert of_tensors == 0
    assert of_arrays < 2000  # a few Python objects; the smallest buffer of a hidden layer has 4,096 bytes
    assert allocated(autograd)[0] > 256 * 1024 * 4  # so that the measurement sees what there is


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

        sys.settrace(tracer)
        try:
            engine.step(np.arange(batch_size), 0.01)
        finally:
            sys.settrace(None)
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


class Inherited(bn.DenseNetwork):
    pass


class Linear(nn.Linear):
    """Has the printed form of torch's own."""


def replace_by_namesake(network):
    network[0] = Linear(17, 8, bias=False)


def share_a_parameter(network):
    network[4].bias = network[1].bias


def share_memory(network):
    network[4].bias = nn.Parameter(network[1].bias.detach())


def setter(index, name, value):
    return lambda network: setattr(network[index], name, value)


ODD = {
    "another class": (lambda: nn.Linear(17, 4), None, "it is a Linear, not a DenseNetwork"),
    "a subclass": (lambda: Inherited(17, (8, 8), 4), None, "it is a Inherited, not a DenseNetwork"),
    "other alpha": (None, lambda n: n.__setitem__(2, nn.ELU(alpha=0.5)), "its layers are not those"),
    "torch's batch norm": (None, lambda n: n.__setitem__(1, nn.BatchNorm1d(8, eps=1e-3)), "its layers are not those"),
    "a namesake": (None, replace_by_namesake, "its layers are not those"),
    "other eps": (None, setter(1, "eps", 1e-5), "its layers are not those"),
    "another forward": (None, setter(1, "forward", lambda x: x), "it has hooks"),
    "hooks": (None, lambda n: n[1].register_forward_hook(lambda *_: None), "it has hooks"),
    "parameter hooks": (None, lambda n: n[1].weight.register_hook(lambda g: g * 0), "it has hooks"),
    "a shared parameter": (None, share_a_parameter, "layers share a parameter"),
    "shared memory": (None, share_memory, "layers share a parameter"),
    "a frozen parameter": (None, lambda n: n[1].weight.requires_grad_(False), "some of its parameters are frozen"),
    "bfloat16": (None, lambda n: n.to(torch.bfloat16), "its parameters are not all float32"),
    "strides": (
        None,
        setter(0, "weight", nn.Parameter(torch.randn(17, 8).t())),
        "some of its parameters are not contig",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_it_cannot_train_autograd_does(odd):
    build, change, obstacle = ODD[odd]
    network = build() if build else bn.DenseNetwork(17, (8, 8), 4, activation="elu")
    if change:
        assert obstacle_to_fusing(network, examples()) is None
        change(network)
    assert obstacle_to_fusing(network, examples()).startswith(obstacle)
    assert isinstance(make_engine(network, examples(), BASE), AutogradEngine)
    with pytest.raises(InputError, match=f"engine fused cannot train this network: {obstacle}.*; take engine autograd"):
        make_engine(network, examples(), dataclasses.replace(BASE, engine="fused"))


def test_inputs_of_other_types_are_left_to_autograd():
    data = examples()
    for dtype in (torch.float16, torch.bfloat16, torch.int16):
        other = Examples(data.inputs.to(dtype), data.labels)
        assert "the inputs are" in obstacle_to_fusing(bn.DenseNetwork(17, (8,), 4), other)
        engine = make_engine(bn.DenseNetwork(17, (8,), 4), other, BASE)
        assert np.isfinite(engine.step(np.arange(20), 0.1))


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


def test_the_engine_is_chosen_by_name():
    network, data = bn.DenseNetwork(17, (8,), 4), examples()
    for name, kind in (("auto", FusedEngine), ("fused", FusedEngine), ("autograd", AutogradEngine)):
        assert type(make_engine(network, data, dataclasses.replace(BASE, engine=name))) is kind


def test_it_updates_the_networks_own_tensors(blobs):
    network = make_network(blobs, PLAIN)
    before = {name: tensor.data_ptr() for name, tensor in network.state_dict().items()}
    bn.fit(network, blobs, dataclasses.replace(PLAIN, engine="fused"))
    assert {name: tensor.data_ptr() for name, tensor in network.state_dict().items()} == before
    assert all(p.requires_grad and p.is_leaf and p.grad is None for p in network.parameters())


def test_whole_runs_agree(blobs):
    config = dataclasses.replace(PLAIN, epochs=10, dropout=0.1)
    fused, autograd = (train(blobs, dataclasses.replace(config, engine=name)) for name in ("fused", "autograd"))
    for a, b in zip(fused.history, autograd.history, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)


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
