"""Folding: what is computed in inference stays, the batch-norm work goes."""

import copy
import itertools
import math
import pickle
import random

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.networks import nets
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

import batchnorm as bn
from batchnorm.toolkit.folding.folding import fold
from batchnorm.toolkit.folding.neighbours import LINEAR
from folding_models import (
    CONVOLUTIONS,
    IMAGES,
    NORMS,
    Functional,
    assert_folds,
    assert_untouched,
    conv,
    norm,
    relative,
    state_of,
    statistics_given,
)
from graphs import Residual
from helpers import norm_without_bias


def random_linear(draw, dims, fan_in, keep_shape):
    """Return a linear or convolution layer with random settings, and how many channels it returns."""
    groups = draw.choice([g for g in (1, 1, 2, 3, 4) if fan_in % g == 0])
    fan_out = fan_in if keep_shape else groups * draw.randint(1, 3)
    bias = draw.random() < 0.5
    if dims == 0:
        return nn.Linear(fan_in, fan_out, bias=bias), fan_out
    kernel = 1 if keep_shape else draw.choice([1, 2, 3])
    conv, transposed = CONVOLUTIONS[dims]
    if draw.random() < 0.3:
        stride = 1 if keep_shape else draw.choice([1, 2])
        return transposed(fan_in, fan_out, kernel, stride=stride, groups=groups, bias=bias), fan_out
    mode = draw.choice(["zeros", "zeros", "reflect", "replicate", "circular"])
    padding = 0 if keep_shape else draw.choice([0, 1, "same", "valid"])
    kernel = 3 if padding == "same" else kernel
    stride = draw.choice([1, 2]) if not keep_shape and padding != "same" else 1
    dilation = draw.choice([1, 2]) if padding in (1, "same") else 1
    layer = conv(
        fan_in, fan_out, kernel, padding=padding, padding_mode=mode, groups=groups, bias=bias, stride=stride,
        dilation=dilation,
    )  # fmt: skip
    return layer, fan_out


def random_layers(draw, dims, channels, count, keep_shape=False):
    layers = []
    for _ in range(count):
        kind = draw.choice(["linear", "linear", "norm", "norm", "norms", "activation", "nothing", "residual"])
        if kind == "linear":
            layer, channels = random_linear(draw, dims, channels, keep_shape)
            layers.append(layer)
        elif kind in ("norm", "norms"):
            for _ in range(1 + (kind == "norms")):
                affine = draw.random() < 0.8
                layers.append(NORMS[dims](channels, affine=affine))
                if affine and draw.random() >= 0.8:
                    layers[-1] = norm_without_bias(NORMS[dims], channels)
        elif kind == "activation":
            layers.append(draw.choice([nn.ReLU(inplace=True), nn.Tanh(), nn.LeakyReLU(), nn.SiLU()]))
        elif kind == "nothing":
            layers.append(draw.choice([nn.Identity(), nn.Dropout(0.5), nn.Sequential()]))
        elif not keep_shape:
            layers.append(Residual(*random_layers(draw, dims, channels, 4, keep_shape=True)[0]))
    return layers, channels


def random_model(seed):
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dims, channels = draw.choice([0, 1, 2, 2, 3]), draw.choice([2, 3, 4])
    x = torch.randn(3, channels, *[7] * dims, dtype=torch.float64)
    layers, y = [], x.clone()
    for layer in random_layers(draw, dims, channels, draw.randint(1, 8))[0]:
        try:
            y = layer.double().eval()(y)
        except RuntimeError:  # too few positions are left
            break
        layers.append(layer)
    if draw.random() < 0.5:
        layers += [nn.Flatten(), nn.Linear(y[0].numel(), 4), nn.BatchNorm1d(4)]
    return statistics_given(nn.Sequential(*layers), seed).eval(), x


def norms_of(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 10**9))
@example(seed=51262)  # an output of nearly 0
@torch.no_grad()
def test_random_models_compute_the_same(seed):
    model, x = random_model(seed)
    model.double()
    before, x_before = state_of(model), x.clone()
    folded, expected = fold(model, x), model(x.clone())
    assert relative(folded(x.clone()), expected) <= 1e-12
    assert_untouched(model, before)
    assert torch.equal(x, x_before)
    assert sorted(folded.folding.folded) == sorted(set(norms_of(model)) - set(norms_of(folded)))
    assert sorted(folded.folding.kept) == sorted(norms_of(folded))
    for name in beside_linear(model):
        assert name in folded.folding.folded
    single, own = fold(model.float(), x.float())(x.float()), model(x.float())
    # Where terms cancel, the model's own rounding is larger than that.
    assert relative(single, own) <= max(1e-5, 2 * relative(own, expected))


