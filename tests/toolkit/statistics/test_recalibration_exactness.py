"""Exact population statistics: those of all data at once in float64, however the data is cut."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from graphs import random_graph
from recalibrated import reference


def assert_same_state(model, expected, rtol=1e-10):
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=rtol, atol=1e-12, msg=name)


GRAPHS = given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5))


@GRAPHS
@settings(max_examples=40, deadline=None)
def test_is_the_float64_reference_however_the_data_is_cut(seed, sizes):
    model, x = random_graph(seed, sum(sizes))
    model.double()
    x = x.double()
    expected = reference(model, x)
    done = bn.recalibrate(model, list(x.split(sizes)))
    assert_same_state(model, expected)
    assert not done.unreached
    assert not done.frozen


@GRAPHS
@settings(max_examples=15, deadline=None)
def test_float32_models_get_the_same_statistics_from_any_cut(seed, sizes):
    model, x = random_graph(seed, sum(sizes))
    twin = copy.deepcopy(model)
    a, b = bn.recalibrate(model, list(x.split(sizes))), bn.recalibrate(twin, [x])
    for name in a.changes:
        assert a.changes[name].moments.n == b.changes[name].moments.n
        torch.testing.assert_close(
            model.get_submodule(name).running_var, twin.get_submodule(name).running_var, rtol=1e-4, atol=1e-5
        )


def test_sorted_data_in_batches_keeps_its_variance_between_batches():
    model = nn.Sequential(nn.BatchNorm1d(1))
    bn.recalibrate(model, [torch.full((4, 1), 0.0), torch.full((4, 1), 10.0)])
    assert model[0].running_mean.item() == 5.0
    assert model[0].running_var.item() == pytest.approx(25 * 8 / 7)


def test_a_mean_far_from_zero_does_not_cancel_the_variance():
    model = nn.Sequential(nn.BatchNorm1d(1, dtype=torch.float64))
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64) + 1e9
    bn.recalibrate(model, [x[:1], x[1:]])
    assert model[0].running_var.item() == 1.0


def test_a_layer_with_biased_storage_gets_the_biased_variance():
    model = nn.Sequential(bn.BatchNorm1d(1, stored_variance="biased"))
    bn.recalibrate(model, [(torch.tensor([[1.0], [3.0]]), "label")])
    assert model[0].running_var.item() == 1.0


def test_says_what_changed():
    model = nn.Sequential(nn.BatchNorm1d(1, eps=0.0), nn.BatchNorm1d(1)).eval()
    model[1].requires_grad_(False)  # says nothing of the statistics
    done = bn.recalibrate(model, [torch.tensor([[2.0], [6.0]])])
    assert done.changes["0"].shift.tolist() == [2.0]  # from 0 to 4, in units of 2
    assert done.changes["0"].variance_ratio.tolist() == [0.25]
    assert done.changes["1"].mean_before.tolist() == [0.0]
    assert str(done) == (
        "2 layers recalibrated in 1 pass over the data\nlargest shift of a mean: 2 standard deviations, in '0'"
    )


def test_buffers_that_would_round_a_mean_away_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(1).bfloat16())
    x = torch.tensor([[49.0], [50.25], [51.0]] * 9).bfloat16()  # their mean is 50.08: near it there are 50 and 50.25
    with pytest.raises(bn.InputError, match=r"are too large for its buffers' torch.bfloat16"):
        bn.recalibrate(model, [x])


def test_statistics_that_half_precision_cannot_hold_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(1).half())
    x = torch.tensor([[-600.0], [600.0]], dtype=torch.float16)
    with pytest.raises(bn.InputError, match=r"are too large for its buffers' torch.float16: keep them in"):
        bn.recalibrate(model, [x])
    assert model[0].running_var.item() == 1.0


def test_float32_gets_the_best_mean_that_it_can_hold():
    """There is no better: what reaches the layer is as coarse."""
    model = nn.Sequential(nn.BatchNorm1d(1)).eval()
    x = torch.tensor([[1e8], [1e8 + 8], [1e8 + 8]])
    bn.recalibrate(model, [x])
    assert model[0].running_mean.item() == x.double().mean().float()
    assert model[0].running_var.item() == pytest.approx(64 / 3)


def test_statistics_that_float32_cannot_hold_are_refused_with_what_holds_them():
    model = nn.Sequential(nn.BatchNorm1d(1))
    with pytest.raises(
        bn.InputError, match=r"buffers' torch.float32: keep them in float64, by .double\(\) on the model"
    ):
        bn.recalibrate(model, [torch.tensor([[1e25], [-1e25]])])


def test_one_pass_normalises_with_the_batch_and_merges_all_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-9), nn.Tanh(), nn.BatchNorm1d(2)).double()
    parts = [torch.randn(n, 2, dtype=torch.float64) + n for n in (3, 50, 1)]
    done = bn.recalibrate(model, parts, method="one-pass")
    seen = torch.cat([torch.tanh((x - x.mean(0)) / (x.var(0, correction=0) + 1e-9).sqrt()) for x in parts])
    assert done.n_passes == 1
    torch.testing.assert_close(model[0].running_mean, torch.cat(parts).mean(0))
    torch.testing.assert_close(model[2].running_mean, seen.mean(0))
    torch.testing.assert_close(model[2].running_var, seen.var(0))
    assert done.changes["2"].mean_before.tolist() == [0.0, 0.0]


def test_averaged_weights_get_the_statistics_that_belong_to_them():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    models = [nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval() for _ in range(3)]
    for model in models:
        bn.recalibrate(model, [x])
    average = torch.optim.swa_utils.AveragedModel(models[0], use_buffers=True)
    for model in models:
        average.update_parameters(model)
    average.eval()
    assert {finding.cause for finding in bn.diagnose(average, [x]).findings} == {"other-statistics"}
    bn.recalibrate(average, [x])
    assert bn.diagnose(average, [x]).findings == ()
