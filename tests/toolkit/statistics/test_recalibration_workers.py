"""Recalibration by two workers over gloo is that of one with all their data."""

import copy
import itertools

import pytest
import torch
from monai.networks import nets
from torch import distributed as dist
from torch import nn

import batchnorm as bn
from graphs import random_graph, randomized
from workers import run_in_workers

WORKERS = 2


class Forked(nn.Module):
    """One layer that only some batches reach, and one that is used twice, once behind itself."""

    def __init__(self):
        super().__init__()
        self.first, self.rare, self.twice = (nn.BatchNorm1d(2, dtype=torch.float64) for _ in range(3))

    def forward(self, x):
        x = self.first(x)
        return self.twice(self.twice(self.rare(x) if len(x) == 2 else x) * 3)


def data(*sizes):
    generator = torch.Generator().manual_seed(0)
    parts = torch.randn(sum(sizes), 2, dtype=torch.float64, generator=generator).split(sizes)
    return [part + 2 * i for i, part in enumerate(parts)]


def compare(model, batches, parts, **options):
    """Recalibrate with this worker's batches; and a twin of the model alone with everybody's."""
    alone = copy.deepcopy(model)
    done = bn.recalibrate(model, parts[dist.get_rank()], **options)
    expected = bn.recalibrate(alone, batches, **{**options, "distributed": False})
    assert done.changes.keys() == expected.changes.keys()
    assert done.unreached == expected.unreached
    assert done.n_passes == expected.n_passes
    for name, change in done.changes.items():
        assert change.moments.n == expected.changes[name].moments.n
    for name, tensor in alone.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-11, atol=1e-12, msg=name)


def random_networks():
    for seed in range(6):
        model, x = random_graph(seed, 20)
        x = x.double()
        batches = list(x.split([7, 1, 5, 7]))
        compare(model.double(), batches, [batches[:3], batches[3:]])


def one_has_nothing():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2)).double()
    batches = data(5, 3)
    compare(model, batches, [[], batches])
    compare(model, batches, [batches, []], distributed=dist.group.WORLD)
    compare(model, batches, [iter(batches[:1]), iter(batches[1:])], distributed=True)


def what_one_alone_reaches():
    batches = data(4, 6, 2)
    compare(Forked(), batches, [batches[:2], batches[2:]])
    compare(Forked(), batches[:2], [batches[:1], batches[1:2]])


def of_others():
    torch.manual_seed(0)
    model = nets.ResNet("basic", [1, 1, 1, 1], [4, 6, 8, 8], 2, n_input_channels=3, num_classes=3).double()
    batches = list(torch.randn(7, 3, 16, 16, dtype=torch.float64).split([3, 1, 3]))
    compare(randomized(model), batches, [batches[:1], batches[1:]])
    step_together(model, batches[0], batches[2][:2])


def step_together(model, *shares):
    """Train a step on unequal shares, synchronised, and alone on the joined batch."""
    alone = copy.deepcopy(model).train()
    alone(torch.cat(shares)).square().sum().backward()
    bn.synchronize(model.train())
    model(shares[dist.get_rank()]).square().sum().backward()
    bn.unsynchronize(model)
    largest = max(parameter.grad.abs().max().item() for parameter in alone.parameters())
    for name, parameter in model.named_parameters():
        # Of some, such as a bias before a batch norm, it is rounding alone.
        dist.all_reduce(parameter.grad)
        expected = alone.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-9, atol=1e-10 * largest, msg=name)
    for name, buffer in alone.named_buffers():
        torch.testing.assert_close(model.get_buffer(name), buffer, rtol=1e-10, atol=1e-12, msg=name)


def one_alone_diagnoses_what_is_synchronised():
    model, x = nn.Sequential(nn.BatchNorm1d(2)).double(), torch.cat(data(40, 40))
    batches = [x[::2], x[1::2]]
    bn.recalibrate(model, batches, distributed=False)
    bn.synchronize(model)
    if dist.get_rank() == 0:
        report = bn.diagnose(model, batches)
        assert report.notes == ("a backward pass was not tried: synchronised layers would wait for all other workers",)
        assert report.findings == ()


def cheap_way():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2)).double()
    batches = data(9, 5)
    compare(model, batches, [batches[:1], batches[1:]], method="one-pass")


def each_alone():
    model = nn.Sequential(nn.BatchNorm1d(2).double())
    mine = data(4, 6)[dist.get_rank()]
    bn.recalibrate(model, [mine], distributed=False)
    torch.testing.assert_close(model[0].running_mean, mine.mean(0))


def inside_the_wrapper():
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm1d(2)).double())
    batches = data(3, 4, 2)
    compare(model.module, batches, [batches[:2], batches[2:]])
    again = bn.recalibrate(model, [batches[:2], batches[2:]][dist.get_rank()])  # unequal: it must not broadcast
    assert list(again.changes) == ["0", "1"]


def one_fails():
    model = nn.Sequential(nn.BatchNorm1d(2)).double()
    batch = data(4)[0]
    with pytest.raises(
        bn.BatchnormError, match="worker 1 failed: its own message says why" if dist.get_rank() == 0 else ""
    ):
        bn.recalibrate(model, [batch], forward=fails_on_the_second)
    assert torch.equal(model[0].running_mean, torch.zeros(2).double())
    with pytest.raises(bn.InputError, match="there are no batches"):
        bn.recalibrate(model, [])
    bad = batch.clone()
    bad[0, 0] = torch.nan if dist.get_rank() else 0.0
    with pytest.raises(bn.InputError, match="what reaches layer '0' holds NaN"):
        bn.recalibrate(model, [bad])


def each_with_a_number_of_its_own():
    batches, mine = data(3, 5, 2, 4), dist.get_rank()
    for memory in (2**31, 0):
        model, alone = (nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2)).double() for _ in range(2))
        bn.recalibrate(model, itertools.cycle(batches[mine:]), n_batches=2 - mine, memory=memory)
        bn.recalibrate(alone, [*batches[:2], batches[1]], distributed=False)
        torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=1e-11, atol=1e-12)
        with pytest.raises(
            bn.BatchnormError, match=("worker 1 failed", "the batches ended after 3, n_batches is 5")[mine]
        ):
            bn.recalibrate(model, batches[mine:], n_batches=4 + mine, memory=memory)
        torch.testing.assert_close(model.state_dict(), alone.state_dict(), rtol=1e-11, atol=1e-12)


def fails_on_the_second(model, batch):
    if dist.get_rank() == 1:
        raise bn.BatchnormError("mine")
    return model(batch)


CASES = {case.__name__: case for case in (
    random_networks, of_others, one_has_nothing, what_one_alone_reaches, cheap_way, each_alone, inside_the_wrapper,
    one_fails, each_with_a_number_of_its_own, one_alone_diagnoses_what_is_synchronised,
)}  # fmt: skip


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What went wrong in each worker, by case."""
    return run_in_workers(WORKERS, __name__, tmp_path_factory)


@pytest.mark.parametrize("case", CASES)
def test_two_workers(workers, case):
    wrong = [f"worker {rank}: {found[case]}" for rank, found in enumerate(workers) if case in found]
    assert not wrong, "\n".join(wrong)
