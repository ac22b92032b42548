"""Causes that are told apart: what looks like one fault and is another, or none."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn


def causes(report):
    return [(finding.layer, finding.cause) for finding in report.findings]


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch[1])


# Batches from sources of their own.


def sources(i):
    z = torch.randn(64, 8)
    return z + (4, -4)[i % 2], (z.sum(1) > 0).long()


@pytest.fixture(scope="module")
def of_two_sources():
    torch.manual_seed(0)
    data = [sources(i) for i in range(8)]
    norms = [nn.BatchNorm1d(16), nn.BatchNorm1d(16)]
    model = nn.Sequential(
        nn.Linear(8, 16), norms[0], nn.ReLU(), nn.Linear(16, 16), norms[1], nn.ReLU(), nn.Linear(16, 2)
    )
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for step in range(400):
        optimizer.zero_grad()
        cross_entropy(model(data[step % 8][0]), data[step % 8]).backward()
        optimizer.step()
    return model.eval(), data


@pytest.mark.parametrize("loss", [None, cross_entropy])
@pytest.mark.parametrize("recalibrated", [False, True])
def test_sources_that_no_running_statistics_can_serve_are_named(of_two_sources, recalibrated, loss):
    model, data = of_two_sources
    if recalibrated:
        bn.recalibrate(model, data)
    report = bn.diagnose(model, data, loss=loss)
    assert ("1", "batches-differ") in causes(report)
    assert "other-statistics" not in dict(map(reversed, causes(report)))
    assert "nothing wrong" not in str(report)
    (finding,) = (finding for finding in report.findings if finding.cause == "batches-differ")
    assert "recalibrate" not in finding.remedy
    assert finding.severity == ("error" if loss else "warning")


def test_sorted_batches_are_no_fault_of_a_model_that_was_trained_on_mixed_ones():
    torch.manual_seed(0)
    x = torch.cat([torch.randn(256, 8) + 2, torch.randn(256, 8) - 2])
    labels = (torch.arange(512) >= 256).long()
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(200):
        chosen = torch.randint(512, (64,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[chosen]), labels[chosen]).backward()
        optimizer.step()
    data = list(zip(x.split(64), labels.split(64), strict=True))
    assert causes(bn.diagnose(model.eval(), data, loss=cross_entropy)) == []


@pytest.mark.parametrize("size", [2, 4, 8, 32])
def test_batches_differ_no_more_than_chance(size):
    for seed in range(5):
        torch.manual_seed(seed)
        x = torch.randn(size * 6, 6, 4, 4) + torch.randn(size * 6, 6, 1, 1)  # positions of an image are alike
        model = nn.Sequential(nn.BatchNorm2d(6)).eval()
        bn.recalibrate(model, x.split(size))
        assert "batches-differ" not in [cause for _, cause in causes(bn.diagnose(model, x.split(size)))]


def test_a_gap_that_no_layer_explains_is_not_called_nothing():
    """What counts as right is the same for a whole batch, which normalising by the batch takes away."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    batches = [torch.randn(64, 4) + 0.6 * torch.randn(1, 4) for _ in range(8)]
    bn.recalibrate(model, batches)
    targets = [(x, (x - x.mean(0)) / x.std(0, correction=0)) for x in batches]
    report = bn.diagnose(model, targets, loss=lambda output, batch: F.mse_loss(output, batch[1]))
    assert report.findings == ()
    assert report.gap.population > 100 * report.gap.batch
    assert "no layer is at fault by itself" in report.summary
    assert "does much better when it normalises by the batch" in report.notes[0]
    assert "nothing wrong" not in str(report)


# Dropout.


@pytest.mark.parametrize("functional", [False, True])
def test_dropout_before_batch_norm_is_named(functional):
    class Dropping(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.8, self.training)

    torch.manual_seed(0)
    dropout = Dropping() if functional else nn.Dropout(0.8)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), dropout, nn.Linear(32, 16), nn.BatchNorm1d(16))
    batches = [torch.randn(64, 8) for _ in range(10)]
    for _ in range(10):
        for x in batches:
            model(x)
    (finding,) = bn.diagnose(model.eval(), batches).findings
    assert (finding.layer, finding.cause) == ("4", "dropout")
    assert "behind the last batch norm" in finding.remedy
    bn.recalibrate(model, batches)
    assert bn.diagnose(model, batches).findings == ()


# One layer for several pieces.


class Ghost(nn.Module):
    def __init__(self, pieces=16):
        super().__init__()
        self.bn, self.pieces = nn.BatchNorm1d(32), pieces

    def forward(self, x):
        return torch.cat([self.bn(piece) for piece in x.chunk(self.pieces)])


@pytest.mark.parametrize("size", [32, 64, 256])
def test_pieces_of_one_batch_are_no_different_inputs(size):
    for seed in range(3):
        torch.manual_seed(seed)
        model, batches = Ghost().eval(), [torch.randn(size, 32) * 2 + 1 for _ in range(8)]
        bn.recalibrate(model, batches)
        assert "shared-layer" not in [cause for _, cause in causes(bn.diagnose(model, batches))]


