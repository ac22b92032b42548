"""What several test modules share."""

import os
from pathlib import Path

import pytest
import torch

import batchnorm as bn
from batchnorm.data import sources

REPOSITORY = Path(__file__).parent.parent

# The networks here are tiny: a second thread only waits, and much longer where other work is going on.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache_and_no_data_folder(monkeypatch, tmp_path_factory):
    """Keep tests away from what the machine they run on happens to have, and from the network."""
    monkeypatch.delenv(sources.DATA_DIR_VARIABLE, raising=False)
    cache = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture(scope="session")
def mnist_dir():
    """The folder that holds the full MNIST."""
    folder = os.environ.get(sources.DATA_DIR_VARIABLE)
    if not folder or not (Path(folder) / "mnist").is_dir():
        pytest.skip(f"needs the full MNIST: set {sources.DATA_DIR_VARIABLE} to a folder with a sub-folder mnist")
    return Path(folder)


@pytest.fixture(scope="session")
def blobs():
    """300 points around three centres in six dimensions: learnt in an instant, never quite separable."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.randn(3, 6, generator=generator) * 1.5
    inputs = centres[labels] + torch.randn(300, 6, generator=generator)
    return bn.Dataset.from_arrays(inputs.numpy(), labels.numpy(), name="blobs")
