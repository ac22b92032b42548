"""Folding: what is computed in inference stays, the batch-norm work goes."""

import copy
import itertools
import random
import warnings
from collections.abc import Iterable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.networks import nets
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import batchnorm as bn
from batchnorm.network import fold_layers
from batchnorm.toolkit.folding import folding
from batchnorm.toolkit.folding.folding import REASONS, fold
from batchnorm.toolkit.folding.neighbours import LINEAR
from graphs import Residual


def randomized(network, seed=0):
    """Give a network statistics and parameters as a training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            for tensor, low in (
                (layer.weight, 0.1),
                (layer.bias, -1),
                (layer.running_mean, -2),
                (layer.running_var, 0),
            ):
                tensor.data.uniform_(low, 2, generator=generator)
    return network


@settings(max_examples=40, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 20), max_size=3),
    activation=st.sampled_from(["relu", "elu", "gelu", "identity"]),
    normalization=st.sampled_from(["batch", "none"]),
    normalize_logits=st.booleans(),
    dropout=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_it_computes_the_same(hidden, activation, normalization, normalize_logits, dropout, seed):
    network = bn.DenseNetwork(
        7, hidden, 3, activation=activation, normalization=normalization, normalize_logits=normalize_logits,
        dropout=dropout, generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    randomized(network, seed).double()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    x = torch.randn(9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    folded = network.folded()
    torch.testing.assert_close(folded(x), network(x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(network.float().folded()(x.float()), network(x.float()), rtol=1e-4, atol=1e-5)
    assert not any(isinstance(layer, nn.BatchNorm1d | nn.Dropout) for layer in folded)
    assert all(torch.equal(before[name].float(), tensor.float()) for name, tensor in network.state_dict().items())


def test_what_cannot_be_folded_stays_itself():
    layers = [nn.BatchNorm1d(4), nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2),
              nn.BatchNorm1d(2, track_running_stats=False)]  # fmt: skip
    assert [repr(layer) for layer in fold_layers(layers)] == [repr(layer) for layer in layers]


def test_batch_norm_without_gamma_and_beta_folds_too():
    layers = [nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False)]
    layers[1].running_mean.fill_(0.5)
    layers[1].eval()
    x = torch.randn(4, 3)
    torch.testing.assert_close(fold_layers(layers)[0](x), layers[1](layers[0](x)))


@pytest.fixture
def no_batch_norm(monkeypatch):
    def fail(*_):
        raise AssertionError("batch norm is computed")

    monkeypatch.setattr(nn.BatchNorm1d, "forward", fail)


def test_evaluation_does_no_batch_norm_work(blobs, no_batch_norm):
    bn.evaluate(randomized(bn.DenseNetwork(6, (8,), 3, normalize_logits=True)), blobs.test)


def test_a_copy_of_the_network_is_folded():
    network = bn.DenseNetwork(6, (8,), 3, dropout=0.5)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for parameter in network.folded().half().parameters():
            parameter.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_evaluation_computes_what_a_subclass_computes(blobs):
    class Wider(bn.DenseNetwork):
        def forward(self, x):
            return nn.functional.one_hot(torch.full((len(x),), 2), 3).float()

    network = Wider(6, (8,), 3)
    expected = (blobs.test.labels == 2).double().mean().item()
    assert bn.evaluate(network, blobs.test).accuracy == expected
    patched = bn.DenseNetwork(6, (8,), 3)
    patched.forward = network.forward
    assert bn.evaluate(patched, blobs.test).accuracy == expected


def test_evaluation_calls_the_hooks_of_who_listens_in(blobs):
    network, seen = bn.DenseNetwork(6, (8,), 3), []
    network[1].register_forward_hook(lambda *_: seen.append(1))
    bn.evaluate(network, blobs.test)
    assert seen


# Any model: `fold`.

CONVOLUTIONS = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}
NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
                layers.append(NORMS[dims](channels, affine=affine, bias=affine and draw.random() < 0.8))
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


def statistics_given(model, seed=0):
    """Give all batch norms statistics, and γ of both signs."""
    generator = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            if layer.weight is not None:
                layer.weight.data.uniform_(0.5, 1.5, generator=generator)
                layer.weight.data[::3] *= -1
            for tensor, low, high in (
                (layer.bias, -1, 1), (layer.running_mean, -1, 1), (layer.running_var, 0.5, 2)
            ):  # fmt: skip
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max().clamp(min=1e-30)).item()


def norms_of(model):
    return [name for name, layer in model.named_modules() if isinstance(layer, _BatchNorm)]


def state_of(model):
    return [
        (name, type(module), module.training, dict(module._forward_hooks), dict(module._forward_pre_hooks),
         {key: (id(t), None if t is None else t.clone()) for key, t in (module._parameters | module._buffers).items()})
        for name, module in model.named_modules()
    ]  # fmt: skip


def assert_untouched(model, before):
    for (*old, tensors), (*new, now) in zip(before, state_of(model), strict=True):
        assert old == new
        for key, (identity, value) in tensors.items():
            assert now[key][0] == identity
            assert value is None or torch.equal(value, now[key][1])


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


# What stays, and why.


class Functional(nn.Module):
    """Layers by name, and a forward of one's own."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def conv(**settings):
    return nn.Conv2d(3, 3, 3, **settings)