def test_a_few_examples_do_not_tell_uses_apart():
    """Of twelve in each use some are far larger than the others, in all channels."""
    torch.manual_seed(0)
    batches = [torch.randn(8, 32) * torch.exp(2 * torch.randn(8, 1)) for _ in range(3)]
    model = Ghost(2).eval()
    bn.recalibrate(model, batches)
    assert "shared-layer" not in [cause for _, cause in causes(bn.diagnose(model, batches))]


def test_pieces_that_differ_are_found_as_what_they_are():
    torch.manual_seed(0)
    model, batches = Ghost(2).eval(), [torch.cat([torch.randn(32, 32), torch.randn(32, 32) + 5]) for _ in range(6)]
    bn.recalibrate(model, batches)
    assert causes(bn.diagnose(model, batches)) == [("bn", "shared-layer")]


# Activation checkpointing.


class Checkpointed(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.first, self.norm = nn.Linear(6, 8), norm

    def forward(self, x):
        return checkpoint(self.norm, self.first(x), use_reentrant=False)


class OnlyWhenRecomputed(nn.BatchNorm1d):
    """Suspends its update in the first of the two passes."""

    passes = 0

    def forward(self, x):
        self.passes += 1
        momentum, self.momentum = self.momentum, self.momentum if self.passes % 2 == 0 else 0.0
        x = super().forward(x)
        self.momentum = momentum
        return x


class HalfEachTime(nn.BatchNorm1d):
    def forward(self, x):
        momentum, self.momentum = self.momentum, 1 - (1 - self.momentum) ** 0.5
        x = super().forward(x)
        self.momentum = momentum
        return x


def checked(norm):
    torch.manual_seed(0)
    model, batches = Checkpointed(norm).eval(), [torch.randn(40, 6) for _ in range(4)]
    bn.recalibrate(model, batches)
    return model, batches


@pytest.mark.parametrize("kind", [OnlyWhenRecomputed, HalfEachTime])
def test_layers_that_see_to_it_themselves_are_healthy(kind):
    assert causes(bn.diagnose(*checked(kind(8)))) == []


@pytest.mark.parametrize("momentum", [0.1, 0.01, 0.001, 0.05, 0.2, 0.03, 0.123, 0.25])
def test_the_remedy_silences_its_finding(momentum):
    model, batches = checked(nn.BatchNorm1d(8, momentum=momentum))
    (finding,) = bn.diagnose(model, batches).findings
    assert finding.cause == "updated-twice"
    name, _, value = finding.remedy.partition(" = ")
    assert name == "model.get_submodule('norm').momentum"
    model.norm.momentum = float(value)
    assert causes(bn.diagnose(model, batches)) == []


# γ of 0.


class Residual(nn.Module):
    def __init__(self, join, between=None):
        super().__init__()
        self.conv, self.bn, self.join, self.between = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), join, between

    def forward(self, x):
        y = self.bn(self.conv(x))
        return self.join(self.between(y) if self.between else y, x)


def in_place(a, b):
    a += b
    return a


class Path(nn.Module):
    def forward(self, x):
        return x * torch.rand(len(x), 1, 1, 1).round()


@pytest.mark.parametrize("join", [torch.add, lambda a, b: b + a, in_place, lambda a, b: sum([a, b])])
@pytest.mark.parametrize("between", [None, nn.Dropout(), nn.Identity(), Path(), nn.ReLU(inplace=True)])
def test_a_branch_that_begins_as_nothing_is_meant_to(join, between):
    torch.manual_seed(0)
    model, batches = (
        nn.Sequential(Residual(join, between), Residual(join, between)),
        list(torch.randn(16, 4, 5, 5).split(8)),
    )
    for block in model:
        nn.init.zeros_(block.bn.weight)
    bn.recalibrate(model, batches)
    assert causes(bn.diagnose(model.eval(), batches)) == []
    model[0].bn.weight.data[1] = 1  # some channels only
    assert causes(bn.diagnose(model, batches)) == [("0.bn", "dead-channels")]


@pytest.mark.parametrize("join", [lambda a, b: a, torch.mul, lambda a, b: torch.cat([a, b], 1), lambda a, b: a + 1])
def test_a_layer_that_silences_what_follows_is_a_fault(join):
    torch.manual_seed(0)
    model, batches = nn.Sequential(Residual(join)), list(torch.randn(16, 4, 5, 5).split(8))
    nn.init.zeros_(model[0].bn.weight)
    bn.recalibrate(model, batches)
    assert causes(bn.diagnose(model.eval(), batches)) == [("0.bn", "dead-channels")]


# Severity.


def test_a_gap_that_is_grave_makes_its_layers_errors():
    """Every layer a little off, within what would be a warning."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()) for _ in range(4)))
    batches = [torch.randn(64, 16) for _ in range(8)]
    bn.recalibrate(model.eval(), batches)
    with torch.no_grad():
        for block in model:
            block[1].running_mean += 0.6 * block[1].running_var.sqrt()
            block[1].running_var *= 0.5
    report = bn.diagnose(model, batches)
    assert report.gap.running > 0.5
    assert {finding.cause for finding in report.findings} == {"other-statistics"}
    assert all(layer.shift < 1 for layer in report.layers)
    assert {finding.severity for finding in report.findings} == {"error"}
