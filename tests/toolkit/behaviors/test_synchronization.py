"""Batch norm over several workers is that of one worker with all batches together; and it can be undone to the bit."""

import copy

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import batchnorm as bn
from batchnorm.errors import InputError
from batchnorm.functional import batch_moments, merge_moments
from batchnorm.toolkit.behaviors.freezing import freeze, unfreeze
from batchnorm.toolkit.behaviors.synchronization import is_synchronized, synchronize, unsynchronize
from workers import run_in_workers

# ---------------------------------------------------------------------------------------------------------------------
# Cases for three workers. Each runs on all of them, and compares with the one-worker run on the joined batch.

WORKERS = 3
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
    "without bias": (lambda: nn.BatchNorm1d(3, bias=False), ()),
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


def layer_case(name, sizes, dtype):
    make, positions = LAYERS[name]
    return lambda rank, groups: check_layer(rank, None, make, positions, SIZES[sizes], dtype)


def in_a_smaller_group(rank, groups):
    if rank < 2:
        check_layer(rank, groups["first two"], *LAYERS["2d"], (3, 2), torch.float64)
        return
    layer, x = nn.BatchNorm1d(3), joined_batch((4,), (), torch.float32)
    plain = copy.deepcopy(layer)
    synchronize(layer, groups["first two"])  # this worker is not in it
    assert torch.equal(layer(x), plain(x))
    synchronize(layer, groups["third"])  # and here alone
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer.running_var, plain.running_var)


def torchs_layer_raises_on_the_cpu_and_ours_does_not(rank, groups):
    x = joined_batch((4, 4, 4), (2, 2), torch.float64).split(4)[rank]
    layer = nn.SyncBatchNorm(3).double()
    with pytest.raises(ValueError, match="SyncBatchNorm expected input tensor to be on GPU"):
        layer(x)
    layer.reset_running_stats()
    before = set(vars(layer))
    synchronize(layer)
    with pytest.raises(ValueError, match="at least 2D input"):
        layer(x[0, 0, 0])
    freeze(layer)
    assert torch.allclose(layer(x), x, atol=1e-4)
    unfreeze(layer)
    DistributedDataParallel(layer)  # it refuses torch's
    unsynchronize(layer)
    assert type(layer) is nn.SyncBatchNorm
    assert set(vars(layer)) == before
    for name in ("1d", "1d with positions", "cumulative", "3d"):
        make, positions = LAYERS[name]
        kwargs = {"momentum": make().momentum}
        check_layer(
            rank, None, make, positions, (4, 1, 3), x.dtype, lambda kwargs=kwargs: nn.SyncBatchNorm(3, **kwargs)
        )


def torchs_layer_keeps_its_own_group(rank, groups):
    group = groups["first two" if rank < 2 else "third"]
    layer = nn.SyncBatchNorm(1, process_group=group)
    synchronize(layer)
    layer(torch.full((2, 1), float(rank)))
    assert layer.running_mean.item() == pytest.approx(0.05 if rank < 2 else 0.2)


def evaluation_and_frozen_layers_speak_to_nobody(rank, groups):
    x = joined_batch((4, 4, 4), (), torch.float64).split(4)[rank]
    layer = nn.BatchNorm1d(3).double()
    plain = copy.deepcopy(layer).eval()
    synchronize(layer)
    if rank == 0:  # the others would have to take part
        assert torch.equal(layer.eval()(x), plain(x))
        freeze(layer)
        assert torch.equal(layer.train()(x), plain(x))
        unfreeze(layer)
        without = nn.BatchNorm1d(3, track_running_stats=False).double().eval()
        synchronize(without)
        torch.testing.assert_close(without(x).mean(0), torch.zeros(3).double())
    layer.train()(x)
    assert layer.num_batches_tracked == 1
    torch.testing.assert_close(layer.running_mean, joined_batch((4, 4, 4), (), torch.float64).mean(0) * 0.1)


