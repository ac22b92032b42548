"""The copy that folding returns, the original that it leaves alone, and their comparison."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

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


class Tagged(torch.Tensor):
    """A tensor of someone's own class."""


def computed_weight(make, layer):
    make(layer)
    layer(torch.zeros(1, 3, 5, 5))  # from now on it is a tensor with a history
    return layer


def holding(value):
    layer = conv()
    layer.held = value
    return layer


def with_buffer(value):
    layer = conv()
    layer.register_buffer("held", value)
    return layer


HARD_TO_COPY = {
    "weight_norm": lambda: computed_weight(nn.utils.weight_norm, conv()),
    "spectral_norm": lambda: computed_weight(nn.utils.spectral_norm, conv()),
    "parametrizations.weight_norm": lambda: computed_weight(nn.utils.parametrizations.weight_norm, conv()),
    "parametrizations.spectral_norm": lambda: computed_weight(nn.utils.parametrizations.spectral_norm, conv()),
    "pruned": lambda: computed_weight(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), conv()),
    "an output that is kept": lambda: holding([{"last": conv()(torch.zeros(1, 3, 5, 5))}]),
    "a function in TorchScript": lambda: holding(torch.jit.trace(torch.relu, torch.ones(1))),
    "sparse": lambda: with_buffer(torch.eye(3).to_sparse()),
    "sparse by rows": lambda: with_buffer(torch.eye(3).to_sparse_csr()),
    "a computed buffer": lambda: with_buffer(torch.ones(3, requires_grad=True) * 2),
    "a class of its own": lambda: with_buffer(torch.ones(3).as_subclass(Tagged)),
}


@pytest.mark.filterwarnings("ignore")  # torch's, of what it deprecates
@pytest.mark.parametrize("kind", HARD_TO_COPY)
def test_whatever_tensors_a_model_holds_it_is_copied(kind):
    torch.manual_seed(0)
    model = statistics_given(nn.Sequential(HARD_TO_COPY[kind](), nn.ReLU(), conv(), norm())).float().eval()
    x = IMAGES.float()
    expected = model(x)
    lean = fold(model, x)
    assert lean.folding.folded == {"3": "2"}
    torch.testing.assert_close(lean(x), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model(x), expected)
    shared = {tensor.data_ptr() for tensor in model.parameters()} & {tensor.data_ptr() for tensor in lean.parameters()}
    assert not shared


@pytest.mark.filterwarnings("ignore")
def test_a_batch_norm_beside_a_computed_weight_stays():
    model = statistics_given(nn.Sequential(HARD_TO_COPY["weight_norm"](), norm())).float().eval()
    assert fold(model, IMAGES.float()).folding.kept == {"1": "parametrized"}


def test_views_of_one_memory_are_views_of_one_memory_in_the_copy():
    model = statistics_given(nn.Sequential(conv(), norm(), conv(), norm())).float().eval()
    both = torch.rand(6) + 1
    model[1].running_var, model[3].running_var = both[:3], both[3:]
    model[0].both, model[0].second = both, both[3:]
    copied = fold(model, IMAGES.float())[0]
    assert copied.both.data_ptr() != both.data_ptr()
    assert copied.second.untyped_storage().data_ptr() == copied.both.untyped_storage().data_ptr()
