"""Batch norm over several workers is that of one worker with all batches together.

Each case runs on all three workers, and compares with the one-worker run on the joined batch.
"""

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
from batchnorm.toolkit.behaviors.synchronization import synchronize, unsynchronize
from synchronized_layers import LAYERS, SIZES, check_layer, joined_batch, seeded
from workers import run_in_workers

WORKERS = 3


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
    return run_in_workers(WORKERS, __name__, tmp_path_factory, groups_of)


@pytest.mark.parametrize("case", CASES)
def test_three_workers(workers, case):
    wrong = [f"worker {rank}: {found[case]}" for rank, found in enumerate(workers) if case in found]
    assert not wrong, "\n".join(wrong)
