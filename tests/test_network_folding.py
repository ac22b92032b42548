"""A network folds itself: for its evaluation, and as a copy that is plain layers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from batchnorm.network import fold_layers


def randomized(network, seed=0):
    """Give a network statistics and parameters as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            for tensor, low in (
                (layer.weight, 0.1),
                (layer.bias, -1),
                (layer.running_mean, -2),
                (layer.running_var, 0),
            ):
                tensor.data.uniform_(low, 2, generator=generator)
    return network


@settings(max_examples=40, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 20), max_size=3),
    activation=st.sampled_from(["relu", "elu", "gelu", "identity"]),
    normalization=st.sampled_from(["batch", "none"]),
    normalize_logits=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_it_computes_the_same(hidden, activation, normalization, normalize_logits, dropout, seed):
    network = bn.DenseNetwork(
        7, hidden, 3, activation=activation, normalization=normalization, normalize_logits=normalize_logits,
        dropout=dropout, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    randomized(network, seed).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    folded = network.folded()
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.float().folded()(x.float()), network(x.float()), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.Dropout) for layer in folded)
    assert all(torch.equal(before[name].float(), tensor.float()) for name, tensor in network.state_dict().items())


def test_what_cannot_be_folded_stays_itself():
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2),
              nn.BatchNorm1d(2, track_running_stats=False)]  # fmt: skip
    assert [repr(layer) for layer in fold_layers(layers)] == [repr(layer) for layer in layers]


def test_batch_norm_without_gamma_and_beta_folds_too():
    layers = [nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False)]
    layers[1].running_mean.fill_(0.5)
    layers[1].eval()
    x = torch.randn(4, 3)
    torch.testing.assert_close(fold_layers(layers)[0](x), layers[1](layers[0](x)))


@pytest.fixture
def no_batch_norm(monkeypatch):
    def fail(*_):
        raise AssertionError("batch norm is computed")

    monkeypatch.setattr(nn.BatchNorm1d, "forward", fail)


def test_evaluation_does_no_batch_norm_work(blobs, no_batch_norm):
    bn.evaluate(randomized(bn.DenseNetwork(6, (8,), 3, normalize_logits=True)), blobs.test)


def test_a_copy_of_the_network_is_folded():
    network = bn.DenseNetwork(6, (8,), 3, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.folded().half().parameters():
            parameter.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_evaluation_computes_what_a_subclass_computes(blobs):
    class Wider(bn.DenseNetwork):
        def forward(self, x):
            return nn.functional.one_hot(torch.full((len(x),), 2), 3).float()

    network = Wider(6, (8,), 3)
    expected = (blobs.test.labels == 2).double().mean().item()
    assert bn.evaluate(network, blobs.test).accuracy == expected
    patched = bn.DenseNetwork(6, (8,), 3)
    patched.forward = network.forward
    assert bn.evaluate(patched, blobs.test).accuracy == expected


def test_evaluation_calls_the_hooks_of_who_listens_in(blobs):
    network, seen = bn.DenseNetwork(6, (8,), 3), []
    network[1].register_forward_hook(lambda *_: seen.append(1))
    bn.evaluate(network, blobs.test)
    assert seen
