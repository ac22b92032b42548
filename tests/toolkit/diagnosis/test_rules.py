"""A diagnosis names the right layer and cause, and a remedy that works; on healthy models it is silent."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.diagnosis.rules import RULES
from conftest import REPOSITORY
from planted import FAULTS, healthy, plant, twin


def places(cause):
    return range(3) if cause not in ("tiny-batch", "single-element", "shared-layer") else range(1)


@pytest.mark.parametrize("architecture", ["dense", "convolutional"])  # planted.py tries all
@pytest.mark.parametrize("cause", FAULTS)
def test_the_fault_is_named_at_its_layer_and_nothing_else_is(cause, architecture):
    for place in places(cause):
        case = plant(cause, architecture, 0, place)
        report = case.diagnose()
        assert {(finding.layer, finding.cause) for finding in report.findings} == case.expected
        assert report.exit_code == 3
        assert all(finding.why and finding.remedy for finding in report.findings)


@pytest.mark.parametrize("architecture", ["dense", "convolutional"])  # planted.py tries all
@pytest.mark.parametrize("cause", FAULTS)
def test_its_healthy_twin_is_passed_in_silence(cause, architecture):
    report = twin(cause, architecture, 0).diagnose()
    assert report.findings == ()
    assert report.exit_code == 0


REPAIRED = [
    "never-updated",
    "few-updates",
    "nan-statistics",
    "negative-variance",
    "zero-variance",
    "no-statistics",
    "not-tracking",
    "frozen-but-drifting",
    "training-left-on",
    "inference-in-training",
    "momentum",
    "other-statistics",
    "updated-twice",
    "dead-channels",
]


@pytest.mark.parametrize("cause", REPAIRED)
def test_the_remedy_is_a_call_that_fixes_it(cause):
    case = plant(cause, "dense", 0, 1)
    (finding,) = case.diagnose().findings
    remedy = finding.remedy.split(", or")[0].split(", to train")[0]
    exec(remedy, {"batchnorm": bn, "torch": torch, "model": case.model, "batches": case.batches})
    left = {found for _, found in case.found()}
    assert cause not in left


def test_one_fault_does_not_hide_another():
    case = plant("momentum", "dense", 0, 1)
    case.model[1].norm.running_mean += 100
    assert {cause for _, cause in case.found()} == {"momentum", "other-statistics"}
    remedy = next(finding.remedy for finding in case.diagnose().findings if finding.cause == "momentum")
    exec(remedy, {"batchnorm": bn, "model": case.model, "batches": case.batches})
    assert case.found() == set()


@pytest.mark.parametrize("how", ["freeze", "momentum", "eval"])
@pytest.mark.parametrize("fault", ["nan", "initial", "drift"])
def test_the_remedy_fixes_frozen_layers_too(fault, how):
    case = healthy("dense", 0)
    norm = case.model[1].norm
    if how == "freeze":
        bn.freeze(norm)
    elif how == "momentum":
        norm.momentum = 0.0
    else:
        case.model.train()
        norm.eval().requires_grad_(False)
    if fault == "nan":
        norm.running_var[0] = torch.nan
    elif fault == "initial":
        norm.reset_running_stats()
    else:
        norm.running_mean += 5
    finding, *_ = case.diagnose().findings  # the layers behind it get what they do not expect, too
    assert finding.layer == "1.norm"
    exec(finding.remedy, {"batchnorm": bn, "model": case.model, "batches": case.batches})
    assert case.found() == set()
    assert (norm.momentum == 0) == (how == "momentum")
    assert type(norm).__name__ == ("FrozenBatchNorm1d" if how == "freeze" else "BatchNorm1d")


def test_a_remedy_names_layers_as_the_model_that_was_given_does():
    case = plant("dead-channels", "dense", 0, 1)
    before = case.model[1].norm.weight.detach().clone()
    wrapped = nn.DataParallel(case.model).eval()
    (finding,) = bn.diagnose(wrapped, case.batches).findings
    assert finding.layer == "1.norm"
    exec(finding.remedy.split(", to train")[0], {"model": wrapped})
    after = case.model[1].norm.weight
    assert after[2] == 1
    assert torch.equal(after[3:], before[3:])


def test_a_plain_mean_may_be_updated_twice():
    case = plant("updated-twice", "dense", 0, 1)
    case.model[1].norm.momentum = None
    assert case.found() == set()


@pytest.mark.parametrize("seed", [2, 6, 19])
def test_channels_that_rarely_fire_are_no_fault(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(64)).train()

    def rare():
        return torch.randn(64, 64) - torch.linspace(0, 2.5, 64)

    for _ in range(300):
        model(rare())
    assert bn.diagnose(model.eval(), [rare() for _ in range(8)]).findings == ()


def test_one_channel_counts():
    case = healthy("dense", 0)
    norm = case.model[1].norm
    norm.running_mean[3] += 1.2 * norm.running_var[3].sqrt()
    (finding,) = case.diagnose().findings
    assert (finding.layer, finding.cause, finding.severity) == ("1.norm", "other-statistics", "error")


def test_statistics_that_were_recalibrated_are_not_blamed_on_few_updates():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4)).train()
    for _ in range(3):
        model(torch.randn(32, 4) * 3 + 9)
    model.eval()
    few = bn.diagnose(model, [torch.randn(32, 4) * 3 + 9 for _ in range(4)]).findings
    assert [finding.cause for finding in few] == ["few-updates"]
    bn.recalibrate(model, [torch.randn(32, 4) * 3 + 9 for _ in range(4)])
    other = bn.diagnose(model, [torch.randn(32, 4) * 3 - 9 for _ in range(4)]).findings
    assert [finding.cause for finding in other] == ["other-statistics"]


def test_what_cannot_be_measured_is_a_finding():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    causes = {finding.cause for finding in bn.diagnose(model, [torch.randn(1, 3)]).findings}
    assert "single-element" in causes
    half = nn.Sequential(nn.BatchNorm1d(1)).half().eval()
    assert bn.diagnose(half, [torch.tensor([[-600.0], [600.0]] * 10).half()]).findings


def test_positions_are_elements_too():
    model = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.randn(17, 2, 5, 5)
    bn.recalibrate(model, [x])
    assert bn.diagnose(model, list(x.split([4, 4, 4, 4, 1]))).findings == ()  # 100 elements, and 25 of a single image
    assert [finding.cause for finding in bn.diagnose(model, list(x.split(2))).findings] == ["tiny-batch"]
    bn.freeze(model)  # which is the fix
    assert bn.diagnose(model, list(x.split(2))).findings == ()


def test_every_rule_is_tried_on_a_model_that_has_its_fault():
    assert set(FAULTS) == set(RULES)


def test_every_cause_is_in_the_documentation():
    page = (REPOSITORY / "docs" / "toolkit.md").read_text()
    for cause in RULES:
        assert page.count(f"`{cause}`") >= 2, cause  # what it means, and how well it is found
