"""Who feeds whom, read from the model's code: what is seen there, and where it cannot be read."""

import builtins
import math
from collections.abc import Iterable
from math import ceil
from typing import NamedTuple

import pytest
import torch
from torch import nn

from batchnorm.toolkit.folding.folding import fold
from batchnorm.toolkit.structure import find_sites
from folding_models import IMAGES, Functional, assert_folds, conv, norm, statistics_given


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


class Output(NamedTuple):
    parts: tuple[torch.Tensor, ...]


class Splitting(nn.Module):
    def forward(self, x):
        return Output(x.split(1) if x.isfinite().all() else (x,))


class Joining(nn.Module):
    def forward(self, parts):
        first = parts[0]
        return torch.cat([first, *(part * 2 for part in parts[1:])])


def test_what_one_closed_part_takes_out_of_the_output_of_another_leaves_the_code_around_them_traced():
    parts = {"split": Splitting(), "join": Joining()}
    model = Functional(lambda m, x: m.join(m.split(m.bn(m.conv(x))).parts), conv=conv(), bn=norm(), **parts)
    assert_folds(model, IMAGES, {"bn": "conv"})


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


def same(size, kernel=3, stride=2):
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)


def same_of_ints(x):
    return same(int(x.shape[-2])), same(int(x.size(-1)))


def same_of_anything(size):
    if isinstance(size, torch.Tensor):
        return size.clamp(min=0)
    return max((ceil(size / 2) - 1) * 2 + 3 - size, 0)


def padded(x, ph, pw):
    return nn.functional.pad(x, (pw // 2, pw - pw // 2, ph // 2, ph - ph // 2))


def given_ints(m, x):
    h, w = int(x.shape[-2]), int(x.shape[-1])
    return m.bn(m.conv(padded(x, max(same(h), 0), same(w))))


def shape_in_parts(m, x):
    h, w = x.size()[-2:]
    return m.bn(m.conv(padded(x, same_of_anything(h), same_of_anything(w))))


def padded_if_need_be(m, x):
    ph, pw = same(int(x.shape[2])), same(x.size(3))
    if ph > 0 or pw > 0:
        x = padded(x, ph, pw)
    return m.bn(m.conv(x))


SAME = {
    "if need be": padded_if_need_be,
    "sizes": lambda m, x: m.bn(m.conv(padded(x, same(x.shape[-2]), same(x.shape[-1])))),
    "ints": given_ints,
    "ints in a helper": lambda m, x: m.bn(m.conv(padded(x, *same_of_ints(x)))),
    "size": lambda m, x: m.bn(m.conv(padded(x, *(same_of_anything(n) for n in (x.size(2), x.size(3)))))),
    "shape in parts": shape_in_parts,
    "largest": lambda m, x: m.bn(m.conv(padded(x, max([same(x.shape[2]), 1]), min(2, abs(x.shape[3] - 9))))),
    "float": lambda m, x: m.bn(m.conv(padded(x, round(float(x.shape[2]) / 8), math.floor(x.shape[3] * 0.25)))),
    "after": lambda m, x: nn.functional.interpolate(m.bn(m.conv(x)), size=(int(x.shape[2] * 2), int(x.size(3) * 2))),
}


@pytest.mark.parametrize("case", SAME)
def test_arithmetic_with_sizes_is_followed(case):
    before = max, min, int, float, same_of_ints.__code__, given_ints.__code__
    assert_folds(Functional(SAME[case], conv=conv(stride=2), bn=norm()), IMAGES, {"bn": "conv"})
    assert (max, min, int, float, same_of_ints.__code__, given_ints.__code__) == before
    assert not [name for name in vars(builtins) if "batchnorm" in name]


def of_a_type(m, x):
    n = int(x.shape[-1])
    y = m.conv(x)
    return m.bn(y) + y if type(n) is int else m.bn(y)


def asked_after(m, x):
    y = m.conv(x)
    return m.bn(y) if x.shape[-1] > 99 else m.bn(y) + y.mean()


def between(m, x):
    y = m.conv(x)
    return m.bn(y) if x.shape[-1] < 99 else m.bn(y.relu())


def asked_twice(m, x):
    y = m.conv(x)
    z = m.bn(y) if int(x.shape[-1]) < 99 else 2 * m.bn(y)
    return z if len([z]) == z.dim() - 3 else z.relu()


@pytest.mark.parametrize(
    ("forward", "reason"), [(asked_after, "several-users"), (between, "no-neighbour"), (asked_twice, None)]
)
def test_each_way_that_sizes_lead_through_the_code_must_allow_a_fold(forward, reason):
    model = statistics_given(Functional(forward, conv=conv(), bn=norm())).eval()
    assert fold(model, IMAGES.float()).folding.kept.get("bn") == reason


def test_ways_through_parts_do_not_multiply():
    blocks = nn.Sequential(*[Functional(padded_if_need_be, conv=conv(), bn=norm()) for _ in range(9)])
    assert_folds(blocks, IMAGES, {f"{i}.bn": f"{i}.conv" for i in range(9)})
    assert [site.uses for site in find_sites(blocks[0])] == [1]


@pytest.mark.parametrize(
    "forward",
    [
        of_a_type,
        lambda m, x: m.bn(m.conv(x)) if int(x.shape[-1]) > 4 else m.conv(x),
        lambda m, x: m.bn(m.conv(x)) if max(x.shape[-1], 2) > 4 else m.conv(x),
        lambda m, x: m.bn(m.conv(x)) if int(x.mean()) < 9 else m.conv(x),
        lambda m, x: m.bn(m.conv(x)) if isinstance(x.shape[-1] / 2, float) else m.conv(x),
    ],
)
def test_what_depends_on_a_size_or_value_is_not_followed(forward):
    model = statistics_given(Functional(forward, conv=conv(), bn=norm())).eval()
    assert fold(model, IMAGES.float()).folding.kept == {"bn": "untraceable"}
