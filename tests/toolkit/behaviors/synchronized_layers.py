"""Layers of every kind, and their comparison with one worker that has all batches together."""

import torch
from torch import distributed as dist
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.behaviors.synchronization import synchronize, unsynchronize
from helpers import norm_without_bias

SIZES = {
    "equal": (4, 4, 4),
    "unequal": (5, 1, 2),
    "one empty": (5, 0, 3),
    "two empty": (0, 6, 0),
    "one each": (1, 1, 1),
}
LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(3), ()),
    "1d with positions": (lambda: nn.BatchNorm1d(3), (4,)),
    "2d": (lambda: nn.BatchNorm2d(3, eps=1e-2), (2, 3)),
    "3d": (lambda: nn.BatchNorm3d(3, momentum=0.3), (2, 2, 2)),
    "cumulative": (lambda: nn.BatchNorm1d(3, momentum=None), ()),
    "without affine": (lambda: nn.BatchNorm2d(3, affine=False), (2, 2)),
    "without bias": (lambda: norm_without_bias(nn.BatchNorm1d, 3), ()),
    "without statistics": (lambda: nn.BatchNorm1d(3, track_running_stats=False), ()),
    "not tracking": (lambda: not_tracking(nn.BatchNorm1d(3)), ()),
    "statistics taken away": (lambda: without_statistics(nn.BatchNorm1d(3)), ()),
    "biased": (lambda: bn.BatchNorm1d(3, stored_variance="biased"), ()),
    "biased, cumulative": (lambda: bn.BatchNorm1d(3, momentum=None, stored_variance="biased"), ()),
}


def not_tracking(layer):
    layer.track_running_stats = False
    return layer


def without_statistics(layer):
    layer.running_mean = layer.running_var = None
    return layer


def joined_batch(sizes, positions, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(sizes), 3, *positions, generator=generator, dtype=torch.float64)
    return (x * torch.tensor([1.0, 3.0, 0.5]).view(1, 3, *[1] * len(positions)) + 0.5).to(dtype)


def loss_of(y, targets):
    return (y * targets).sum()  # any gradient dy = targets


def seeded(layer):
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return layer


def two_steps(layer, batches, targets):
    """Return outputs and gradients; the running statistics are in the layer."""
    results = []
    for x, target in zip(batches, targets, strict=True):
        x = x.clone().requires_grad_()
        y = layer(x)
        loss_of(y, target).backward()
        results.append((y.detach(), x.grad))
    return results


def check_layer(rank, group, make, positions, sizes, dtype, make_other=None):
    world = len(sizes)
    plain, layer = seeded(make()).to(dtype), seeded((make_other or make)()).to(dtype)
    assert synchronize(layer, group) == [""]
    joined = [joined_batch(sizes, positions, dtype, seed) for seed in (0, 1)]
    targets = [joined_batch(sizes, positions, dtype, seed) for seed in (2, 3)]
    expected = two_steps(plain, joined, targets)
    own = two_steps(layer, [x.split(sizes)[rank] for x in joined], [t.split(sizes)[rank] for t in targets])
    for parameter in layer.parameters():
        dist.all_reduce(parameter.grad, group=group)
    everyones = [torch.stack([torch.zeros_like(b)] * world) for b in layer.buffers()]
    for everyone, buffer in zip(everyones, layer.buffers(), strict=True):
        dist.all_gather(list(everyone), buffer, group=group)

    for (y, dx), (expected_y, expected_dx) in zip(own, expected, strict=True):
        assert_close(y, expected_y.split(sizes)[rank], expected_y)
        assert_close(dx, expected_dx.split(sizes)[rank], expected_dx)
    for one, other in zip(layer.parameters(), plain.parameters(), strict=True):
        assert_close(one.grad, other.grad, other.grad)
    assert all((everyone == everyone[0]).all() for everyone in everyones)
    unsynchronize(layer)
    assert list(layer.state_dict()) == list(plain.state_dict())
    for name, tensor in plain.state_dict().items():
        assert_close(layer.state_dict()[name], tensor, tensor)


def assert_close(own, expected, scale):
    """Equal to 1e-6 of the largest value, in float64 to 1e-12."""
    tolerance = 1e-12 if own.dtype == torch.float64 else 1e-6
    torch.testing.assert_close(own, expected, rtol=0, atol=tolerance * scale.abs().max().item())
