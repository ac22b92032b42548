"""What a module raises or returns in training, where it does otherwise in inference: told in one line."""

import dataclasses
import types

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import InputError
from helpers import PLAIN


class InTraining(nn.Module):
    """Logits of three classes in inference, and something else in training."""

    def __init__(self, change):
        super().__init__()
        self.net, self.change = nn.Linear(6, 3), change

    def forward(self, x):
        return self.change(self.net(x)) if self.training else self.net(x)


def raises(error):
    def change(_):
        raise error

    return change


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (lambda y: (y, y), "a tuple"),
        (lambda y: {"logits": y}, "a dict"),
        (lambda y: y[:, :2], r"\(50, 2\)"),
        (lambda y: torch.cat([y, y], 1), r"\(50, 6\)"),
        (lambda y: y[:5], r"\(5, 3\)"),
        (lambda y: y[:, None], r"\(50, 1, 3\)"),
        (lambda y: y.sum(), r"\(\)"),
        (lambda _: None, "a NoneType"),
    ],
)
def test_other_outputs_in_training_are_refused(change, shape, blobs):
    with pytest.raises(InputError, match=rf"turns a batch of 50 into {shape} in training, expected .* \(50, 3\)"):
        bn.fit(InTraining(change), blobs, dataclasses.replace(PLAIN, batch_size=50))


def test_what_is_raised_without_a_message_is_named(blobs):
    with pytest.raises(InputError, match=r"^the network cannot be trained: AssertionError without a message$"):
        bn.fit(InTraining(raises(AssertionError())), blobs, PLAIN)
    with pytest.raises(
        InputError, match=r"^the network cannot take inputs of shape \(30, 6\): RuntimeError without a message$"
    ):
        bn.evaluate(failing(RuntimeError()), blobs.test)


ERRORS = [ValueError("a\nb"), TypeError("a\nb"), AssertionError("a\nb"), IndexError("a\nb"), StopIteration("a\nb")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_what_a_module_raises_is_told_in_one_line(error, blobs, tmp_path):
    with pytest.raises(InputError, match=r"^the network cannot be trained: (\w+: )?a b$"):
        bn.fit(InTraining(raises(error)), blobs, PLAIN, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"^the network cannot take inputs of shape \(30, 6\): (\w+: )?a b$"):
        bn.evaluate(failing(error), blobs.test)


def failing(error):
    network = nn.Linear(6, 3)
    network.forward = types.MethodType(lambda _, x: raises(error)(x), network)
    return network


def test_a_lack_of_memory_stays_one(blobs):
    with pytest.raises(MemoryError):
        bn.fit(InTraining(raises(MemoryError())), blobs, PLAIN)


def test_inputs_that_do_not_fit_are_told_by_evaluate():
    labels = torch.tensor([0, 1, 2, 0])
    with pytest.raises(InputError, match=r"cannot take inputs of shape \(4, 9\): mat1"):
        bn.evaluate(nn.Linear(6, 3), bn.Examples(torch.randn(4, 9), labels))
    with pytest.raises(InputError, match=r"cannot take inputs of shape \(4,\)"):
        bn.evaluate(bn.DenseNetwork(6, (8,), 3), bn.Examples(torch.randn(4), labels))


class FailsOnceTrained(nn.Linear):
    def forward(self, x):
        if self.training:
            self.trained = True
        elif hasattr(self, "trained"):
            raise KeyError("a")
        return super().forward(x)


def test_what_an_evaluation_within_a_run_raises_is_told(blobs):
    with pytest.raises(InputError, match=r"^the network cannot take inputs of shape .*: KeyError: 'a'$"):
        bn.fit(FailsOnceTrained(6, 3), blobs, PLAIN)
