"""Layers that nobody builds on purpose: a diagnosis neither raises on them nor says what is not so."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.toolkit.diagnosis.evidence import Evidence
from batchnorm.toolkit.diagnosis.rules import findings
from batchnorm.toolkit.statistics import Reached
from planted import healthy


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def batches(n=6, constant=False):
    drawn = [torch.randn(32, 4) * 2 + 1 for _ in range(n)]
    for x in drawn:
        if constant:
            x[:, 2] = 3.0
    return drawn


def settled(data, **options):
    """Return a layer that has the statistics of the data."""
    model = nn.Sequential(nn.BatchNorm1d(4, **options)).eval()
    bn.recalibrate(model, data)
    return model


def causes(model, data, **options):
    return [finding.cause for finding in bn.diagnose(model, data, **options).findings]


def test_without_eps():
    data = batches()
    model = settled(data)
    model[0].eps = 0.0
    assert causes(model, data) == []
    model[0].running_var[1] = 0
    (finding,) = bn.diagnose(model, data).findings
    assert finding.cause == "zero-variance"
    assert finding.why.endswith("varies: inference divides it by 0")


@pytest.mark.parametrize(("kind", "scale"), [(torch.float32, 1e-30), (torch.float16, 5e-5)])
def test_a_variance_that_its_dtype_rounds_to_zero_is_that_of_the_data(kind, scale):
    data = [x.to(kind) * scale for x in batches()]
    model = nn.Sequential(nn.BatchNorm1d(4)).eval().to(kind)
    bn.recalibrate(model, data)
    assert not model[0].running_var.any()
    assert causes(model, data) == ["large-eps"]


def test_a_constant_channel_without_eps():
    data = batches(constant=True)
    model = settled(data)
    model[0].eps = 0.0
    report = bn.diagnose(model, data)
    assert [finding.cause for finding in report.findings] == ["constant-input"]
    assert report.layers[0].shift < 1e-6
    assert report.layers[0].largest_variance_factor == pytest.approx(1)
    model[0].running_mean[2] += 1
    finding = bn.diagnose(model, data).findings[1]
    assert finding.cause == "other-statistics"
    assert "nan" not in finding.why


def test_a_constant_channel_does_not_hide_that_others_are_wrong():
    data = batches(constant=True)
    model = settled(data)
    model[0].running_mean[0] += 20
    assert causes(model, data) == ["constant-input", "other-statistics"]


@pytest.mark.parametrize("momentum", [2.0, 3.0, -0.1, math.nan])
@pytest.mark.parametrize("updates", [0, 100_000])
def test_a_momentum_that_is_no_weight(momentum, updates):
    data = batches()
    model = settled(data)
    model[0].momentum = momentum
    model[0].num_batches_tracked.fill_(updates)
    (finding,) = bn.diagnose(model, data).findings
    assert finding.cause == "momentum"
    assert finding.why.startswith(f"momentum is {momentum:g}: as the weight of the newest batch it should be from 0 to")
    exec(finding.remedy, {"batchnorm": bn, "model": model, "batches": data})
    assert causes(model, data) == []


@pytest.mark.parametrize("momentum", [None, 0, 0.1])
@pytest.mark.parametrize("updates", [None, torch.tensor(0), torch.tensor(50.0)])
def test_without_a_momentum_or_a_count(momentum, updates):
    data = batches()
    model = settled(data)
    model[0].momentum, model[0].num_batches_tracked = momentum, updates
    assert causes(model, data) == []
    model[0].running_mean += 20
    assert causes(model, data) == ["other-statistics" if momentum != 0 else "frozen-but-drifting"]


def test_a_pruned_layer_whose_number_of_channels_was_not_changed():
    data = batches()
    model = settled(data)
    model[0].num_features = 64
    model[0].running_var[1] = -1
    report = bn.diagnose(model, data)
    assert report.findings[0].why.startswith("the running variance of 1 of 4 channels is negative")
    assert report.layers[0].channels == 4


def test_without_parameters():
    data = batches()
    model = settled(data, affine=False)
    assert causes(model, data) == []
    model[0].running_var[:] = math.nan
    assert causes(model, data) == ["nan-statistics"]


def test_unreached_layers_of_which_little_fits_together():
    case = healthy("dense", 0)
    case.model[0].unused = nn.BatchNorm1d(3, affine=False).eval()
    case.model[0].unused.running_var = torch.tensor([1.0, math.inf])
    (finding,) = case.diagnose().findings
    assert (finding.layer, finding.cause) == ("0.unused", "nan-statistics")
    assert "1 of 3 channels" in finding.why


@pytest.mark.parametrize("training", [None, False])
def test_a_single_element_is_no_population(training):
    data = batches()
    model = settled(data)
    report = bn.diagnose(model, [data[0][:1]], training=training)
    assert [finding.cause for finding in report.findings] == (["single-element"] if training is None else [])
    assert "statistics were not compared: a single element per channel reached 0" in report.notes
    assert report.layers[0].shift is None


def test_no_batch_of_this_worker_is_no_evidence():
    x = batches(1)[0].double()
    moments = bn.functional.batch_moments(x)
    layer = nn.BatchNorm1d(4)
    running = torch.zeros(4).double(), torch.ones(4).double()
    reached = Reached(moments, calls=[], batches=[], scatter=None)
    evidence = Evidence(
        name="norm",
        code="model.norm",
        layer=layer,
        running=(running[0] + 9, running[1]),
        reached=reached,
        model_training=True,
        training=True,
        expected_training=None,
        keeps_statistics=False,
        weight_of_a_step=None,
        gap=None,
        with_dropout=None,
        is_added=False,
    )
    assert evidence.noise == math.inf
    assert findings(evidence) == []


def test_a_layer_that_keeps_its_statistics_by_its_momentum_may_be_run_again():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return checkpoint(self.norm, self.first(x), use_reentrant=False)

    data = batches()
    model = Checkpointed().eval()
    bn.recalibrate(model, data)
    assert causes(model, data) == ["updated-twice"]
    model.norm.momentum = 0.0
    assert causes(model, data) == []


def test_small_variances_are_not_taken_for_few_updates():
    model = nn.Sequential(nn.BatchNorm1d(4)).train()
    for _ in range(3):
        model(torch.randn(32, 4))
    model.eval()
    bn.recalibrate(model, [torch.randn(32, 4) * 0.1 for _ in range(6)])
    assert causes(model, [torch.randn(32, 4) * 0.3 for _ in range(6)]) == ["other-statistics"]


def test_a_gap_that_nobody_can_measure_is_a_note():
    class Masked(nn.Module):
        def forward(self, x):
            return x.masked_fill(torch.arange(4) == 0, -torch.inf)

    data = batches()
    model = settled(data).append(Masked())
    model[0].running_mean += 20
    report = bn.diagnose(model, data)
    assert report.gap is None
    assert [layer.share for layer in report.layers] == [None]
    assert report.notes == (
        "outputs were not compared: they hold NaN or infinite values with population statistics too; give loss=",
    )
    assert bn.diagnose(model, data, loss=lambda output, _: output[:, 1:].square().mean()).layers[0].share == 1
    report = bn.diagnose(model, data, loss=lambda output, _: output.square().mean())
    assert report.notes[-1] == "outputs were not compared: the loss is NaN or infinite with population statistics too"
