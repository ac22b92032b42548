"""The copy that folding returns, the original that it leaves alone, and their comparison."""

import itertools

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.folding import folding
from batchnorm.toolkit.folding.folding import fold
from folding_models import (
    IMAGES,
    Functional,
    assert_folds,
    assert_untouched,
    conv,
    norm,
    relative,
    state_of,
    statistics_given,
)


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


def test_infinite_and_missing_values_count_as_equal_where_both_have_them():
    nan, inf = float("nan"), float("inf")
    for a, b, expected in (
        ([nan, 1.0], [nan, 1.0], 0.0), ([inf, 1.0], [inf, 2.0], 0.5), ([nan, 1.0], [1.0, 1.0], inf), ([], [], 0.0),
        ([0.5], [0.0], 0.5),
    ):  # fmt: skip
        assert folding._deviation([torch.tensor(a)], [torch.tensor(b)]) == expected