def too_few_elements_raise_on_every_worker(rank, groups):
    layer = nn.BatchNorm1d(3)
    synchronize(layer)
    for sizes, n in (((0, 1, 0), 1), ((0, 0, 0), 0)):
        state = copy.deepcopy(layer.state_dict())
        with pytest.raises(ValueError, match=rf"at least 2 elements per channel over all workers, got {n}$"):
            layer(torch.zeros(sizes[rank], 3))
        assert all(torch.equal(layer.state_dict()[name], tensor) for name, tensor in state.items())
    layer(torch.zeros((0, 1, 1)[rank], 3))  # all are still there


def inputs_that_do_not_fit_raise_before_anyone_waits(rank, groups):
    layer = nn.BatchNorm2d(3)
    synchronize(layer)
    with pytest.raises(ValueError, match=r"expected 4D input \(got 2D input\)"):
        layer(torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"^the input has 1 channels, expected 3$"):
        layer(torch.zeros(4, 1, 2, 2))
    ours = bn.BatchNorm1d(3)
    synchronize(ours)
    ours.counts = torch.ones(4)
    with pytest.raises(InputError, match=r"^examples that count unequally \(counts\)"):
        ours(torch.zeros(4, 3))


def large_means_do_not_cancel(rank, groups):
    """A variance of 1 beside a mean of 1e6, which sums of squares lose altogether."""
    x = joined_batch((50, 30, 20), (), torch.float64) + 1e6
    layer = nn.BatchNorm1d(3, momentum=1.0).double()
    synchronize(layer)
    layer(x.split((50, 30, 20))[rank])
    torch.testing.assert_close(layer.running_var, x.var(0), rtol=1e-9, atol=0)
    merged = batch_moments(x[:50])
    for part in (x[50:80], x[80:]):
        merged = merge_moments(merged, batch_moments(part))
    torch.testing.assert_close(layer.running_mean, merged.mean, rtol=1e-15, atol=0)


def halves_are_normalised_in_single_precision(rank, groups):
    sizes = (6, 0, 4)
    x = (joined_batch(sizes, (2, 2), torch.float64) + 300).to(torch.bfloat16)
    layer, plain = seeded(nn.BatchNorm2d(3)), seeded(nn.BatchNorm2d(3))
    synchronize(layer)
    own = x.split(sizes)[rank].clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(own)
    y.float().pow(2).sum().backward()
    assert y.dtype == own.grad.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    expected = plain(x.float())
    torch.testing.assert_close(y, expected.split(sizes)[rank].to(torch.bfloat16), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(layer.running_var, plain.running_var, rtol=1e-5, atol=1e-5)
    all_half = nn.BatchNorm2d(3).to(torch.bfloat16)
    synchronize(all_half)
    assert all_half(own).dtype == torch.bfloat16


def memory_formats_are_kept(rank, groups):
    sizes = (4, 2, 3)
    x = joined_batch(sizes, (4, 4), torch.float64).to(memory_format=torch.channels_last)
    layer, plain = nn.BatchNorm2d(3).double(), nn.BatchNorm2d(3).double()
    synchronize(layer)
    own = x.split(sizes)[rank].detach()
    own = (own if rank else own.contiguous()).requires_grad_()
    y = layer(own)
    y[:, :, ::2].pow(3).sum().backward()
    assert y.is_contiguous(memory_format=torch.channels_last if rank else torch.contiguous_format)
    x = x.clone().requires_grad_()
    joined = plain(x)
    joined[:, :, ::2].pow(3).sum().backward()
    torch.testing.assert_close(y, joined.split(sizes)[rank])
    torch.testing.assert_close(own.grad, x.grad.split(sizes)[rank])


def image_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
        nn.Linear(12, 4), bn.BatchNorm1d(4, stored_variance="biased"), nn.Tanh(), nn.Linear(4, 2),
        nn.SyncBatchNorm(2, affine=False),
    ).double()  # fmt: skip


