"""What cannot be folded exactly stays, and says why."""

import itertools
import random
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.toolkit.folding import REASONS, fold
from folding_models import IMAGES, Functional, assert_untouched, conv, norm, state_of, statistics_given


def with_forward(forward, conv=conv, bn=norm):
    return lambda: Functional(forward, conv=conv(), bn=bn())


def hooked(module):
    module.register_forward_hook(lambda *_: None)
    return module


def with_own_forward(forward):
    """Return a batch norm of a class with another forward, which is given torch's."""
    own = type(
        "Own", (nn.BatchNorm2d,), {"forward": lambda self, x: forward(self, super(nn.BatchNorm2d, self).forward, x)}
    )
    return own(3)


def normalized(m, x, **changed):
    given = {"running_mean": m.running_mean, "running_var": m.running_var, "weight": m.weight, "bias": m.bias}
    return torch.relu(nn.functional.batch_norm(x, **{**given, "eps": m.eps, **changed}))


class TwoInputs(nn.BatchNorm2d):
    def forward(self, x, factor):
        return super().forward(x) * factor


def own_conv(forward, **settings):
    return type("Own", (nn.Conv2d,), {"forward": forward})(3, 3, 3, **settings)


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
    "inputs": (with_forward(lambda m, x: m.bn(m.conv(x), 2.0), bn=lambda: TwoInputs(3)), "bn", "own-forward"),
    "weight by itself": (lambda: nn.Sequential(Standardized(3, 3, 3), norm()), "1", "own-forward"),
    "parametrized": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(conv()), norm()), "1", "parametrized"),
    "weight_norm": (lambda: nn.Sequential(weight_normed(), norm()), "1", "parametrized"),
    "read": (with_forward(lambda m, x: m.bn(m.conv(x)) * m.conv.weight.sum()), "bn", "read"),
    "norm read": (with_forward(lambda m, x: m.bn(m.conv(x)) + m.bn.running_mean[0]), "bn", "read"),
    "unreached": (with_forward(lambda m, x: m.conv(x)), "bn", "unreached"),
    "overflow": (lambda: half(nn.Sequential(conv(), norm())), "1", "not-finite"),
}  # fmt: skip


NUMBERS = itertools.count()
OWN_FORWARD = {
    "input used": lambda m, forward, x: torch.relu(forward(x)) + x,
    "input changed": lambda m, forward, x: torch.relu(forward(x.abs())),
    "input changed in place": lambda m, forward, x: torch.relu(forward(x.abs_())),
    "input changed afterwards": lambda m, forward, x: (torch.relu(forward(x)), x.zero_())[0],
    "twice": lambda m, forward, x: torch.relu(forward(forward(x))),
    "weight used": lambda m, forward, x: torch.relu(forward(x)) * m.weight.mean(),
    "statistics used": lambda m, forward, x: torch.relu(forward(x)) * m.running_var.mean(),
    "other mean": lambda m, forward, x: normalized(m, x, running_mean=m.running_mean + 1),
    "other tensor": lambda m, forward, x: normalized(m, x, running_mean=torch.zeros(3)),
    "bias for mean": lambda m, forward, x: normalized(m, x, running_mean=m.bias),
    "no weight": lambda m, forward, x: normalized(m, x, weight=None),
    "other eps": lambda m, forward, x: normalized(m, x, eps=0.1),
    "statistics of the batch": lambda m, forward, x: normalized(m, x, training=True),
    "by value": lambda m, forward, x: torch.relu(forward(x)) if x.mean() < 9 else x,
    "random": lambda m, forward, x: torch.relu(forward(x)) + torch.randn(()),
    "random number": lambda m, forward, x: torch.relu(forward(x)) + 1e-9 * random.random(),
    "counting": lambda m, forward, x: torch.relu(forward(x)) + 1e-9 * next(NUMBERS),
    "read as a number": lambda m, forward, x: torch.relu(forward(x)) + m.eps * m.bias.sum().item(),
}


