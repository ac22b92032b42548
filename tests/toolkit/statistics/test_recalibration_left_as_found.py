"""Nothing but statistics changes, and of frozen layers not even these."""

import copy

import pytest
import torch
from torch import nn

import batchnorm as bn
from recalibrated import Raises


@pytest.mark.parametrize("how", ["freeze", "eval", "momentum"])
@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_frozen_layers_stay(how, method):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).train()
    if how == "freeze":
        bn.freeze(model[0])
    elif how == "eval":
        model[0].eval()
    else:
        model[0].momentum = 0.0
    done = bn.recalibrate(model, [torch.tensor([[1.0], [3.0]])], method=method)
    assert (done.frozen, list(done.changes)) == (("0",), ["1"])
    assert model[0].running_mean.item() == 0.0
    assert model[1].running_mean.item() == pytest.approx(2.0, abs=1e-4)  # behind the frozen 0 and 1
    assert str(done).endswith("1 layer frozen and left alone: '0'")


def test_modes_and_hooks_are_afterwards_what_they_were_also_when_the_model_raises():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2), Raises()).train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    statistics = [buffer.clone() for buffer in model.buffers()]
    for method in ("exact", "one-pass"):
        with pytest.raises(RuntimeError, match="half-way"):
            bn.recalibrate(model, [torch.randn(4, 2), torch.randn(3, 2)], method=method)
        late = nn.Sequential(*model[:3])  # its first layer is done when the second one meets what is wrong
        with pytest.raises(bn.InputError, match="a single element per channel reaches layer '0'"):
            bn.recalibrate(late, [torch.randn(1, 2)], method=method)
        with pytest.raises(bn.InputError, match="what reaches layer '0' holds NaN or infinite values"):
            bn.recalibrate(late, [torch.tensor([[1.0, float("nan")], [1.0, 2.0]])], method=method)
        assert all(torch.equal(old, new) for old, new in zip(statistics, model.buffers(), strict=True))
    bn.recalibrate(model, [torch.randn(4, 2)])
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_dropout_is_off_and_other_buffers_stay():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)).train()
    model[1].num_batches_tracked.fill_(7)
    x = torch.randn(100, 2)
    bn.recalibrate(model, [x])
    torch.testing.assert_close(model[1].running_mean, x.mean(0))
    assert model[1].num_batches_tracked.item() == 7
    assert model[1].momentum == 0.1


class Stateful(nn.Module):
    """Counts in a buffer, keeps values in a list, draws random numbers, and does more in train() and eval()."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.kept, self.busy = nn.BatchNorm1d(2), nn.BatchNorm1d(2), [], False
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("expanded", torch.ones(1).expand(3))

    def train(self, mode=True):
        self.first.weight.data += 1
        return super().train(mode)

    def forward(self, x):
        assert not self.busy
        self.busy = True
        self.count += 1
        self.kept.append(x)
        x = self.second(self.first(x + 0 * torch.rand(())))
        self.kept.pop()
        self.busy = False
        return x


@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_nothing_but_statistics_changes_in_a_model_with_a_life_of_its_own(method):
    model = Stateful()
    loader = torch.utils.data.DataLoader(torch.randn(12, 2), batch_size=4, shuffle=True)
    pending = model(torch.randn(5, 2)).sum()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    bn.diagnose(model, loader, method=method)
    pending.backward()  # its graph holds buffers
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    bn.recalibrate(model, loader, method=method)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{layer}.running_{what}" for layer in ("first", "second") for what in ("mean", "var")}
    assert (model.kept, model.busy, model.training) == ([], False, True)
    assert torch.equal(torch.get_rng_state(), random_state)
