"""Arguments of another kind than is asked for: told in one line that says what is."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import InputError
from batchnorm.training import evaluate_run, fit_seeds
from batchnorm.training.runs import list_runs
from helpers import PLAIN

CALLS = {
    "network is of class type, expected Module": lambda data: bn.fit(nn.Linear, data, PLAIN),
    "dataset is of class Examples, expected Dataset: make one": lambda data: bn.fit(nn.Linear(6, 3), data.train, PLAIN),
    "config is of class dict, expected TrainingConfig": lambda data: bn.fit(nn.Linear(6, 3), data, {"epochs": 1}),
    "examples is of class Dataset, expected Examples: .* dataset.test": lambda data: bn.evaluate(nn.Linear(6, 3), data),
    "network is of class function, expected Module": lambda data: bn.evaluate(lambda x: x, data.test),
    "block_size is 2.5, expected a whole": lambda data: bn.evaluate(nn.Linear(6, 3), data.test, block_size=2.5),
    "block_size is None, expected a whole": lambda data: bn.evaluate(nn.Linear(6, 3), data.test, block_size=None),
    "dataset is of class Examples, expected": lambda data: bn.resume("run", data.test),
    "dataset is of class Examples, expected ": lambda data: evaluate_run("run", data.test),
    "config is of class dict, expected": lambda data: bn.fit(nn.Linear(6, 3), data, {}),
    "monitor is of class builtin_function_or_method, expected Monitor: give an instance of a class that": lambda data: (
        bn.fit(nn.Linear(6, 3), data, PLAIN, monitor=print)
    ),
    "monitor is of class type, expected Monitor": lambda data: bn.resume("run", data, monitor=bn.ProgressMonitor),
    "out is of class int, expected a path": lambda data: bn.fit(nn.Linear(6, 3), data, PLAIN, out=3),
    "out is of class bytes, expected a path": lambda data: bn.fit(nn.Linear(6, 3), data, PLAIN, out=b"x"),
    "out is empty, expected a path": lambda data: bn.fit(nn.Linear(6, 3), data, PLAIN, out=""),
    "out is empty, expected a path$": lambda data: fit_seeds(data, PLAIN, 2, out=""),
    "path is empty, expected a path": lambda data: bn.resume("", data),
    "path is of class NoneType, expected a path": lambda data: bn.load_run(None),
    "path is of class int, expected a path": lambda data: evaluate_run(3, data),
    "path is empty, expected a path$": lambda data: list_runs(""),
    "part is 'tests', expected train, validation, test": lambda data: evaluate_run("run", data, "tests"),
}


@pytest.mark.parametrize("message", CALLS)
def test_another_kind_of_argument_is_named(message, blobs):
    with pytest.raises(InputError, match=f"^{message}"):
        CALLS[message](blobs)


@pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_examples_are_plain_tensors_with_values():
    inputs, labels = torch.ones(3, 6), torch.tensor([0, 1, 0])
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3), torch.ones(2)])
    jagged = torch.nested.nested_tensor([torch.ones(2), torch.ones(3), torch.ones(2)], layout=torch.jagged)
    masked = torch.masked.masked_tensor(inputs, inputs > 0)
    for odd, message in (
        (nested, "inputs are a nested tensor, expected a plain Tensor"),
        (jagged, "inputs are a nested tensor, expected a plain Tensor"),
        (masked, "inputs are a MaskedTensor, expected a plain Tensor"),
    ):
        with pytest.raises(InputError, match=message):
            bn.Examples(odd, labels)
    for part in (bn.Examples(inputs.to("meta"), labels), bn.Examples(inputs, labels.to("meta"))):
        with pytest.raises(InputError, match="the examples are on the device meta, without values"):
            bn.evaluate(nn.Linear(6, 3), part)


class GivesAPart(nn.Module):
    """Has its optimiser train the last layer alone."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def parameters(self, recurse=True):
        return self.last.parameters(recurse)

    def forward(self, x):
        return self.last(self.first(x).relu())


def test_what_parameters_leaves_out_is_not_trained(blobs):
    network = GivesAPart()
    first, last = network.first.weight.detach().clone(), network.last.weight.detach().clone()
    bn.fit(network, blobs, PLAIN)
    assert torch.equal(network.first.weight, first)
    assert not torch.equal(network.last.weight, last)
