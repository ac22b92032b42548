"""Networks that others wrote go through every function of the toolkit: residual, dense, inverted-residual, U-shaped."""

import copy

import pytest
import torch
from monai.networks import nets
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.model.layers import norm_layers
from batchnorm.toolkit.model.restoring import inference
from graphs import randomized

# Of sizes that are quick; test_folding_equality.py has ResNet-50, DenseNet-121 and EfficientNet-B0.
BUILD = {
    "residual": lambda: nets.ResNet("basic", [2, 1, 1, 1], [8, 12, 16, 16], 2, n_input_channels=3, num_classes=4),
    "dense": lambda: nets.DenseNet(
        spatial_dims=2, in_channels=3, out_channels=4, init_features=8, growth_rate=4, block_config=(2, 3, 2)
    ),
    "inverted residual": lambda: nets.EfficientNet(
        ["r1_k3_s11_e1_i32_o8_se0.25", "r2_k3_s22_e4_i8_o12_se0.25", "r2_k5_s22_e4_i12_o16_se0.25"],
        spatial_dims=2,
        in_channels=3,
        num_classes=4,
        image_size=32,
    ),
    "U-shaped": lambda: nets.BasicUNet(2, 3, 2, (4, 4, 8, 8, 16, 4), norm="batch", dropout=0.2),
    "U-shaped 3-D": lambda: nets.UNet(3, 3, 2, (4, 8), (2,), num_res_units=1, norm="batch"),
}


@pytest.fixture(params=BUILD)
def model(request):
    torch.manual_seed(0)
    return randomized(BUILD[request.param]()).eval()


@pytest.fixture
def batches(model):
    size = (3, 8, 8, 8) if any(isinstance(m, nn.Conv3d) for m in model.modules()) else (3, 32, 32)
    return list((torch.randn(10, *size, generator=torch.Generator().manual_seed(1)) + 1).split([4, 5, 1]))


@torch.no_grad()
def one_by_one(model, x):
    """Recalibrate in the plainest way: a pass of all data in one batch per layer, in the order of execution."""
    order = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in norm_layers(model).values()
    ]
    model(x)
    for handle in handles:
        handle.remove()
    for layer in order:
        seen = []
        handle = layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        model(x)
        handle.remove()
        dims = [dim for dim in range(x.dim()) if dim != 1]
        layer.running_mean.copy_(seen[0].mean(dims))
        layer.running_var.copy_(seen[0].var(dims, correction=1))


def test_recalibrate_is_the_reference(model, batches):
    model.double()
    expected = copy.deepcopy(model)
    one_by_one(expected, torch.cat(batches).double())
    done = bn.recalibrate(model, [batch.double() for batch in batches])
    assert list(done.changes) == [site.name for site in bn.find_sites(model, [batches[0].double()])]
    assert done.n_passes <= len(done.changes)
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-10, atol=1e-10)


def test_diagnose_finds_what_is_wrong_and_is_silent_when_it_is_mended(model, batches):
    layers = list(norm_layers(model))
    batches = batches[:2]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    causes = {finding.cause for finding in bn.diagnose(model, batches).findings}
    assert "other-statistics" in causes  # they were drawn at random
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    bn.recalibrate(model, batches)
    quiet = [f for f in bn.diagnose(model, batches).findings if f.cause not in ("tiny-batch", "large-eps")]
    assert quiet == []
    guilty = layers[len(layers) // 2]
    model.get_submodule(guilty).reset_running_stats()
    report = bn.diagnose(model, batches)
    assert [f.layer for f in report.findings if f.cause == "never-updated"] == [guilty]
    assert {layer.name: layer.share for layer in report.layers}[guilty] == pytest.approx(1)


@torch.no_grad()
def test_folding_keeps_outputs(model, batches):
    lean = bn.fold(model, batches[0])
    expected, output = model(batches[1]), lean(batches[1])
    assert (output - expected).abs().max() / expected.abs().max() < 1e-5
    assert len(lean.folding.folded) + len(lean.folding.kept) == len(norm_layers(model))
    assert len(norm_layers(lean)) == len(lean.folding.kept)
    model.double()
    lean, x = bn.fold(model, batches[0].double()), batches[1].double()
    assert (lean(x) - model(x)).abs().max() / model(x).abs().max() < 1e-12


def test_freezing_and_synchronising_leave_no_trace(model, batches):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    classes = [type(module) for module in model.modules()]
    with bn.freeze(model):
        model.train()
        for batch in batches[:2]:
            model(batch)
        assert all(not layer.training for layer in norm_layers(model).values())
    assert bn.synchronize(model) == list(norm_layers(model))
    assert bn.unsynchronize(model) == list(norm_layers(model))
    assert [type(module) for module in model.modules()] == classes
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(layer.training and layer.weight.requires_grad for layer in norm_layers(model).values())


def test_sync_layers_of_torch_become_plain_again(model, batches):
    classes = [type(layer) for layer in norm_layers(model).values()]
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    with inference(model):
        expected = model(batches[0])
    bn.unsynchronize(converted, batches[0])
    assert [type(layer) for layer in norm_layers(converted).values()] == classes
    with inference(converted):
        torch.testing.assert_close(converted(batches[0]), expected)
