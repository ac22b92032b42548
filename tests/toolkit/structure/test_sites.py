"""Where batch norm stands: what feeds each layer and what it feeds, by the code or by a run."""

import copy

import pytest
import torch
from monai.networks import nets
from torch import nn

import batchnorm as bn


class Net(nn.Module):
    """A convolution, batch norm, a shortcut, dropout, and a batch norm at two places."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.drop, self.act = nn.Dropout(), nn.ReLU()
        self.shared = nn.BatchNorm2d(3)
        self.again = self.shared
        self.never = nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.act(self.norm(self.drop(self.conv(x))) + x)
        return self.shared(y) * self.again(torch.cat([x, y], 1)[:, :3])


class Branching(Net):
    """The same, with code that no symbol can be run through."""

    def forward(self, x):
        return super().forward(x) if x.mean() < 1e9 else x


def by_name(sites):
    return {site.name: site for site in sites}


def test_tracing_tells_what_stands_around_a_layer():
    sites = by_name(bn.find_sites(Net()))
    assert list(sites) == ["norm", "shared", "never"]
    assert (sites["norm"].fed_by, sites["norm"].feeds) == (("conv",), ("add",))
    assert (sites["shared"].fed_by, sites["shared"].feeds) == (("act", "getitem"), ("mul",))
    assert sites["shared"].names == ("shared", "again")
    assert [site.uses for site in sites.values()] == [1, 2, None]
    assert [site.found_by for site in sites.values()] == ["tracing", "tracing", None]
    assert str(sites["norm"]) == "norm: BatchNorm2d(3), conv → add"
    assert str(sites["never"]) == "never: BatchNorm2d(3), ? → ?"


def test_a_run_tells_where_tracing_cannot():
    x = torch.randn(2, 3, 5, 5)
    untraced = by_name(bn.find_sites(Branching()))
    assert untraced["norm"].found_by is None
    sites = by_name(bn.find_sites(Branching(), [x, x]))
    assert list(sites) == ["norm", "shared", "never"]
    assert (sites["norm"].fed_by, sites["norm"].found_by) == (("conv",), "shapes")
    assert sites["norm"].shape == (2, 3, 5, 5)
    assert (sites["shared"].uses, sites["never"].uses) == (2, 0)
    assert sites["never"].found_by is None
    assert by_name(bn.find_sites(Net(), [x]))["norm"].found_by == "tracing"


def test_layers_of_any_kind_are_found_and_nothing_is_changed():
    class Own(nn.BatchNorm1d):
        pass

    model = nn.Sequential(
        nn.LazyLinear(4), nn.LazyBatchNorm1d(), Own(4), nn.SyncBatchNorm(4), nn.Sequential(nn.BatchNorm1d(4))
    ).train()
    model[2].eval()
    modes = [module.training for module in model.modules()]
    x = torch.randn(3, 2)
    kinds = ["LazyBatchNorm1d", "Own", "SyncBatchNorm", "BatchNorm1d"]
    for sites in (bn.find_sites(model), bn.find_sites(model, [{"input": x}])):
        assert [site.kind for site in sites] == kinds
        assert [site.name for site in sites] == ["1", "2", "3", "4.0"]
        assert [site.num_features for site in sites] == [None, 4, 4, 4]
        assert [site.fed_by for site in sites] == [("0",), ("1",), ("2",), ("3",)]
        assert sites[-1].feeds == ("output",)
    assert [module.training for module in model.modules()] == modes
    assert isinstance(model[0], nn.LazyLinear)
    bn.freeze(model[4])
    assert [site.kind for site in bn.find_sites(model[4])] == ["FrozenBatchNorm1d"]


def test_says_what_it_needs():
    with pytest.raises(bn.InputError, match="model is a list, expected a torch"):
        bn.find_sites([])
    with pytest.raises(bn.InputError, match="there are no batches"):
        bn.find_sites(Net(), [])
    assert bn.find_sites(nn.Linear(2, 2)) == []
    model = Net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError):
        bn.find_sites(model, [torch.zeros(2, 7, 3, 3)])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("build", "size", "count"),
    [
        (lambda: nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=5), 32, 20),
        (lambda: nets.DenseNet121(spatial_dims=2, in_channels=3, out_channels=4), 32, 121),
        (lambda: nets.EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=3, num_classes=4), 32, 49),
        (lambda: nets.UNet(2, 3, 2, (4, 8, 16), (2, 2), num_res_units=2, norm="batch"), 32, 9),
    ],
    ids=["residual", "dense", "inverted residual", "U-shaped"],
)
def test_models_that_others_wrote(build, size, count):
    model = build().eval()
    sites = bn.find_sites(model, [torch.randn(1, 3, size, size)])
    assert len(sites) == count
    assert all(site.fed_by and site.feeds and site.found_by for site in sites)
    assert all(site.shape[1] == site.num_features for site in sites)
    assert all(site.uses == 1 for site in sites)
