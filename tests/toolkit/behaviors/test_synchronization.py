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
    with pytest.warns(UserWarning, match=r"^layer '0': torch's SyncBatchNorm again, .* or dims=1, 2 or 3$") as warned:
        assert unsynchronize(model) == ["0"]
    assert len(warned) == 1
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


def test_dims_say_which_plain_layer_stood_there():
    for dims, kind in ((1, nn.BatchNorm1d), (2, nn.BatchNorm2d), (3, nn.BatchNorm3d)):
        original = nn.Sequential(kind(2, affine=False), kind(2, track_running_stats=False), nn.Linear(2, 2))
        before = classes(original)
        converted = nn.SyncBatchNorm.convert_sync_batchnorm(original)
        with pytest.raises(InputError, match=r"a SyncBatchNorm, which may .* or dims=1, 2 or 3$"):
            unsynchronize(converted)
        assert unsynchronize(converted, dims=dims) == ["0", "1"]
        assert classes(converted) == before
    model = nn.Sequential(nn.SyncBatchNorm(2))
    synchronize(model)
    assert unsynchronize(model, dims=2) == ["0"]
    assert type(model[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("dims", [0, 4, True, "2d", [2], {1: 2}])
def test_says_which_dims_there_are(dims):
    with pytest.raises(InputError, match=r"^dims is .*, expected 1, 2 or 3, for BatchNorm1d, 2d or 3d$"):
        unsynchronize(nn.Sequential(nn.SyncBatchNorm(2)), dims=dims)


def test_an_example_and_dims_are_one_too_many():
    with pytest.raises(InputError, match=r"^example and dims are both given"):
        unsynchronize(nn.Sequential(nn.SyncBatchNorm(2)), torch.zeros(2, 2), dims=1)


class SyncWithActivation(nn.SyncBatchNorm):
    def forward(self, x):
        return super().forward(x).relu()


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def sync_layers_that_do_more():
    with_forward = nn.SyncBatchNorm(2)
    with_forward.forward = lambda x: nn.SyncBatchNorm.forward(with_forward, x).relu()
    parametrized = nn.SyncBatchNorm(2)
    nn.utils.parametrize.register_parametrization(parametrized, "weight", Doubled())
    frozen = SyncWithActivation(2)
    freeze(frozen)
    return {
        "subclass": SyncWithActivation(2),
        "frozen subclass": frozen,
        "forward of its own": with_forward,
        "parametrized": parametrized,
    }


@pytest.mark.parametrize("options", [{}, {"example": torch.zeros(2, 2)}, {"dims": 1}], ids=["none", "example", "dims"])
@pytest.mark.parametrize("kind", sync_layers_that_do_more())
def test_torchs_layers_that_do_more_than_batch_norm_do_not_become_plain(kind, options):
    layer = sync_layers_that_do_more()[kind]
    model = nn.Sequential(nn.SyncBatchNorm(2), layer)
    before = classes(model)
    with pytest.raises(InputError, match=r"^layer '1' \(.*SyncBatchNorm|SyncWithActivation\): a subclass of SyncBatch"):
        unsynchronize(model, **options)
    with pytest.raises(InputError, match=r"^layer '1' \(.*\): its own forward may do more than batch norm"):
        synchronize(model)
    assert classes(model) == before


class HoldsActivation(nn.BatchNorm2d):
    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


@pytest.mark.parametrize("options", [{}, {"example": torch.zeros(2, 2, 1, 1)}, {"dims": 2}], ids=["none", "x", "dims"])
def test_a_module_that_a_converted_layer_holds_is_not_dropped_in_silence(options):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(HoldsActivation(2)))
    before = classes(model)
    with pytest.raises(InputError, match=r"^layer '0': holds 'act', which neither a SyncBatchNorm nor a plain layer"):
        unsynchronize(model, **options)
    assert classes(model) == before


def test_hooks_stay_where_they_are():
    model, seen = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(2))), []
    model[0].register_forward_hook(lambda *_: seen.append("forward"))
    unsynchronize(model, dims=1)
    synchronize(model)
    unsynchronize(model)
    model(torch.randn(3, 2))
    assert seen == ["forward"]


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"track_running_stats": False}], ids=str)
def test_a_lazy_layer_that_was_converted_too_early_is_named(options):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.LazyBatchNorm2d(**options)))
    message = r"^layer '0': SyncBatchNorm.convert_sync_batchnorm took the place of a lazy layer, which can no longer"
    for change in (synchronize, freeze, lambda model: unsynchronize(model, dims=2)):
        with pytest.raises(InputError, match=message):
            change(model)
    with pytest.raises(InputError, match=message):
        unsynchronize(model, torch.zeros(2, 2, 3, 3))
    assert type(model[0]) is nn.SyncBatchNorm