@pytest.mark.parametrize("case", OWN_FORWARD)
@torch.no_grad()
def test_a_forward_of_its_own_that_does_more_than_go_on_from_the_batch_norm_stays(case):
    model = statistics_given(nn.Sequential(conv(), with_own_forward(OWN_FORWARD[case]))).eval()
    folded = fold(model, IMAGES.float())
    assert folded.folding.kept == {"1": "own-forward"}
    torch.manual_seed(1)
    expected = model(IMAGES.float())
    torch.manual_seed(1)
    torch.testing.assert_close(folded(IMAGES.float()), expected)


OWN_CONVOLUTION = {
    "bias left out": lambda m, x: F.conv2d(x, m.weight, None),
    "bias twice": lambda m, x: F.conv2d(x, m.weight, m.bias) + m.bias.mean(),
    "weight used": lambda m, x: F.conv2d(x * m.weight.mean(), m.weight, m.bias),
    "weight changed": lambda m, x: F.conv2d(x, m.weight - m.weight.mean(), m.bias),
    "activation": lambda m, x: F.conv2d(x, m.weight, m.bias).relu(),
    "activation at some sizes": lambda m, x: F.conv2d(x, m.weight, m.bias).relu_() if x.shape[-1] > 99 else
        F.conv2d(x, m.weight, m.bias),
    "by value": lambda m, x: F.conv2d(x, m.weight, m.bias) if x.mean() < 9 else x,
    "bias for weight": lambda m, x: F.conv2d(x, m.weight, m.weight[0, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("case", OWN_CONVOLUTION)
@torch.no_grad()
def test_a_convolution_of_its_own_that_does_more_than_choose_its_input_takes_up_nothing(case, bias):
    if case == "bias twice" and not bias:
        return
    model = statistics_given(nn.Sequential(own_conv(OWN_CONVOLUTION[case], bias=bias), norm())).eval()
    folded = fold(model, IMAGES.float())
    assert folded.folding.kept == {"1": "own-forward"}
    assert torch.equal(folded(IMAGES.float()), model(IMAGES.float()))


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


@pytest.mark.parametrize(
    ("forward", "layer", "x"),
    [
        (lambda m, x: m.bn(m.layer(x).flatten(0, 1)), nn.Linear(8, 3), torch.randn(2, 2, 3, 8)),
        (lambda m, x: m.bn(m.layer(x).transpose(0, 1).reshape(-1, 3)), nn.Linear(8, 3), torch.randn(2, 2, 8)),
        (lambda m, x: m.bn(m.layer(x).reshape(1, 3, -1)), nn.Conv1d(3, 3, 1), torch.randn(2, 3, 8)),
        (lambda m, x: m.bn(m.layer(x).flatten(0, 1)), nn.Conv2d(3, 3, 1), torch.randn(2, 3, 3, 8)),
        (lambda m, x: m.layer(m.bn(x).flatten(2)), nn.Conv1d(3, 3, 1), torch.randn(2, 3, 8)),
    ],
)  # fmt: skip
@torch.no_grad()
def test_another_shape_may_make_something_else_of_the_channels(forward, layer, x):
    model = statistics_given(Functional(forward, layer=layer, bn=nn.BatchNorm1d(3))).eval()
    folded = fold(model, x)
    assert folded.folding.kept["bn"] in ("dimension", "no-neighbour")
    assert torch.equal(folded(x), model(x))


def test_says_what_it_needs():
    model = nn.Sequential(conv(), norm())
    with pytest.raises(bn.InputError, match=r"the model is in training mode, .* call model.eval\(\) first"):
        fold(model, IMAGES.float())
    with pytest.raises(bn.InputError, match=r"model is a str, expected a torch\.nn\.Module"):
        fold("model")
    silent = Functional(lambda m, x: [m.bn(m.conv(x)).argmax()], conv=conv(), bn=norm()).eval()
    with pytest.raises(bn.InputError, match="returns no tensors of floating point to compare: say how to run it"):
        fold(silent, IMAGES.float())
    model.eval()[0].lock = threading.Lock()
    with pytest.raises(
        bn.InputError, match=r"^the model cannot be copied, for its 0.lock \(.*\): take out what cannot be"
    ):
        fold(model, IMAGES.float())