def norm(**settings):
    return nn.BatchNorm2d(3, **settings)


def with_forward(forward, conv=conv, bn=norm):
    return lambda: Functional(forward, conv=conv(), bn=bn())


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class Clamped(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).clamp(max=50)


class TwoInputs(nn.BatchNorm2d):
    def forward(self, x, factor):
        return super().forward(x) * factor


class Same(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class Standardized(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean(), bias)


class ByValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = conv(), norm()

    def forward(self, x):
        return self.bn(self.conv(x)) if x.mean() > -10 else self.conv(x)


def tied():
    model = nn.Sequential(conv(), norm(), nn.ReLU(), conv())
    model[3].weight = model[0].weight
    return model


def called_twice(m, x):
    return m.conv(m.bn(m.conv(x)))


def with_output_size(m, x):
    return m.conv(m.bn(x), output_size=x.shape[2:])


def other_norm_too(m, x):
    return m.bn(m.conv(x)) + m.other(m.conv(x))


def changed_in_between(m, x):
    x = x * 1
    y = m.bn(x)
    x += 1
    return m.conv(y)


def kept_for_later(m, x):
    m.features = m.conv(x)
    return m.bn(m.features)


def kept_in_a_list(m, x):
    m.seen = [m.conv(x)]
    return m.bn(m.seen[0])


def is_a_tensor(m, x):
    y = m.conv(x)
    return m.bn(y) + (y if isinstance(y, torch.Tensor) else 0)


def training(model, name):
    model.eval().get_submodule(name).train()
    return model


def last_hooked():
    """A hook between the two, on a module that only passes on what the first one returns."""
    return nn.Sequential(hooked(nn.Sequential(conv())), norm())


def weight_normed():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, and used
        return nn.utils.weight_norm(conv())


def half(model):
    model[0].weight.data.fill_(60000.0)
    model[1].running_var.fill_(1e-4)
    return model.half()


REFUSED = {
    "padded": (lambda: nn.Sequential(norm(), conv(padding=1)), "0", "padding"),
    "same": (lambda: nn.Sequential(norm(), conv(padding="same")), "0", "padding"),
    "spread": (lambda: nn.Sequential(norm(), nn.ConvTranspose2d(3, 3, 2)), "0", "transposed"),
    "strided": (lambda: nn.Sequential(norm(), nn.ConvTranspose2d(3, 3, 1, stride=2)), "0", "transposed"),
    "sized": (with_forward(with_output_size, conv=lambda: nn.ConvTranspose2d(3, 3, 1)), "bn", "transposed"),
    "called twice": (with_forward(called_twice, conv=lambda: nn.Conv2d(3, 3, 1)), "bn", "shared"),
    "two norms": (lambda: Functional(other_norm_too, conv=conv(), bn=norm(), other=norm()), "bn", "shared"),
    "tied": (tied, "1", "shared"),
    "residual": (with_forward(lambda m, x: (y := m.conv(x)) + m.bn(y)), "bn", "several-users"),
    "two users": (with_forward(lambda m, x: m.conv(y := m.bn(x)).sum() + y), "bn", "several-users"),
    "returned": (with_forward(lambda m, x: [y := m.conv(x), m.bn(y)]), "bn", "several-users"),
    "kept": (with_forward(kept_for_later), "bn", "several-users"),
    "kept in a list": (with_forward(kept_in_a_list), "bn", "several-users"),
    "asked for its kind": (with_forward(is_a_tensor), "bn", "several-users"),
    "interleaved": (with_forward(changed_in_between), "bn", "interleaved"),
    "norm hooked": (lambda: nn.Sequential(conv(), hooked(norm())), "1", "hooks"),
    "linear hooked": (lambda: nn.Sequential(hooked(conv()), norm()), "1", "hooks"),
    "identity hooked": (lambda: nn.Sequential(conv(), hooked(nn.Identity()), norm()), "2", "hooks"),
    "container hooked": (lambda: nn.Sequential(conv(), hooked(nn.Sequential(norm()))), "1.0", "hooks"),
    "container before hooked": (last_hooked, "1", "hooks"),
    "norm in training": (lambda: training(nn.Sequential(conv(), norm()), "1"), "1", "training"),
    "dropout in training": (lambda: training(nn.Sequential(conv(), nn.Dropout(), norm()), "1"), "2", "no-neighbour"),
    "no statistics": (lambda: nn.Sequential(conv(), norm(track_running_stats=False)), "1", "no-statistics"),
    "branch": (ByValue, "bn", "untraceable"),
    "alone": (lambda: nn.Sequential(nn.ReLU(), norm(), nn.ReLU()), "1", "no-neighbour"),
    "activation": (lambda: nn.Sequential(conv(), NormAct(3)), "1", "own-forward"),
    "clamp": (lambda: nn.Sequential(conv(), Clamped(3)), "1", "own-forward"),
    "inputs": (with_forward(lambda m, x: m.bn(m.conv(x), 2.0), bn=lambda: TwoInputs(3)), "bn", "own-forward"),
    "padding by itself": (lambda: nn.Sequential(Same(3, 3, 3), norm()), "1", "own-forward"),
    "weight by itself": (lambda: nn.Sequential(Standardized(3, 3, 3), norm()), "1", "own-forward"),
    "parametrized": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), norm()), "1", "parametrized"),
    "weight_norm": (lambda: nn.Sequential(weight_normed(), norm()), "1", "parametrized"),
    "read": (with_forward(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.sum()), "bn", "read"),
    "norm read": (with_forward(lambda m, x: m.bn(m.conv(x)) + m.bn.running_mean[0]), "bn", "read"),
    "unreached": (with_forward(lambda m, x: m.conv(x)), "bn", "unreached"),
    "overflow": (lambda: half(nn.Sequential(conv(), norm())), "1", "not-finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_what_cannot_be_folded_exactly_stays_and_says_why(case):
    torch.manual_seed(0)
    build, name, reason = REFUSED[case]
    model = statistics_given(build()) if case != "overflow" else build()
    model.training = False
    for module in model.modules():
        if "training" not in case:
            module.training = False
    x = torch.randn(2, 3, 8, 8, dtype=torch.float16 if case == "overflow" else torch.float32)
    before = state_of(model)
    folded = fold(model, x)
    assert_untouched(model, before)
    assert folded.folding.kept[name] == reason
    assert name not in folded.folding.folded
    assert reason in str(folded.folding)
    if "training" not in case:
        expected, found = model(x.clone()), folded(x.clone())
        if isinstance(expected, list):
            expected, found = torch.stack(expected), torch.stack(found)
        assert torch.equal(expected.nan_to_num(), found.nan_to_num())


def test_every_reason_has_a_case():
    assert {reason for _, _, reason in REFUSED.values()} | {"dimension"} == set(REASONS)


@torch.no_grad()
def test_dimension_1_of_sequences_is_not_the_features():
    x = torch.randn(2, 3, 4)
    for layers in ([nn.Linear(4, 3), nn.BatchNorm1d(3)], [nn.BatchNorm1d(3), nn.Linear(4, 4)]):
        model = statistics_given(nn.Sequential(*layers)).eval()
        folded = fold(model, x)
        assert [*folded.folding.kept.values()] == ["dimension"]
        assert torch.equal(folded(x), model(x))
    model = statistics_given(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))).eval()
    assert fold(model, torch.randn(2, 3, 3)).folding.kept == {"1": "dimension"}
    assert fold(model, torch.randn(2, 3)).folding.folded == {"1": "0"}


