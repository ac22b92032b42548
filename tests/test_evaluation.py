"""Evaluation: by hand, independent of blocks and of the mode that the network is in."""

import math
import threading

import pytest
import torch
from torch import nn

import batchnorm as bn
from helpers import PLAIN


def test_accuracy_loss_and_confusion_by_hand():
    # Inputs are the logits. Predictions 0, 1, 1 for labels 0, 1, 0; each wrong or right by log(3).
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, math.log(3.0)], [0.0, math.log(3.0)]])
    examples = bn.Examples(logits, torch.tensor([0, 1, 0]))
    result = bn.evaluate(nn.Identity(), examples)
    assert result.accuracy == pytest.approx(2 / 3)
    assert result.loss == pytest.approx(-(math.log(0.75) + math.log(0.75) + math.log(0.25)) / 3)
    assert result.confusion.tolist() == [[1, 1], [0, 1]]  # rows: labels


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_blocks_do_not_matter(block_size, blobs):
    network = bn.DenseNetwork(6, (8,), 3, normalize_logits=True, generator=torch.Generator().manual_seed(0))
    whole = bn.evaluate(network, blobs.train, block_size=10_000)
    blocks = bn.evaluate(network, blobs.train, block_size=block_size)
    assert torch.equal(blocks.confusion, whole.confusion)
    assert blocks.loss == pytest.approx(whole.loss, rel=1e-5)


def test_a_label_that_the_network_does_not_have_is_told():
    with pytest.raises(bn.InputError, match="label 5 among the examples, but the network has 2 classes"):
        bn.evaluate(nn.Identity(), bn.Examples(torch.zeros(2, 2), torch.tensor([0, 5])))


def test_is_in_inference_mode_and_leaves_the_network_as_it_was(blobs):
    network = bn.DenseNetwork(6, (8,), 3, dropout=0.5)
    expected = bn.evaluate(network, blobs.test)
    network.train()
    network[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = bn.evaluate(network, blobs.test)
    assert result.loss == expected.loss
    assert [module.training for module in network] == [True, False, True, True, True]
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_a_dense_network_that_cannot_be_copied_is_evaluated_as_it_is(blobs):
    network = bn.DenseNetwork(6, (8,), 3)
    expected = bn.evaluate(network, blobs.test)
    network[2].lock = threading.Lock()
    assert bn.evaluate(network, blobs.test).loss == pytest.approx(expected.loss, rel=1e-5)
    with torch.no_grad():
        network[2].last = network[0].weight * 1
    assert bn.fit(network, blobs, PLAIN).test_accuracy > 0.6
