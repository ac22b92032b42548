"""Which modules can be trained, and what does not fit."""

import dataclasses

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import Examples, InputError, TrainingConfig
from helpers import PLAIN


def test_any_module_can_be_trained():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    )  # fmt: skip
    digits = bn.load_dataset("digits")
    run = bn.fit(network, digits, TrainingConfig(epochs=3))
    assert run.test_accuracy > 0.9
    assert set(run.population) == {"2.running_mean", "2.running_var"}


def test_a_dense_network_decides_its_own_part_of_the_configuration(blobs):
    run = bn.fit(bn.DenseNetwork(6, (4, 4), 3, activation="tanh"), blobs, PLAIN)
    assert (run.config.hidden_layer_sizes, run.config.activation) == ((4, 4), "tanh")
    assert run.config.epochs == PLAIN.epochs


def test_tied_weights_and_infinite_masks_are_no_obstacle(blobs, tmp_path):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.out = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
            self.b = nn.Linear(6, 6)
            self.b.weight = self.a.weight
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf, 0.0]).expand(2, 3)[0])

        def forward(self, x):
            return self.out(torch.relu(self.b(self.norm(self.a(x)))))

    torch.manual_seed(0)
    bn.fit(Odd(), blobs, PLAIN, out=tmp_path / "run")
    loaded = bn.load_run(tmp_path / "run", network=Odd())
    assert torch.equal(loaded.network.a.weight, loaded.network.b.weight)


def test_says_what_does_not_fit(blobs):
    with pytest.raises(InputError, match=r"takes 7 features, blobs has 6 \(6\)"):
        bn.fit(bn.DenseNetwork(7, (4,), 3), blobs)
    with pytest.raises(
        InputError, match=r"into \(2, 4\), expected logits of shape \(2, 3\) for the 3 classes of blobs"
    ):
        bn.fit(bn.DenseNetwork(6, (4,), 4), blobs)
    config = dataclasses.replace(PLAIN, normalization="none", batch_size=1)
    with pytest.raises(InputError, match="batch_size is 1, expected at least 2 for a network with batch norm"):
        bn.fit(nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3)), blobs, config)
    with pytest.raises(InputError, match=r"cannot take inputs of shape \(2, 6\): mat1 and mat2"):
        bn.fit(nn.Linear(5, 3), blobs)
    one = Examples(torch.zeros(1, 6), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="has 1 training example, expected at least 2"):
        bn.fit(bn.DenseNetwork(6, (4,), 3), bn.Dataset("one", one, one, one, class_names="abc"))
    for device in ("gpu", "meta", *([] if torch.cuda.is_available() else ["cuda"])):
        with pytest.raises(InputError, match=f"device is '{device}'"):
            bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, device=device)