def beside_linear(model):
    """Return the batch norms that come right after a linear layer."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Sequential):
            for (_, before), (key, after) in itertools.pairwise(module.named_children()):
                if isinstance(before, LINEAR) and isinstance(after, _BatchNorm):
                    yield f"{name}.{key}".removeprefix(".")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("transposed", [False, True])
@torch.no_grad()
def test_grouped_convolutions_take_up_what_is_before_them(dims, transposed):
    torch.manual_seed(0)
    kind = CONVOLUTIONS[dims][transposed]
    conv = kind(6, 4, 1 if transposed else 2, groups=2, bias=False)
    model = statistics_given(nn.Sequential(NORMS[dims](6), conv)).double().eval()
    x = torch.randn(2, 6, *[4] * dims, dtype=torch.float64)
    folded = fold(model, x)
    assert folded.folding.folded == {"0": "1"}
    assert relative(folded(x), model(x)) <= 1e-14


@torch.no_grad()
def test_rows_of_batch_norms_become_one_layer():
    torch.manual_seed(0)
    row = [nn.BatchNorm2d(3), nn.Identity(), nn.BatchNorm2d(3, affine=False), nn.Dropout(), nn.BatchNorm2d(3)]
    x = torch.randn(2, 3, 5, 5, dtype=torch.float64)
    for before, after, expected in (
        ([nn.Conv2d(3, 3, 2)], [], {"1": "0", "3": "0", "5": "0"}),
        ([], [nn.Conv2d(3, 3, 2)], {"0": "5", "2": "5", "4": "5"}),
        ([nn.ReLU()], [nn.ReLU()], {"3": "1", "5": "1"}),  # the first takes up the others
    ):
        model = statistics_given(nn.Sequential(*before, *copy.deepcopy(row), *after)).double().eval()
        folded = fold(model, x)
        assert folded.folding.folded == expected
        assert relative(folded(x), model(x)) <= 1e-14


@torch.no_grad()
def test_channels_repeat_over_the_positions_that_are_flattened():
    class Flattening(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.BatchNorm2d(3), nn.Linear(12, 2)

        def forward(self, x):
            return self.linear(torch.flatten(self.norm(x), 1))

    x = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    for model in (nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)), Flattening()):
        statistics_given(model).double().eval()
        folded = fold(model, x)
        assert len(folded.folding.folded) == 1
        assert relative(folded(x), model(x)) <= 1e-14


def test_layers_of_any_class_are_folded():
    class Traced(nn.BatchNorm2d):
        def forward(self, x):
            assert x.dim() == 4
            return super().forward(x * 1.0)

    frozen = nn.Sequential(conv(), norm())
    bn.freeze(frozen)
    for layer in (nn.SyncBatchNorm(3), Traced(3), frozen[1], norm(affine=False), norm_without_bias(nn.BatchNorm2d, 3)):
        assert_folds(nn.Sequential(conv(bias=False), layer), IMAGES, {"1": "0"})
    lazy = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d())
    with pytest.raises(bn.InputError, match="layers '0', '1' are not yet initialised: run the model on"):
        fold(lazy.eval())
    lazy(IMAGES.float())
    assert_folds(lazy, IMAGES, {"1": "0"})
    network = bn.DenseNetwork(3, (4,), 2, bn_variance="biased")
    assert_folds(network, torch.randn(5, 3, dtype=torch.float64), {"1": "0"})


def test_buffers_are_used_where_they_are_not_tracked():
    untracked = norm()
    untracked.track_running_stats = False
    assert_folds(nn.Sequential(conv(), untracked), IMAGES, {"1": "0"})


@torch.no_grad()
def test_models_that_others_wrote_are_folded():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    for build, count, share in (
        (lambda: nets.ResNet("basic", [1, 1, 1, 1], [8, 16, 32, 64], 2, 3, num_classes=5), 12, 12),
        (lambda: nets.ResNet("bottleneck", [2, 1, 1, 1], [8, 16, 32, 64], 2, 3, num_classes=5), 20, 20),
        (lambda: nets.ResNet("basic", [1, 1, 1, 1], [8, 16, 32, 64], 3, 3, num_classes=5), 12, 12),
        (lambda: nets.SEResNet50([2, 1, 1, 1], spatial_dims=2, in_channels=3, num_classes=4), 20, 20),
        # Before its activations: only those between two convolutions have a neighbour.
        (lambda: nets.DenseNet(2, 3, 4, block_config=(2, 3, 1)), 16, 7),
        (lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=3, num_classes=4), 49, 49),
        (lambda: nets.UNet(2, 3, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch"), 9, 9),
        (lambda: nets.UNet(3, 3, 2, (4, 8), (2,), norm="batch"), 2, 2),
        (lambda: nets.BasicUNet(2, 3, 2, (4, 4, 8, 8, 16, 4), norm="batch"), 18, 18),
    ):
        model = statistics_given(build()).eval()
        images = x if "3" not in str(next(m for m in model.modules() if isinstance(m, _BatchNorm))).split("(")[0] else (
            torch.randn(1, 3, 16, 16, 16)
        )  # fmt: skip
        assert len(norms_of(model)) == count
        before = state_of(model)
        folded = fold(model, images)
        assert len(folded.folding.folded) == share, type(model)
        assert set(folded.folding.kept.values()) <= {"no-neighbour"}
        assert relative(folded(images), model(images)) <= 1e-4
        assert_untouched(model, before)
        model.double()
        assert relative(fold(model, images.double())(images.double()), model(images.double())) <= 1e-10


def test_torchs_own_raises_without_gamma_and_beta_where_ours_folds():
    layers = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    linear, norm = layers
    with pytest.raises((AttributeError, TypeError)):
        nn.utils.fusion.fuse_linear_bn_weights(
            linear.weight, linear.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    assert_folds(layers, torch.randn(4, 3, dtype=torch.float64), {"1": "0"})


ROWS = torch.randn(4, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.bn((y := m.linear(x)).flatten(0, 1)).reshape_as(y),
        lambda m, x: m.bn((y := m.linear(x)).flatten(0, -2)).view_as(y).relu_(),
        lambda m, x: m.bn(torch.flatten(y := m.linear(x), end_dim=1)).reshape(y.shape),
        lambda m, x: m.bn((y := m.linear(x)).reshape(-1, y.shape[-1])).view(x.shape[0], -1, 3),
        lambda m, x: m.bn(m.linear(x).view(-1, 3)),
        lambda m, x: m.bn(torch.reshape(m.linear(x), (-1, 3))),
        lambda m, x: m.bn(m.linear(x[:, 0].unsqueeze(1)).squeeze(1)),
        lambda m, x: m.linear(m.bn(x.flatten(0, 1)).reshape_as(x)),
        lambda m, x: m.linear(m.bn(x.reshape(-1, 3)).view(x.shape)),
    ],
)  # fmt: skip
def test_rows_stay_rows_whatever_shape_they_are_given_on_the_way(forward):
    assert_folds(Functional(forward, linear=nn.Linear(3, 3, bias=False), bn=nn.BatchNorm1d(3)), ROWS, {"bn": "linear"})


def test_channels_stay_channels_where_positions_are_flattened():
    for flatten in (lambda y: y.flatten(2), lambda y: torch.flatten(y, 2, 3)):
        model = Functional(lambda m, x, f=flatten: m.bn(f(m.conv(x))), conv=conv(), bn=nn.BatchNorm1d(3))
        assert_folds(model, IMAGES, {"bn": "conv"})
    assert_folds(nn.Sequential(conv(), nn.Flatten(2), nn.BatchNorm1d(3)), IMAGES, {"2": "0"})


class NormAct(nn.BatchNorm2d):
    """As timm's: torch's own forward to the letter, then modules that it holds."""

    def __init__(self, channels, act=None, **settings):
        super().__init__(channels, **settings)
        self.drop, self.act = nn.Dropout(), act or nn.ReLU(inplace=True)

    def forward(self, x):
        torch._assert(x.ndim == 4, "expected 4D input")
        bn_training = self.training or ((self.running_mean is None) and (self.running_var is None))
        x = nn.functional.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            bn_training,
            self.momentum,
            self.eps,
        )
        return self.act(self.drop(x))


class ThenAct(nn.BatchNorm2d):
    """With a function, a tensor of its own, and a question about its input."""

    def __init__(self, channels):
        super().__init__(channels)
        self.slope = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x):
        y = super().forward(x)
        return nn.functional.prelu(y if isinstance(x, torch.Tensor) else x, self.slope).reshape(x.shape)


class SyncThenAct(nn.SyncBatchNorm):
    def forward(self, x):
        x = super().forward(x)
        return self.act(x) if hasattr(self, "act") else x.relu_()


class Widened(nn.BatchNorm2d):
    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y, -y], 1).clamp(max=50)


OWN_FORWARD = [
    lambda: NormAct(3),
    lambda: NormAct(3, nn.SiLU(), affine=False),
    lambda: NormAct(3, nn.PReLU(), eps=1e-3),
    lambda: NormAct(3, nn.Sequential(nn.Tanh(), conv())),
    lambda: norm_without_bias(NormAct, 3),
    lambda: ThenAct(3),
    lambda: SyncThenAct(3),
    lambda: Widened(3),
]


@pytest.mark.parametrize("build", OWN_FORWARD)
def test_of_a_layer_with_a_forward_of_its_own_what_comes_after_the_batch_norm_stays(build):
    layer = build()
    model = nn.Sequential(conv(bias=False), layer)
    kept = dict(layer.named_children())
    folded = assert_folds(model, IMAGES, {"1": "0"})
    assert list(map(type, folded[1].children())) == list(map(type, kept.values()))
    assert {name for name, _ in folded[1].named_parameters()} == {
        name for name, _ in layer.named_parameters() if name not in ("weight", "bias")
    }
    again = pickle.loads(pickle.dumps(copy.deepcopy(folded)))
    assert torch.equal(again(IMAGES), folded(IMAGES))
    assert fold(again, IMAGES).folding.folded == {}


def test_what_comes_after_a_batch_norm_stands_between_it_and_the_layer_that_follows():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), NormAct(3), norm(), NormAct(3), nn.Conv2d(3, 3, 1))
    folded = assert_folds(model, IMAGES, {"1": "0", "3": "2"})
    assert folded.folding.kept == {"2": "no-neighbour"}
    assert_folds(nn.Sequential(NormAct(3), norm(), nn.Conv2d(3, 3, 1)), IMAGES, {"1": "2"})
    for last, reason in ((conv(), "own-forward"), (nn.Tanh(), "no-neighbour")):
        assert fold(nn.Sequential(NormAct(3), last).eval(), IMAGES.float()).folding.kept == {"0": reason}


def test_one_activation_may_be_held_by_many_layers():
    act = nn.LeakyReLU(inplace=True)
    model = nn.Sequential(conv(), NormAct(3, act), conv(), NormAct(3, act), act)
    folded = assert_folds(model, IMAGES, {"1": "0", "3": "2"})
    assert folded[1].act is folded[3].act is folded[4]


class SameByHand(nn.Conv2d):
    """As EfficientNets have it: pads only if that is needed, to one more behind than in front."""

    def forward(self, x):
        ih, iw = x.size()[-2:]
        kh, kw = self.weight.size()[-2:]
        sh, sw = self.stride
        ph = max((math.ceil(ih / sh) - 1) * sh + (kh - 1) * self.dilation[0] + 1 - ih, 0)
        pw = max((math.ceil(int(iw) / sw) - 1) * sw + (kw - 1) * self.dilation[1] + 1 - iw, 0)
        if ph > 0 or pw > 0:
            x = F.pad(x, [pw // 2, pw - pw // 2, ph // 2, ph - ph // 2])
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class PaddedFirst(nn.Conv2d):
    def forward(self, x):
        return super().forward(F.pad(x, (1, 1, 1, 1), value=1.0))


class Doubled(nn.ConvTranspose2d):
    def forward(self, x):
        return F.conv_transpose2d(x * 2, self.weight, bias=self.bias, stride=self.stride, groups=self.groups)


class Clipped(nn.Linear):
    def forward(self, x):
        return F.linear(x.clamp(-1, 1), self.weight, self.bias)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda bias: nn.Sequential(SameByHand(3, 6, 3, stride=2, bias=bias), nn.BatchNorm2d(6)),
        lambda bias: nn.Sequential(SameByHand(3, 6, 3, stride=2, groups=3, bias=bias), NormAct(6)),
        lambda bias: nn.Sequential(PaddedFirst(3, 3, 3, bias=bias), norm()),
        lambda bias: nn.Sequential(Doubled(3, 6, 3, groups=3, bias=bias), nn.BatchNorm2d(6)),
        lambda bias: nn.Sequential(Clipped(8, 4, bias=bias), nn.Flatten(0, 2), nn.BatchNorm1d(4)),
    ],
)
def test_layers_that_prepare_their_input_take_up_what_follows(build, bias):
    model = build(bias)
    last = str(len(model) - 1)
    folded = assert_folds(model, IMAGES, {last: "0"})
    with torch.no_grad():
        odd = torch.randn(1, 3, 8, 8, dtype=torch.float64)[..., :7, : 8 if isinstance(model[0], nn.Linear) else 5]
        assert relative(folded(odd), model(odd)) <= 1e-12


def test_layers_that_prepare_their_input_take_up_nothing_before_them():
    for layer in (PaddedFirst(3, 3, 3), SameByHand(3, 3, 1)):
        assert fold(nn.Sequential(norm(), layer).eval(), IMAGES.float()).folding.kept == {"0": "own-forward"}