def inside_ddp(rank, groups):
    """Trained side by side: the same weights and statistics as one worker with all the data, step by step."""
    sizes = (5, 0, 2)
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(sum(sizes), 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    alone, model = image_model(), image_model()
    alone[8] = unsynchronize(alone, data[0]) and alone[8]
    synchronize(model)
    freeze(model[1])
    freeze(alone[1])
    wrapped = DistributedDataParallel(model)
    for one, batches, share in ((alone, data, 1), (wrapped, [x.split(sizes)[rank] for x in data], WORKERS)):
        optimizer = torch.optim.SGD([p for p in one.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
        for x in batches:
            optimizer.zero_grad()
            (one.train()(x).pow(3).sum() * share).backward()  # DDP takes the mean over the workers
            optimizer.step()
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-10, atol=1e-12)
    with pytest.raises(InputError, match=r"wrapped in DistributedDataParallel.*: unfreeze before it is wrapped$"):
        unfreeze(wrapped)
    with pytest.raises(InputError, match=r"freeze before it is wrapped, or with parameters=False$"):
        freeze(wrapped)
    assert freeze(wrapped, parameters=False).names == ("5", "8")
    assert unsynchronize(wrapped) == ["1", "5", "8"]


def compiled(rank, groups):
    sizes = (4, 2, 3)
    x = joined_batch(sizes, (), torch.float64)
    plain = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
    model = copy.deepcopy(plain)
    run = torch.compile(model, backend="eager")
    with torch.no_grad():
        run.eval()(x)
    assert synchronize(run) == ["0"]
    y = run.train()(x.split(sizes)[rank])
    y.pow(3).sum().backward()
    expected = plain(x)
    torch.testing.assert_close(y, expected.split(sizes)[rank])
    torch.testing.assert_close(model[0].running_var, plain[0].running_var)


def a_layer_in_the_middle_of_which_nothing_needs_gradients(rank, groups):
    """Of an input without gradient only γ and β learn, and nobody waits for a sum over the workers."""
    layer = nn.BatchNorm1d(3)
    synchronize(layer)
    x = joined_batch((4, 4, 4), (), torch.float32).split(4)[rank]
    y = layer(x)
    if rank == 1:
        y.sum().backward()
        torch.testing.assert_close(layer.bias.grad, torch.full((3,), 4.0))
    with torch.no_grad():
        assert not layer(x).requires_grad


def second_derivatives_are_refused(rank, groups):
    layer = nn.BatchNorm1d(3)
    synchronize(layer)
    x = joined_batch((4, 4, 4), (), torch.float32).split(4)[rank].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def copies_in_a_group(rank, groups):
    layer = nn.BatchNorm1d(3)
    synchronize(layer, groups["all again"])
    assert copy.deepcopy(layer)._synchronized_group is layer._synchronized_group
    copied = copy.deepcopy(layer)
    synchronize(layer)  # the last call counts
    unsynchronize(copied)
    assert set(vars(layer)) == set(vars(copied)) == set(vars(nn.BatchNorm1d(3)))


CASES = {
    f"{name}, {sizes}, {dtype}".replace("torch.", ""): layer_case(name, sizes, dtype)
    for name in LAYERS
    for sizes in SIZES
    for dtype in (torch.float32, torch.float64)
    if dtype == torch.float64 or sizes in ("unequal", "one empty")
} | {
    case.__name__.replace("_", " "): case
    for case in (
        in_a_smaller_group,
        torchs_layer_raises_on_the_cpu_and_ours_does_not,
        torchs_layer_keeps_its_own_group,
        evaluation_and_frozen_layers_speak_to_nobody,
        too_few_elements_raise_on_every_worker,
        inputs_that_do_not_fit_raise_before_anyone_waits,
        large_means_do_not_cancel,
        halves_are_normalised_in_single_precision,
        memory_formats_are_kept,
        inside_ddp,
        compiled,
        a_layer_in_the_middle_of_which_nothing_needs_gradients,
        second_derivatives_are_refused,
        copies_in_a_group,
    )
}


def groups_of(rank):
    """Return what each case is given: the worker's number, and process groups by name."""
    groups = {"first two": dist.new_group([0, 1]), "third": dist.new_group([2]), "all again": dist.new_group([0, 1, 2])}
    return rank, groups


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What went wrong in each worker, by case."""
    return run_in_workers(WORKERS, __name__, tmp_path_factory.mktemp("workers"), groups_of)


@pytest.mark.parametrize("case", CASES)
def test_three_workers(workers, case):
    wrong = [f"worker {rank}: {found[case]}" for rank, found in enumerate(workers) if case in found]
    assert not wrong, "\n".join(wrong)


# ---------------------------------------------------------------------------------------------------------------------
# One worker


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
