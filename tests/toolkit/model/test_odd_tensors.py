"""Tensors that cannot be read or written as others: of inference mode, of torch.func, without values, quantised."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from test_opaque import VERBS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch warns of what it does itself
BATCHES = [torch.randn(16, 4, generator=torch.Generator().manual_seed(i)) * 2 + 1 for i in range(3)]
NEED_VALUES = ["diagnose", "recalibrate", "recalibrate, pass by pass"]


def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()


def built_in_inference_mode():
    with torch.inference_mode():
        return build()


@pytest.mark.parametrize("verb", VERBS)
def test_a_model_built_in_inference_mode(verb):
    VERBS[verb](built_in_inference_mode())


def test_inference_tensors_stay_the_same_objects_with_the_right_values():
    model, expected = built_in_inference_mode(), build()
    before = model[1].running_mean
    bn.recalibrate(model, BATCHES)
    bn.recalibrate(expected, BATCHES)
    assert model[1].running_mean is before
    assert before.is_inference()
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))
    assert bn.diagnose(model, BATCHES).findings == ()
    with bn.freeze(model):
        assert not model[1].weight.requires_grad
    assert model[1].weight.requires_grad


def test_layers_of_other_libraries_are_loaded_into_inference_tensors():
    model = built_in_inference_mode()
    arrays = {"gamma": np.ones(4), "beta": np.zeros(4), "moving_mean": np.arange(4.0), "moving_variance": np.ones(4)}
    bn.load_keras(model[1], list(arrays.values()), momentum=0.99, epsilon=1e-3)
    assert model[1].running_mean.tolist() == [0, 1, 2, 3]


def statistics(tensor):
    model = build()
    del model[1].running_mean
    if isinstance(tensor, nn.Parameter):
        model[1].running_mean = tensor
    else:
        vars(model[1])["running_mean"] = tensor
    return model


def with_buffer(tensor):
    model = build()
    model[1].running_mean = tensor
    return model


class Absolute(nn.Module):
    def forward(self, x):
        return x.abs()


def computed():
    model = build()
    nn.utils.parametrize.register_parametrization(model[1], "running_mean", Absolute())
    return model


UNUSABLE = {
    "a parameter": (lambda: statistics(nn.Parameter(torch.zeros(4))), "is a parameter, computed or a mere attribute"),
    "an attribute": (lambda: statistics(torch.zeros(4)), "is a parameter, computed or a mere attribute"),
    "computed": (computed, "is a parameter, computed or a mere attribute, .*register_buffer"),
    "without values": (lambda: with_buffer(torch.zeros(4, device="meta")), r"on the meta device, .* model.to_empty\("),
    "expanded": (lambda: with_buffer(torch.zeros(1).expand(4)), r"one element for several channels: .*\.clone\(\)"),
    "all without values": (lambda: build().to("meta"), r"on the meta device, .* model.load_state_dict\("),
}


@pytest.mark.parametrize("verb", NEED_VALUES)
@pytest.mark.parametrize("kind", UNUSABLE)
def test_statistics_that_cannot_be_exchanged_are_refused(verb, kind):
    make, message = UNUSABLE[kind]
    model = make()
    with pytest.raises(bn.InputError, match=message):
        VERBS[verb](model)


@pytest.mark.parametrize("example", [None, BATCHES[0]])
@pytest.mark.parametrize("kind", ["without values", "all without values"])
def test_folding_needs_values(kind, example):
    with pytest.raises(bn.InputError, match=r"on the meta device, which holds no values; call model.to_empty\("):
        bn.fold(UNUSABLE[kind][0](), example)


def test_batches_go_where_the_model_has_values():
    model = nn.Sequential(nn.Linear(4, 4, device="meta"), nn.BatchNorm1d(4)).eval()

    def load(module, args):  # as weights that are kept elsewhere
        module.weight = nn.Parameter(torch.eye(4))
        module.bias = nn.Parameter(torch.zeros(4))

    model[0].register_forward_pre_hook(load)
    change = bn.recalibrate(model, BATCHES).changes["1"]
    torch.testing.assert_close(change.moments.mean, torch.cat(BATCHES).double().mean(0), rtol=1e-6, atol=1e-6)


class Quantised(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.ao.nn.quantized.Quantize(0.1, 0, torch.quint8)
        self.norm = torch.ao.nn.quantized.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.scale(x[:, :, None, None])).dequantize()


@pytest.mark.parametrize("verb", NEED_VALUES)
def test_quantised_values_are_refused(verb):
    with pytest.raises(bn.InputError, match=r"^what reaches layer 'norm' is quantised: use the model before"):
        VERBS[verb](Quantised().eval())


VMAPPED = {
    "vmap": lambda m, b: torch.vmap(m)(b.reshape(2, 8, 4)),
    "vmap of jvp": lambda m, b: torch.vmap(lambda x: torch.func.jvp(m, (x,), (x,))[0])(b.reshape(2, 8, 4)),
    "jvp of vmap": lambda m, b: torch.func.jvp(torch.vmap(m), (b.reshape(2, 8, 4),), (b.reshape(2, 8, 4),))[0],
}


@pytest.mark.parametrize("forward", VMAPPED)
@pytest.mark.parametrize("options", [{}, {"memory": 0}, {"method": "one-pass"}], ids=str)
@pytest.mark.parametrize("verb", [bn.recalibrate, bn.diagnose])
def test_vmap_is_refused(forward, options, verb):
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        bn.InputError, match=r"^layer '1' is called within torch.vmap, .* give a forward= that runs the"
    ):
        verb(model, BATCHES, forward=VMAPPED[forward], **options)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


TRANSFORMED = {
    "grad": lambda m, b: torch.func.grad(lambda x: m(x).square().sum())(b),
    "vjp": lambda m, b: torch.func.vjp(m, b)[0],
    "jvp": lambda m, b: torch.func.jvp(m, (b,), (b,))[0],
    "grad of grad": lambda m, b: torch.func.grad(
        lambda x: torch.func.grad(lambda y: m(y).square().sum())(x).square().sum()
    )(b),
    "functional_call": lambda m, b: torch.func.functional_call(m, {k: v.clone() for k, v in m.state_dict().items()}, b),
    "inference_mode": lambda m, b: torch.inference_mode()(m)(b),
}


@pytest.mark.parametrize("forward", TRANSFORMED)
@pytest.mark.parametrize("options", [{}, {"memory": 0}, {"method": "one-pass"}], ids=str)
def test_transforms_that_leave_batches_whole_change_nothing(forward, options):
    model, expected = build(), build()
    bn.recalibrate(model, BATCHES, forward=TRANSFORMED[forward], **options)
    bn.recalibrate(expected, BATCHES, **options)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("forward", TRANSFORMED)
def test_diagnosing_within_a_transform(forward):
    report = bn.diagnose(build(), BATCHES, forward=TRANSFORMED[forward])
    assert [finding.layer for finding in report.findings] == ["1", "4"]
    assert report.gap.population == 0 < report.gap.running
    assert set(report.gap.damage) == {"1", "4"}
