"""Which engine trains a network, and why the fused one does not."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import Examples, InputError
from batchnorm.training.engines.autograd import AutogradEngine
from batchnorm.training.engines.engine import make_engine
from batchnorm.training.engines.fused import FusedEngine, obstacle_to_fusing
from engine_pairs import BASE, examples


class Inherited(bn.DenseNetwork):
    pass


class Linear(nn.Linear):
    """Has the printed form of torch's own."""


def replace_by_namesake(network):
    network[0] = Linear(17, 8, bias=False)


def share_a_parameter(network):
    network[4].bias = network[1].bias


def share_memory(network):
    network[4].bias = nn.Parameter(network[1].bias.detach())


def setter(index, name, value):
    return lambda network: setattr(network[index], name, value)


ODD = {
    "another class": (lambda: nn.Linear(17, 4), None, "it is a Linear, not a DenseNetwork"),
    "a subclass": (lambda: Inherited(17, (8, 8), 4), None, "it is a Inherited, not a DenseNetwork"),
    "other alpha": (None, lambda n: n.__setitem__(2, nn.ELU(alpha=0.5)), "its layers are not those"),
    "torch's batch norm": (None, lambda n: n.__setitem__(1, nn.BatchNorm1d(8, eps=1e-3)), "its layers are not those"),
    "a namesake": (None, replace_by_namesake, "its layers are not those"),
    "other eps": (None, setter(1, "eps", 1e-5), "its layers are not those"),
    "another forward": (None, setter(1, "forward", lambda x: x), "it has hooks"),
    "hooks": (None, lambda n: n[1].register_forward_hook(lambda *_: None), "it has hooks"),
    "parameter hooks": (None, lambda n: n[1].weight.register_hook(lambda g: g * 0), "it has hooks"),
    "a shared parameter": (None, share_a_parameter, "layers share a tensor"),
    "shared memory": (None, share_memory, "layers share a tensor"),
    "a frozen parameter": (None, lambda n: n[1].weight.requires_grad_(False), "some of its parameters are frozen"),
    "bfloat16": (None, lambda n: n.to(torch.bfloat16), "its parameters are not all float32"),
    "strides": (
        None,
        setter(0, "weight", nn.Parameter(torch.randn(17, 8).t())),
        "some of its parameters are not contig",
    ),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_it_cannot_train_autograd_does(odd):
    build, change, obstacle = ODD[odd]
    network = build() if build else bn.DenseNetwork(17, (8, 8), 4, activation="elu")
    if change:
        assert obstacle_to_fusing(network, examples()) is None
        change(network)
    assert obstacle_to_fusing(network, examples()).startswith(obstacle)
    assert isinstance(make_engine(network, examples(), BASE), AutogradEngine)
    with pytest.raises(InputError, match=f"engine fused cannot train this network: {obstacle}.*; take engine autograd"):
        make_engine(network, examples(), dataclasses.replace(BASE, engine="fused"))


def test_inputs_of_other_types_are_left_to_autograd():
    data = examples()
    for dtype in (torch.float16, torch.bfloat16, torch.int16):
        other = Examples(data.inputs.to(dtype), data.labels)
        assert "the inputs are" in obstacle_to_fusing(bn.DenseNetwork(17, (8,), 4), other)
        engine = make_engine(bn.DenseNetwork(17, (8,), 4), other, BASE)
        assert np.isfinite(engine.step(np.arange(20), 0.1))


def test_the_engine_is_chosen_by_name():
    network, data = bn.DenseNetwork(17, (8,), 4), examples()
    for name, kind in (("auto", FusedEngine), ("fused", FusedEngine), ("autograd", AutogradEngine)):
        assert type(make_engine(network, data, dataclasses.replace(BASE, engine=name))) is kind
