"""Modules with a `state_dict` of their own: trained as they are, and refused where they must be saved and cannot."""

import dataclasses
import threading

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import InputError
from batchnorm.training import evaluate_run
from helpers import PLAIN, same_weights

STOPPING = dataclasses.replace(PLAIN, early_stopping_patience=1)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    def forward(self, x):
        return self.net(x)


class Halves(Plain):
    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


class Part(Plain):
    def state_dict(self, *args, **kwargs):
        return {k: v for k, v in super().state_dict(*args, **kwargs).items() if k.startswith("net.3")}


class PartBothWays(Part):
    def load_state_dict(self, state, strict=True):
        return super().load_state_dict(state, strict=False)


class CannotLoad(Plain):
    def load_state_dict(self, *args, **kwargs):
        raise NotImplementedError("not loaded")


class NoState(Plain):
    def state_dict(self, *args, **kwargs):
        raise NotImplementedError("no state")


class Locked(Plain):
    def get_extra_state(self):
        return threading.Lock()

    def set_extra_state(self, state):
        pass


class WithoutStrict(Plain):
    def load_state_dict(self, state):
        return super().load_state_dict(state)


OWN = (Halves, Part, PartBothWays, CannotLoad, NoState, Locked)


@pytest.mark.parametrize("kind", OWN)
@pytest.mark.filterwarnings("ignore:no population statistics:batchnorm.errors.BatchnormWarning")
def test_a_state_of_its_own_changes_nothing_that_is_trained(kind, blobs):
    run, expected = bn.fit(kind(), blobs, PLAIN), bn.fit(Plain(), blobs, PLAIN)
    assert all(map(torch.equal, run.network.parameters(), expected.network.parameters()))
    assert run.results["test"]["running"] == expected.results["test"]["running"]


@pytest.mark.parametrize("kind", OWN)
def test_a_state_that_does_not_give_the_network_back_is_refused_before_training(kind, blobs, tmp_path):
    network = kind()
    for config, out in ((PLAIN, tmp_path / "run"), (STOPPING, None)):
        with pytest.raises(InputError, match="the network's state") as caught:
            bn.fit(network, blobs, config, out=out)
        assert "checkpoint" not in str(caught.value)
        assert all(map(torch.equal, network.parameters(), Plain().parameters()))
    assert list(tmp_path.iterdir()) == []


def test_a_state_that_is_loaded_without_strict_is_evaluated(blobs, tmp_path):
    run = bn.fit(WithoutStrict(), blobs, STOPPING, out=tmp_path / "run")
    found = evaluate_run(tmp_path / "run", blobs, network=WithoutStrict())
    assert {kind: e.loss for kind, e in found.items()} == {k: v["loss"] for k, v in run.results["test"].items()}
    assert same_weights(bn.load_run(tmp_path / "run", network=WithoutStrict()).network, run.network)


class Wrapped(torch.Tensor):
    """Stands for another tensor, as `DTensor` does, and has no memory of its own."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args = torch.utils._pytree.tree_map(lambda x: x.inner if isinstance(x, Wrapped) else x, args)
        made = function(*args, **(kwargs or {}))
        return (
            cls(made) if isinstance(made, torch.Tensor) and function.overloadpacket is torch.ops.aten.detach else made
        )


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_tensors_that_cannot_be_written_are_named_before_training(blobs, tmp_path):
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    wrapped = Wrapped(torch.ones(3))
    for odd in (quantized, wrapped):
        network = Plain()
        network.register_buffer("odd", odd)
        with pytest.raises(InputError, match=r"the network's (odd|state has odd).*run folder"):
            bn.fit(network, blobs, PLAIN, out=tmp_path / "run")
    network = Plain()
    network.odd = nn.Parameter(quantized, requires_grad=False)
    with pytest.raises(InputError, match=r"the network's odd cannot be saved, so train it without a run folder"):
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
