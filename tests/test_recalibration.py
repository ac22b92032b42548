"""Exact population statistics in any model: the cascade, unequal batches, modes and hooks left alone."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.modes import inference


def deep_model(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(12, 4), nn.BatchNorm1d(4, eps=1e-2), nn.Tanh(), nn.Linear(4, 2), nn.BatchNorm1d(2, affine=False),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
    return model


def reference(model, x):
    """In float64, layer by layer, on all data at once."""
    model, x = copy.deepcopy(model).double().eval(), x.double()
    for module in model:
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            dims = [d for d in range(x.dim()) if d != 1]
            module.running_mean.copy_(x.mean(dims))
            module.running_var.copy_(x.var(dims, correction=1))
        x = module(x)
    return model


@given(sizes=st.lists(st.integers(1, 20), min_size=2, max_size=6), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_is_the_float64_reference_however_the_data_is_cut(sizes, seed):
    model = deep_model(seed).double()
    x = torch.randn(sum(sizes), 2, 3, 3, generator=torch.Generator().manual_seed(seed)).double() + 3
    expected = reference(model, x)
    found = bn.recalibrate(model, list(x.split(sizes)))
    assert list(found) == ["1", "6", "9"]
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)


def test_sorted_data_in_batches_keeps_its_variance_between_batches():
    model = nn.Sequential(nn.BatchNorm1d(1))
    bn.recalibrate(model, [torch.full((4, 1), 0.0), torch.full((4, 1), 10.0)])
    assert model[0].running_mean.item() == 5.0
    assert model[0].running_var.item() == pytest.approx(25 * 8 / 7)


def test_a_layer_with_biased_storage_gets_the_biased_variance():
    model = nn.Sequential(bn.BatchNorm1d(1, stored_variance="biased"))
    bn.recalibrate(model, [(torch.tensor([[1.0], [3.0]]), "label")])
    assert model[0].running_var.item() == 1.0


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first = nn.BatchNorm1d(2), nn.BatchNorm1d(2)  # not in the order of execution
        self.unused = nn.BatchNorm1d(2)
        self.without = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x):
        return self.last(input=torch.relu(self.without(self.first(x))))


def test_goes_in_the_order_of_execution_and_leaves_what_it_does_not_reach():
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(50, 2) * 3 + 1
    assert list(bn.recalibrate(model, [x[:20], x[20:]])) == ["first", "last"]
    assert torch.equal(model.unused.running_mean, torch.zeros(2))
    torch.testing.assert_close(model.first.running_mean, x.mean(0))
    with inference(model):
        y = torch.relu(model.without(model.first(x[:20])))
    assert not torch.allclose(model.last.running_mean, y.mean(0))  # all data, not the first batch


def test_modes_and_hooks_are_afterwards_what_they_were_also_when_the_model_raises():
    class Raises(nn.Module):
        def forward(self, x):
            if len(x) == 3:
                raise RuntimeError("half-way")
            return x

    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2), Raises()).train()
    model[2].eval()  # frozen by its owner
    before = [module.training for module in model.modules()]
    statistics = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(RuntimeError, match="half-way"):
        bn.recalibrate(model, [torch.randn(4, 2), torch.randn(3, 2)])
    late = nn.Sequential(*model[:3])  # its first layer is done when the second one meets what is wrong
    with pytest.raises(ValueError, match="at least 2 elements per channel, got 1"):
        bn.recalibrate(late, [torch.randn(1, 2)])
    with pytest.raises(ValueError, match="what reaches layer '0' holds NaN or infinite values"):
        bn.recalibrate(late, [torch.tensor([[1.0, float("nan")], [1.0, 2.0]])])
    assert all(torch.equal(old, new) for old, new in zip(statistics, model.buffers(), strict=True))
    bn.recalibrate(model, [torch.randn(4, 2)])
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_says_what_is_wrong_with_the_batches():
    model = nn.Sequential(nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="can be gone through only once, but each layer needs a pass: give a list"):
        bn.recalibrate(model, (torch.randn(4, 2) for _ in range(2)))
    with pytest.raises(ValueError, match="there are no batches"):
        bn.recalibrate(model, [])


def test_a_model_without_batch_norm_has_nothing_to_recalibrate():
    assert bn.recalibrate(nn.Linear(2, 2), [torch.randn(4, 2)]) == {}
