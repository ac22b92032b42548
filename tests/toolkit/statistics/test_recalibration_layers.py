"""Layers and models of every kind: lazy, of a subclass, wrapped, compiled, without statistics."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.model.restoring import inference
from batchnorm.toolkit.statistics import MEMORY


def test_a_model_without_batch_norm_has_nothing_to_recalibrate():
    done = bn.recalibrate(nn.Linear(2, 2), [torch.randn(4, 2)])
    assert (done.changes, done.n_passes) == ({}, 1)


def test_lazy_layers_are_made_and_measured():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyBatchNorm1d())
    x = torch.randn(30, 4)
    done = bn.recalibrate(model, [x])
    assert list(done.changes) == ["1", "2"]
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0))


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_a_subclass_keeps_what_it_adds(method):
    torch.manual_seed(1)
    model = nn.Sequential(NormAndActivation(2), nn.BatchNorm2d(2))
    x = torch.randn(8, 2, 3, 3)
    bn.recalibrate(model, [x], method=method)
    with inference(model):
        torch.testing.assert_close(model[1].running_mean, model[0](x).mean((0, 2, 3)), rtol=0.02, atol=0)
    assert (model[1].running_mean > 0.3).all()


def test_compiled_and_wrapped_models_are_seen_into():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    compiled = torch.compile(model, backend="eager")
    x = torch.tensor([[1.0], [3.0]])
    compiled(x)
    assert list(bn.recalibrate(compiled, [x]).changes) == ["0", "1"]
    assert model[0].running_mean.item() == 2.0
    inside = nn.Sequential(torch.compile(nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)), backend="eager"))
    with inference(inside), torch.no_grad():
        inside(x)  # compiled code does not call the hooks that come later
    assert len(bn.recalibrate(inside, [x], method="one-pass").changes) == 2
    for memory, n_passes in ((MEMORY, 1), (0, 2)):
        done = bn.recalibrate(inside, [x, x + 1], memory=memory)
        assert (len(done.changes), done.n_passes) == (2, n_passes)
    parallel = nn.DataParallel(nn.Sequential(nn.BatchNorm1d(1)))
    assert list(bn.recalibrate(parallel, [x]).changes) == ["0"]


def test_layers_without_statistics_can_be_given_some():
    model = nn.Sequential(nn.BatchNorm1d(1, track_running_stats=False), nn.BatchNorm1d(1)).eval()
    x = torch.tensor([[1.0], [3.0], [5.0]])
    assert list(bn.recalibrate(model, [x]).changes) == ["1"]
    assert bn.track_statistics(model) == ["0"]
    assert list(bn.recalibrate(model, [x]).changes) == ["0", "1"]
    assert model[0].running_mean.item() == 3.0
    nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).load_state_dict(model.state_dict())
    double = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, affine=False, track_running_stats=False)).double()
    bn.track_statistics(double)
    assert double[1].running_mean.dtype == torch.float64
    with pytest.raises(bn.InputError, match="layer '0' is not yet initialised"):
        bn.track_statistics(nn.Sequential(nn.LazyBatchNorm1d(track_running_stats=False)))
    single, everyone = model(x[:1]), model(x)  # an output no longer depends on the others
    torch.testing.assert_close(single, everyone[:1])
