"""Evaluation: by hand, independent of blocks and of the mode that the network is in."""

import math
import threading
import tracemalloc

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.evaluation import Evaluation
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


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_numbers_are_no_prediction(value):
    class Broken(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, 0] * value, x[:, 0], x[:, 0] * value - x[:, 0] * value], dim=1)

    examples = bn.Examples(torch.ones(5, 1), torch.zeros(5, dtype=torch.int64))
    evaluation = bn.evaluate(Broken(), examples)
    assert evaluation.accuracy == 0
    assert evaluation.confusion.sum() == 0
    assert evaluation.to_dict()["loss"] is None
    assert "NaN" not in evaluation.to_json()


def test_thousands_of_classes_take_no_more_than_their_examples():
    n_classes = 8_000
    labels = torch.arange(600) * 2
    logits = torch.zeros(600, n_classes)
    logits[range(600), [2, *range(2, 1200, 2)]] = 1  # the first one is wrong
    tracemalloc.start()
    result = bn.evaluate(nn.Identity(), bn.Examples(logits, labels), 60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.accuracy == pytest.approx(599 / 600)
    assert len(result.counts) == 600
    assert peak < 2**24  # not 8,000², which is 512 MB
    assert (result.confusion.shape, result.confusion.dtype) == ((n_classes, n_classes), torch.int64)
    assert result.confusion[0, :4].tolist() == [0, 0, 1, 0]
    assert result.confusion.diagonal().sum() == 599
    assert len(result._repr_html_()) < 1_000


def test_a_confusion_that_memory_does_not_hold_is_told_and_the_rest_is_there():
    result = Evaluation(0.5, 1.0, 2**31, 2, torch.tensor([[0, 0, 1], [2**31 - 1, 0, 1]]))
    assert str(result) == "accuracy 0.5, loss 1 on 2 examples"
    with pytest.raises(bn.BatchnormError, match=r"confusion of 2,147,483,648 classes .*more than there is memory"):
        _ = result.confusion


def test_nan_is_no_prediction():
    nan = math.nan
    logits = torch.tensor([[nan, nan], [1.0, nan], [nan, 1.0], [1.0, 0.0], [math.inf, 0.0]])
    result = bn.evaluate(nn.Identity(), bn.Examples(logits, torch.zeros(5, dtype=torch.int64)), block_size=2)
    assert result.accuracy == 2 / 5
    assert math.isnan(result.loss)
    assert result.confusion.tolist() == [[2, 0], [0, 0]]
    assert str(result) == "accuracy 0.4, loss nan on 5 examples, of which 3 with NaN among their logits"
    nothing = bn.evaluate(nn.Identity(), bn.Examples(logits[:3], torch.zeros(3, dtype=torch.int64)))
    assert (nothing.accuracy, nothing.confusion.tolist()) == (0, [[0, 0], [0, 0]])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_of_any_whole_type(dtype):
    labels = (torch.arange(300) % 2).to(dtype)
    result = bn.evaluate(nn.Identity(), bn.Examples(torch.eye(200)[:2].repeat(150, 1), labels))
    assert (result.accuracy, result.confusion[:2, :2].tolist()) == (1.0, [[150, 0], [0, 150]])


class Outputs(nn.Module):
    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def forward(self, inputs):
        return self.outputs


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        (torch.zeros(2), [0, 0], r"turns 2 examples into \(2,\), expected logits \(examples, classes\)"),
        (torch.zeros(3, 2), [0, 0], r"turns 2 examples into \(3, 2\), expected logits"),
        ((torch.zeros(2, 2),), [0, 0], "turns 2 examples into tuple, expected logits"),
        (torch.zeros(2, 2, dtype=torch.int64), [0, 0], "outputs are of type torch.int64, expected logits in floating"),
        (torch.zeros(2, 0), [0, 0], "label 0 among the examples, but the network has 0 classes"),
        (torch.zeros(2, 2), [0, -100], "label -100 among the examples, expected classes from 0 on"),
        (torch.zeros(2, 2), [], "there are no examples"),
        (torch.zeros(2, 3), [[True, False]] * 2, "the network has 3 outputs, and the examples have 2 labels"),
        (torch.zeros(2), [[True, False]] * 2, r"turns 2 examples into \(2,\), expected logits \(examples, labels\)"),
        (torch.zeros(2), [[1.0, 2.0]] * 2, r"turns 2 examples into \(2,\), expected values \(examples, values\)"),
    ],
)
def test_says_what_cannot_be_evaluated(outputs, labels, message):
    labels = torch.tensor(labels) if labels else torch.zeros(0, dtype=torch.int64)
    with pytest.raises(bn.InputError, match=message):
        bn.evaluate(Outputs(outputs), bn.Examples(torch.zeros(len(labels), 3), labels))


def test_a_block_has_an_example(blobs):
    with pytest.raises(bn.InputError, match="block_size is 0, expected at least 1"):
        bn.evaluate(nn.Identity(), blobs.train, block_size=0)


def test_a_dense_network_that_cannot_be_copied_is_evaluated_as_it_is(blobs):
    network = bn.DenseNetwork(6, (8,), 3)
    expected = bn.evaluate(network, blobs.test)
    network[2].lock = threading.Lock()
    assert bn.evaluate(network, blobs.test).loss == pytest.approx(expected.loss, rel=1e-5)
    with torch.no_grad():
        network[2].last = network[0].weight * 1
    assert bn.fit(network, blobs, PLAIN).test_accuracy > 0.6


def test_a_network_that_changes_its_inputs_does_not_change_the_examples():
    class InPlace(nn.Module):
        def forward(self, x):
            return x.sub_(1)

    examples = bn.Examples(torch.eye(3), torch.arange(3))
    assert bn.evaluate(InPlace(), examples).loss == bn.evaluate(InPlace(), examples).loss
    assert torch.equal(examples.inputs, torch.eye(3))
