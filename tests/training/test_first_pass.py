"""A network's first forward pass, in a check or an evaluation, leaves it as fit for training as it was."""

import contextlib

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm import BatchNormClassifier
from helpers import PLAIN, same_weights


class CachesATable(nn.Module):
    """Keeps what it computes in its first call, such as positions."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm, self.out, self.table = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3), None

    def forward(self, x):
        if self.table is None:
            self.table = torch.arange(8.0).cos()
        return self.out(torch.relu(self.norm(self.linear(x) * self.table)))


class GrowsABuffer(CachesATable):
    def __init__(self):
        super().__init__()
        del self.table
        self.register_buffer("table", None, persistent=False)


class Scales(nn.Module):
    """A layer that keeps its factor from its first call."""

    def __init__(self):
        super().__init__()
        self.factor = None

    def forward(self, x):
        if self.factor is None:
            self.factor = torch.full((x.shape[1],), 2.0)
        return x * self.factor


NETWORKS = {
    "lazy": lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3)),
    "lazy within": lambda: nn.Sequential(nn.Sequential(nn.LazyBatchNorm1d()), nn.LazyLinear(3)),
    "a cached table": CachesATable,
    "a buffer of the first call": GrowsABuffer,
}
SURROUNDINGS = {"nothing": contextlib.nullcontext, "inference_mode": torch.inference_mode, "no_grad": torch.no_grad}


def train_in_plain_torch(network, examples):
    inputs, labels = examples.batch(slice(None))
    network.train()
    F.cross_entropy(network(inputs), labels).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_the_first_pass_makes_can_be_trained(kind, blobs):
    torch.manual_seed(0)
    network = NETWORKS[kind]()
    assert bn.fit(network, blobs, PLAIN).test_accuracy > 0.6
    train_in_plain_torch(network, blobs.train)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_after_an_evaluation_too_wherever_it_is_called(kind, surroundings, blobs):
    torch.manual_seed(0)
    network = NETWORKS[kind]()
    with SURROUNDINGS[surroundings]():
        evaluation = bn.evaluate(network, blobs.test)
    assert not any(tensor.is_inference() for tensor in (*network.parameters(), *network.buffers()))
    train_in_plain_torch(network, blobs.train)
    torch.manual_seed(0)
    assert bn.evaluate(NETWORKS[kind](), blobs.test).loss == evaluation.loss


@pytest.mark.parametrize("verb", ["recalibrate", "diagnose"])
def test_lazy_layers_can_be_trained_after_the_toolkit_has_looked_at_them(verb, blobs):
    network = NETWORKS["lazy"]()
    with torch.inference_mode():
        getattr(bn, verb)(network, [blobs.train.batch(slice(None))[0]])
    train_in_plain_torch(network, blobs.train)


def test_a_network_that_was_built_in_inference_mode_is_evaluated_as_any_other(blobs):
    losses, networks = [], []
    for surroundings in (contextlib.nullcontext, torch.inference_mode):
        torch.manual_seed(0)
        with surroundings():
            networks.append(NETWORKS["lazy"]())
        losses.append(bn.evaluate(networks[-1], blobs.test).loss)  # its weights are drawn here
    assert losses[0] == losses[1]
    assert same_weights(*networks)


def test_the_network_of_an_estimator_stays_trainable_after_predicting(blobs):
    inputs, labels = blobs.train.batch(slice(None))
    classifier = BatchNormClassifier(hidden_layer_sizes=8, epochs=2, random_state=0)
    classifier.fit(inputs.numpy(), labels.numpy())
    classifier.network_.insert(1, Scales())
    with torch.inference_mode():
        classifier.predict(inputs.numpy())
    train_in_plain_torch(classifier.network_, blobs.train)
