"""What stands in more than one place says the same there: names, their order, constants, signatures."""

import inspect
from typing import get_args

import pytest

from batchnorm import config
from batchnorm.kernels import activations, cpu, tensors

KERNELS = [
    name
    for name, value in vars(cpu).items()
    if name[0] != "_" and getattr(getattr(value, "py_func", None), "__module__", "") == cpu.__name__
]


def test_the_configuration_the_table_and_the_kernels_have_the_same_activations_in_one_order():
    assert get_args(config.Activation) == tuple(activations.ACTIVATIONS) == cpu.ACTIVATIONS


def test_tensors_and_kernels_have_the_same_constants():
    assert (activations._SELU_ALPHA, activations._SELU_SCALE) == (cpu.SELU_ALPHA, cpu.SELU_SCALE)
    assert activations._LEAKY_SLOPE == cpu.LEAKY_SLOPE


@pytest.mark.parametrize("name", KERNELS)
def test_tensors_take_what_kernels_take(name):
    """The engine calls either by position."""
    ours, theirs = inspect.signature(getattr(cpu, name).py_func), inspect.signature(getattr(tensors, name))
    assert list(ours.parameters) == list(theirs.parameters)
