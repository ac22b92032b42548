"""The benchmarks run: what they time trains, and the floor is what it says."""

import sys

import numpy as np
import pytest
import torch

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import floor
import peers

INSTALLED_FOR_TESTS = {"torch", "batchnorm", "numba", "scikit-learn"}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (_, packages) in peers.FRAMEWORKS.items()
        if INSTALLED_FOR_TESTS.issuperset(packages) and name != "PyTorch, compiled"  # which needs a C++ compiler
    ],
)
def test_what_is_timed_trains_an_epoch(name):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (200, 784), dtype=np.uint8), np.arange(200) % 10
    pauses = []
    epoch = peers.FRAMEWORKS[name][0](images, labels, 1, lambda: pauses.append(1))
    epoch()
    epoch()
    assert len(pauses) == (0 if "scikit-learn" in name else 2)


def test_the_floor_counts_the_tutorials_multiply_adds():
    assert floor.Floor((784, 300, 100, 10), 1).multiply_adds == 563_400


def test_the_floor_computes_each_product():
    products = floor.Floor((5, 4, 3), 2)
    products.step()
    first, second = products.weights
    torch.testing.assert_close(products.z[1], products.x[0] @ first.T)
    torch.testing.assert_close(products.z[2], products.x[1] @ second.T)
    torch.testing.assert_close(products.dx[1], products.dz[2] @ second)