# What does go.


def assert_folds(model, x, expected, tolerance=1e-12):
    """Fold a model, in float64 and without changing it, and compare."""
    statistics_given(model).double().eval()
    before = state_of(model)
    folded = fold(model, x)
    assert_untouched(model, before)
    assert folded.folding.folded == expected
    with torch.no_grad():
        assert relative(folded(x.clone()), model(x.clone())) <= tolerance
    return folded


IMAGES = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_a_shared_pair_is_folded_as_both_are_always_called_together():
    encoder = nn.Sequential(conv(), norm(), nn.ReLU())
    model = Functional(lambda m, x: m.encoder(x) - m.encoder(x.flip(0)), encoder=encoder)
    model.alias = encoder
    folded = assert_folds(model, IMAGES, {"encoder.1": "encoder.0"})
    assert folded.alias is folded.encoder


class Branching(nn.Module):
    """Asks for shapes and values: it cannot be traced, what is in it can."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(conv(padding=1), norm(), nn.ReLU()) for _ in range(2))
        self.conv, self.bn = conv(), norm()

    def forward(self, x, skip=None, *others, scale=1.0, **more):
        for block in self.blocks:
            if x.shape[-1] > 2 and x.isfinite().all():
                x = block(x)
        return self.bn(self.conv(x)) * scale + sum(map(torch.mean, [skip, *others, *more.values()]))


def test_parts_of_what_cannot_be_traced_are_folded():
    model = Functional(
        lambda m, x: m.inner(m.bn(m.conv(x)), x, x, extra=x), conv=conv(), bn=norm(), inner=Branching()
    )  # fmt: skip
    expected = {"bn": "conv", "inner.blocks.0.1": "inner.blocks.0.0", "inner.blocks.1.1": "inner.blocks.1.0"}
    folded = assert_folds(model, IMAGES, expected)
    assert folded.folding.kept == {"inner.bn": "untraceable"}


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.bn = conv(), norm()

    def forward(self, x, both=None):
        y = self.conv(x)
        return self.bn(y) if both is None else self.bn(y) + y + both


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda m, x: m.part(x), None),
        (lambda m, x: m.part(x, both=x.mean()), "several-users"),
        (lambda m, x: m.part(x) + m.part(x, both=x.mean()), "untraceable"),
    ],
)
def test_a_part_is_traced_in_the_way_in_which_it_is_called(call, reason):
    def forward(m, x):
        return call(m, x) if len(x) else x

    model = statistics_given(Functional(forward, part=Optional())).eval()
    folding = fold(model, IMAGES.float()).folding
    assert folding.kept == ({} if reason is None else {"part.bn": reason})


def test_layers_are_folded_whatever_refers_to_them():
    model = Functional(lambda m, x: m.unregistered[1](m.unregistered[0](x)), conv=conv(), bn=norm())
    model.unregistered = [model.conv, model.bn]
    assert_folds(model, IMAGES, {"bn": "conv"})
    model = nn.Sequential(nn.Sequential(conv(), norm()))
    original = model[0]
    original.forward = lambda x: original[1](original[0](x)) * 2  # a copy still calls the original's layers
    folded = assert_folds(model, IMAGES, {})
    assert folded.folding.kept == {"0.1": "unreached"}


def test_layers_of_any_class_are_folded():
    class Traced(nn.BatchNorm2d):
        def forward(self, x):
            assert x.dim() == 4
            return super().forward(x * 1.0)

    frozen = nn.Sequential(conv(), norm())
    bn.freeze(frozen)
    for layer in (nn.SyncBatchNorm(3), Traced(3), frozen[1], norm(affine=False), norm(bias=False)):
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
        (lambda: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=5), 20, 20),
        (lambda: nets.resnet50(spatial_dims=2, n_input_channels=3, num_classes=5), 53, 53),
        (lambda: nets.resnet18(spatial_dims=3, n_input_channels=3, num_classes=5), 20, 20),
        (lambda: nets.SEResNet50(spatial_dims=2, in_channels=3, num_classes=4), 53, 53),
        # Before its activations: only those between two convolutions have a neighbour.
        (lambda: nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=4), 121, 59),
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


# The copy, the original and the record.


@torch.no_grad()
def test_a_copy_keeps_all_else():
    model = nn.Sequential(conv(bias=False), norm(), nn.Sequential(nn.Conv2d(3, 3, 1), norm()), nn.Dropout())
    statistics_given(model).to(memory_format=torch.channels_last).eval()
    model[3].train()
    model[0].weight.requires_grad_(False)
    model[2][0].bias.requires_grad_(False)
    model[2][0].kept = "as it was"
    folded = fold(model, IMAGES.float())
    assert [*folded.state_dict()] == ["0.weight", "0.bias", "2.0.weight", "2.0.bias"]
    assert [p.requires_grad for p in folded.parameters()] == [False, False, True, False]
    assert folded[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [type(m) for m in folded] == [nn.Conv2d, nn.Identity, nn.Sequential, nn.Dropout]
    assert folded[2][0].kept == "as it was"
    assert [m.training for m in folded] == [False, False, False, True]
    before = [p.clone() for p in model.parameters()]
    for parameter in folded.parameters():
        parameter.zero_()
    assert all(map(torch.equal, before, model.parameters()))
    assert fold(folded, IMAGES.float()).folding.folded == {}


def test_a_model_without_batch_norm_is_copied():
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    folded = fold(model)
    assert folded.folding == folding.Folding({}, {}, 0.0)
    assert folded is not model
    assert torch.equal(folded[0].weight, model[0].weight)
    assert str(folded.folding) == "0 of 0 batch norms folded; the outputs deviate by 0"


def test_says_what_it_needs():
    model = nn.Sequential(conv(), norm())
    with pytest.raises(bn.InputError, match=r"the model is in training mode, .* call model.eval\(\) first"):
        fold(model, IMAGES.float())
    with pytest.raises(bn.InputError, match=r"model is a str, expected a torch\.nn\.Module"):
        fold("model")
    silent = Functional(lambda m, x: [m.bn(m.conv(x)).argmax()], conv=conv(), bn=norm()).eval()
    with pytest.raises(bn.InputError, match="returns no tensors of floating point to compare: say how to run it"):
        fold(silent, IMAGES.float())
    model.eval()[0].cached = model[0](IMAGES.float())
    with pytest.raises(bn.InputError, match=r"the model cannot be copied .*: fold works on a copy.deepcopy of it"):
        fold(model, IMAGES.float())


def test_a_model_that_raises_is_left_as_it_was():
    def raises(m, x):
        m.count += 1
        m.seen.append(x)
        return m.bn(m.conv(x)) if len(x) == 1 else 1 / 0

    model = Functional(raises, conv=conv(), bn=norm()).eval()
    model.count, model.seen = 0, []
    before, state = state_of(model), torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        fold(model, IMAGES.float())
    assert_untouched(model, before)
    assert (model.count, model.seen) == (0, [])
    folded = fold(model, IMAGES[:1].float())
    assert (folded.count, folded.seen) == (0, [])
    assert torch.equal(state, torch.get_rng_state())


def test_what_a_model_writes_is_written_to_a_copy():
    def forward(m, x):
        m.steps += 1
        return m.bn(m.conv(x.relu_()))

    model = Functional(forward, conv=conv(), bn=norm())
    model.register_buffer("steps", torch.zeros(()))
    x = IMAGES.clone()
    folded = assert_folds(model, x, {"bn": "conv"})
    fold(model, x)
    assert torch.equal(x, IMAGES)
    assert folded.steps == 1  # of the comparison in the test


def test_random_numbers_are_the_same_in_both_runs():
    model = Functional(lambda m, x: m.bn(m.conv(x)) + torch.randn(()), conv=conv(), bn=norm()).eval()
    assert fold(model, IMAGES.float()).folding.deviation < 1e-5


def test_a_copy_that_computes_something_else_is_never_returned():
    numbers = itertools.count()
    counting = Functional(lambda m, x: m.bn(m.conv(x)) + next(numbers), conv=conv(), bn=norm()).eval()
    with pytest.raises(bn.BatchnormError, match=r"deviates by .* Either it is not a function of the input alone"):
        fold(counting, IMAGES.float())
    asking = Functional(lambda m, x: m.bn(m.conv(x)) * m.bn.num_features, conv=conv(), bn=norm()).eval()
    with pytest.raises(
        bn.BatchnormError, match=r"raises AttributeError: .*; does its code use attributes of the layers"
    ):
        fold(asking, IMAGES.float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_wrong_fold_is_noticed_in_any_dtype(dtype, monkeypatch):
    model = statistics_given(nn.Sequential(conv(), norm())).eval().to(dtype)
    assert fold(model, IMAGES.to(dtype)).folding.deviation < 20 * torch.finfo(dtype).eps
    monkeypatch.setattr("batchnorm.toolkit.folding.absorption.fold_into_preceding", lambda w, b, s, t, **_: (w, t))
    with pytest.raises(bn.BatchnormError, match="please report it"):
        fold(model, IMAGES.to(dtype))


@torch.no_grad()
def test_examples_of_any_kind():
    model = statistics_given(nn.Sequential(conv(), norm())).eval()
    x = IMAGES.float()
    for batch, forward in (
        ((x, "label"), None),
        ({"input": x, "label": 1}, None),
        ({"a": {"b": x}}, lambda model, batch: {"logits": (model(batch["a"]["b"]), None)}),
        (x, lambda model, batch: model[1](model[0](batch))),  # not the model's own forward
        (None, None),
    ):
        folded = fold(model, batch, forward=forward, device="cpu")
        assert folded.folding.folded == {"1": "0"}
        assert relative(folded(x), model(x)) < 1e-6
    parallel = nn.DataParallel(model).eval()
    assert isinstance(fold(parallel, x), nn.Sequential)


def test_torchs_own_raises_without_gamma_and_beta_where_ours_folds():
    layers = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, affine=False))
    linear, norm = layers
    with pytest.raises((AttributeError, TypeError)):
        nn.utils.fusion.fuse_linear_bn_weights(
            linear.weight, linear.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
    assert_folds(layers, torch.randn(4, 3, dtype=torch.float64), {"1": "0"})


def test_infinite_and_missing_values_count_as_equal_where_both_have_them():
    nan, inf = float("nan"), float("inf")
    for a, b, expected in (
        ([nan, 1.0], [nan, 1.0], 0.0), ([inf, 1.0], [inf, 2.0], 0.5), ([nan, 1.0], [1.0, 1.0], inf), ([], [], 0.0),
        ([0.5], [0.0], 0.5),
    ):  # fmt: skip
        assert folding._deviation([torch.tensor(a)], [torch.tensor(b)]) == expected


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)


def checkpointed(x):
    return torch.utils.checkpoint.checkpoint(torch.relu, x, use_reentrant=True)


@pytest.mark.parametrize(
    "function",
    [
        Swish.apply,
        checkpointed,
        lambda x: torch.as_tensor(x),
        lambda x: torch.full((1,), x.mean()),
        torch.func.vmap(torch.relu),
    ],
    ids=["autograd", "checkpoint", "as_tensor", "full", "vmap"],
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # there is no gradient in inference
def test_code_that_hands_values_to_c_is_left_closed(function):
    part = Functional(lambda m, x: function(m.bn(m.conv(x))), conv=conv(), bn=norm())
    model = statistics_given(nn.Sequential(conv(), norm(), part)).eval()
    folding = fold(model, IMAGES.float()).folding
    assert folding.folded["1"] == "0"
    assert {**folding.folded, **folding.kept}["2.bn"] in ("2.conv", "untraceable")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (torch.Tensor, "several-users"),
        (Iterable, "several-users"),
        ((int, (torch.Tensor, str)), "several-users"),
        (int | torch.Tensor, "several-users"),
        (list, None),
        (nn.Parameter, "untraceable"),
        ((str, nn.Parameter | None), "untraceable"),
    ],
)
def test_a_symbol_is_of_the_kind_of_what_it_stands_for(kind, reason):
    def forward(m, x):
        y = m.conv(x)
        return m.bn(y) + y if isinstance(y, kind) else m.bn(y)

    model = statistics_given(Functional(forward, conv=conv(), bn=norm())).eval()
    assert fold(model, IMAGES.float()).folding.kept.get("bn") == reason
    assert repr(isinstance) == "<built-in function isinstance>"


class Elsewhere(nn.Module):
    """Calls a layer of another part, in code that cannot be traced."""

    def __init__(self, layer):
        super().__init__()
        self.layers = (layer,)  # not registered

    def forward(self, x):
        return self.layers[0](x) if x.mean() < 1e9 else x


def test_calls_that_the_code_does_not_show_are_counted():
    model = Functional(lambda m, x: m.elsewhere(m.bn(m.conv(x))), conv=nn.Conv2d(3, 3, 1), bn=norm())
    model.elsewhere = Elsewhere(model.conv)
    assert_folds(model, IMAGES, {})
    assert fold(model, IMAGES).folding.kept == {"bn": "untraceable"}


def test_a_shape_is_no_value():
    def forward(m, x):
        y = m.conv(x)
        n, channels = y.shape[0], y.size(1)
        return m.bn(y).reshape(n, channels, -1)

    assert_folds(Functional(forward, conv=conv(), bn=norm()), IMAGES, {"bn": "conv"})
