"""Layers are synchronised where they stand, and become to the bit what they were."""

import copy

import pytest
import torch
from torch import nn

from batchnorm.errors import InputError
from batchnorm.toolkit.behaviors.freezing import freeze, unfreeze
from batchnorm.toolkit.behaviors.synchronization import is_synchronized, synchronize, unsynchronize
from synchronized_layers import LAYERS


def classes(model):
    return [(type(module), set(vars(module))) for module in model.modules()]


def test_without_a_process_group_all_is_as_before():
    torch.manual_seed(0)
    for make, positions in LAYERS.values():
        plain = make()
        layer = copy.deepcopy(plain)
        x = torch.randn(5, 3, *positions)
        synchronize(layer)
        assert is_synchronized(layer)
        for mode in (True, False):
            assert torch.equal(layer.train(mode)(x), plain.train(mode)(x))
        assert unsynchronize(layer) == [""]
        assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in plain.state_dict().items())
        assert classes(layer) == classes(plain)
        assert unsynchronize(layer) == []


class WithActivation(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class Renamed(nn.BatchNorm2d):
    pass


def test_layers_that_do_more_than_batch_norm_are_refused_and_nothing_is_changed():
    patched = nn.BatchNorm2d(3)
    patched.forward = lambda x: x
    model = nn.Sequential(nn.BatchNorm2d(3), WithActivation(3), Renamed(3), patched)
    before = classes(model)
    with pytest.raises(
        InputError, match=r"^layers '1', '3' \(BatchNorm2d, WithActivation\): its own forward may do more"
    ):
        synchronize(model)
    assert classes(model) == before
    assert synchronize(model[2]) == [""]
    assert isinstance(model[2], Renamed)


def test_says_what_cannot_be_synchronised():
    with pytest.raises(InputError, match=r"^Linear has no batch-norm layer"):
        synchronize(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"^layer '0' is not yet initialised"):
        synchronize(nn.Sequential(nn.LazyBatchNorm1d()))
    with pytest.raises(InputError, match=r"^model is a int"):
        unsynchronize(3)
    assert unsynchronize(nn.Linear(2, 2)) == []


class Volumes(nn.Module):
    def __init__(self):
        super().__init__()
        self.volume, self.image, self.series = nn.BatchNorm3d(2), nn.BatchNorm2d(2, affine=False), nn.BatchNorm1d(2)
        self.vector = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x, unused=None):
        x = self.image(self.image(input=self.volume(x).mean(2)))
        return self.vector(self.series(x.mean(2)).mean(2))


def test_torchs_synchronised_layers_become_what_they_were():
    model, x = Volumes().eval(), torch.randn(3, 2, 4, 4, 4)
    for buffer in model.buffers():
        buffer.data += 1
    expected, before, state = model(x), classes(model), copy.deepcopy(model.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model).train()
    freeze(converted.volume)
    with pytest.raises(InputError, match=r"^layers 'volume', 'image', 'series', 'vector': a SyncBatchNorm, which may"):
        unsynchronize(converted)
    assert unsynchronize(converted, {"x": x, "label": 3}) == ["volume", "image", "series", "vector"]
    assert type(converted.volume).__name__ == "FrozenBatchNorm3d"
    unfreeze(converted)
    assert all(module.training for module in converted.modules() if module is not converted.volume)
    assert classes(converted) == before
    assert not any(module._forward_pre_hooks for module in converted.modules())
    assert all(torch.equal(converted.state_dict()[name], tensor) for name, tensor in state.items())
    assert torch.equal(converted.eval()(x), expected)


def test_torchs_layers_that_ours_replaced_come_back_and_with_an_example_become_plain():
    model = nn.Sequential(nn.SyncBatchNorm(2))
    synchronize(model)
    assert unsynchronize(model) == ["0"]
    assert type(model[0]) is nn.SyncBatchNorm
    synchronize(model)
    assert unsynchronize(model, (torch.zeros(2, 2, 3), "label")) == ["0"]
    assert type(model[0]) is nn.BatchNorm1d
    assert classes(model) == classes(nn.Sequential(nn.BatchNorm1d(2)))


def test_says_why_a_layer_cannot_become_plain_and_changes_nothing():
    class Unused(nn.Sequential):
        def forward(self, x):
            return self[0](x)

    model = Unused(nn.SyncBatchNorm(2), nn.SyncBatchNorm(2))
    before = classes(model)
    with pytest.raises(InputError, match=r"^layer '1': not reached by the example"):
        unsynchronize(model, torch.zeros(2, 2))
    with pytest.raises(InputError, match=r"^layer '0': its inputs have 6 dimensions, which no BatchNorm1d"):
        unsynchronize(nn.Sequential(nn.SyncBatchNorm(2)), torch.zeros([2] * 6))
    with pytest.raises(RuntimeError):
        unsynchronize(model, torch.zeros(2, 5))  # whatever the model itself raises
    assert classes(model) == before
    assert not model[0]._forward_pre_hooks
