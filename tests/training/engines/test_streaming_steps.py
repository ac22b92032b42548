"""Steps of a stream: a batch is normalised with the moments of a population that it is a share of."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import Examples, TrainingConfig, functional
from batchnorm.kernels import tensors as operators
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.fused import FusedEngine

CONFIG = TrainingConfig(
    hidden_layer_sizes=(11, 7), activation="tanh", schedule="constant", batch_size=20, normalize_logits=True,
)  # fmt: skip
SIZES = (1, 2, 20, 1, 7, 20, 20, 3)  # of a stream's batches


def examples(weighted=False):
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.integers(1, 4, 60).astype(np.float64)) if weighted else None
    labels = torch.from_numpy(rng.integers(3, size=60))
    return Examples(torch.from_numpy(rng.normal(size=(60, 5))), labels, weights=weights)


def network():
    return bn.DenseNetwork.from_config(CONFIG, 5, 3).double().train()


def stream(engine, memory=30):
    """Take steps through all sizes, and return their losses."""
    losses, seen = [], 0
    for i, n in enumerate(SIZES):
        losses.append(engine.step(np.arange(n) + 3 * i, 0.05, n / (n + min(seen, memory))))
        seen += n
    return losses


def pairs(weighted):
    data = examples(weighted)
    yield "autograd", lambda: AutogradEngine(network(), data, CONFIG)
    if not weighted:
        yield "operators", lambda: FusedEngine(network(), data, CONFIG, operators)


@pytest.mark.parametrize("weighted", [False, True])
def test_all_engines_take_the_same_steps(weighted):
    fused = FusedEngine(network(), examples(weighted), CONFIG)
    losses, state = stream(fused), fused.network.state_dict()
    for name, make in pairs(weighted):
        other = make()
        assert stream(other) == pytest.approx(losses, rel=1e-9), name
        for key, tensor in other.network.state_dict().items():
            torch.testing.assert_close(tensor, state[key], rtol=1e-7, atol=1e-9, msg=f"{name}: {key}")


def test_a_share_of_one_is_the_batch_alone():
    data, plain = examples(), dataclasses.replace(CONFIG, bn_momentum=1.0, bn_variance="biased")
    plain_network = bn.DenseNetwork.from_config(plain, 5, 3).double().train()
    engines = FusedEngine(network(), data, CONFIG), FusedEngine(plain_network, data, plain)
    assert engines[0].step(np.arange(20), 0.05, 1.0) == engines[1].step(np.arange(20), 0.05)
    for ours, theirs in zip(engines[0].network.buffers(), plain_network.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_engine_leaves_no_share_behind():
    engine = AutogradEngine(network(), examples(), CONFIG)
    engine.step(np.arange(20), 0.05, 0.5)
    assert all(norm.share is None for norm in engine.network if isinstance(norm, bn.BatchNorm1d))
    with pytest.raises(ValueError, match="a batch of 1 examples, expected 2 to 21"):
        FusedEngine(network(), examples(), CONFIG).step(np.arange(1), 0.05)


@pytest.mark.parametrize("n", [1, 2, 30])
def test_population_moments_are_those_of_all_rows(n):
    generator = torch.Generator().manual_seed(n)
    rest, batch = (torch.randn(size, 4, dtype=torch.float64, generator=generator) * 3 + size for size in (50, n))
    _, mean, var = functional.batch_moments(rest)
    moments = functional.population_moments(mean, var, functional.batch_moments(batch), n / (n + 50))
    expected = functional.batch_moments(torch.cat([rest, batch]))
    assert moments.n == n
    torch.testing.assert_close(moments[1:], expected[1:], rtol=1e-12, atol=0)


@pytest.mark.parametrize("share", [0.01, 0.5, 1.0])
def test_the_gradient_is_autograds(share):
    x, w, mean, var = (torch.randn(*size, dtype=torch.float64) for size in ((9, 4), (4,), (4,), (4,)))
    x.requires_grad_()
    moments = functional.population_moments(mean, var.abs(), functional.batch_moments(x), share)
    weights = torch.randn(9, 4, dtype=torch.float64)
    y = functional.normalize(x, moments.mean, moments.var, w)
    (expected,) = torch.autograd.grad(F.tanh(y).mul(weights).sum(), x)
    grad_y = weights * (1 - y.tanh().square())
    fixed = functional.Moments(9, *(m.detach() for m in moments[1:]))
    grad_x, _, _ = functional.batch_norm_backward(grad_y.detach(), x.detach(), fixed, w, share=share)
    torch.testing.assert_close(grad_x, expected, rtol=1e-10, atol=1e-12)
