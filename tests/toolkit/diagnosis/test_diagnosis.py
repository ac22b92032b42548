"""A diagnosis names the right layer and cause, blames the right layer for the gap, and changes nothing."""

import copy
import io
import json
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm import progress
from batchnorm.toolkit.diagnosis.rules import RULES
from conftest import REPOSITORY
from planted import BUILDERS, FAULTS, healthy, plant, twin


def places(cause):
    return range(3) if cause not in ("tiny-batch", "single-element", "shared-layer") else range(1)


@pytest.mark.parametrize("architecture", BUILDERS)
@pytest.mark.parametrize("cause", FAULTS)
def test_the_fault_is_named_at_its_layer_and_nothing_else_is(cause, architecture):
    for place in places(cause):
        case = plant(cause, architecture, 0, place)
        report = case.diagnose()
        assert {(finding.layer, finding.cause) for finding in report.findings} == case.expected
        assert report.exit_code == 3
        assert all(finding.why and finding.remedy for finding in report.findings)


@pytest.mark.parametrize("architecture", BUILDERS)
@pytest.mark.parametrize("cause", FAULTS)
def test_its_healthy_twin_is_passed_in_silence(cause, architecture):
    report = twin(cause, architecture, 0).diagnose()
    assert report.findings == ()
    assert report.exit_code == 0


REPAIRED = ["never-updated", "few-updates", "nan-statistics", "negative-variance", "zero-variance", "no-statistics",
            "not-tracking", "frozen-but-drifting", "training-left-on", "inference-in-training", "momentum",
            "other-statistics", "updated-twice", "dead-channels"]  # fmt: skip


@pytest.mark.parametrize("cause", REPAIRED)
def test_the_remedy_is_a_call_that_mends_it(cause):
    case = plant(cause, "dense", 0, 1)
    (finding,) = case.diagnose().findings
    remedy = finding.remedy.split(", or")[0].split(", to train")[0]
    exec(remedy, {"batchnorm": bn, "torch": torch, "model": case.model, "batches": case.batches})
    left = {found for _, found in case.found()}
    if cause == "updated-twice":
        assert case.model[1].norm.momentum == pytest.approx(0.0513, abs=1e-4)
        return  # it is still updated twice, by half as much each time
    assert cause not in left


def cross_entropy(output, batch):
    return F.cross_entropy(output, batch[1])


@pytest.mark.parametrize("loss", [None, cross_entropy])
@pytest.mark.parametrize("place", range(3))
def test_the_gap_is_attributed_to_the_layer_that_causes_it(place, loss):
    case = plant("never-updated", "convolutional", 1, place)
    report = bn.diagnose(case.model, case.batches, loss=loss)
    shares = {layer.name: layer.share for layer in report.layers}
    guilty = case.layers[place]
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[guilty] > 0.75


def test_the_gap_is_that_of_the_model_itself():
    case = plant("never-updated", "dense", 0, 0)
    report = bn.diagnose(case.model, case.batches, loss=cross_entropy)

    def mean_loss():
        with torch.no_grad():
            return sum(cross_entropy(case.model(x), (x, y)).item() for x, y in case.batches) / len(case.batches)

    assert report.gap.running == pytest.approx(mean_loss(), rel=1e-5)
    bn.recalibrate(case.model, case.batches)
    assert report.gap.population == pytest.approx(mean_loss(), rel=1e-5)
    case.model.train()
    assert report.gap.batch == pytest.approx(mean_loss(), rel=1e-4)
    assert report.gap.gap > 0.1
    assert report.attribution is report.gap  # as it was called


def test_nan_in_one_layer_is_all_of_the_gap():
    case = plant("nan-statistics", "dense", 0, 1)
    report = case.diagnose()
    assert [layer.share for layer in report.layers] == [0, 1, 0]
    assert json.loads(report.to_json())["gap"]["running"] is None


def state(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    modes = [vars(module)["training"] for module in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return tensors, gradients, modes, hooks, torch.get_rng_state()


def assert_same(before, after):
    for name, tensor in before[0].items():
        assert torch.equal(tensor, after[0][name]), name
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True))
    assert before[2:4] == after[2:4]
    assert torch.equal(before[4], after[4])


@pytest.mark.parametrize("training", [True, False])
def test_it_changes_nothing(training):
    case = healthy("convolutional", 0)
    case.model.insert(3, nn.Dropout(0.5))
    case.model.train(training)
    case.model[1].norm.eval()
    F.cross_entropy(case.model(case.batches[0][0]), case.batches[0][1]).backward()
    before = state(case.model)
    bn.diagnose(case.model, case.batches, loss=cross_entropy)
    assert_same(before, state(case.model))


class RaisesAt(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.left = call

    def forward(self, x):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("half-way")
        return x


@pytest.mark.parametrize("call", [3, 12, 20, 40])
def test_it_changes_nothing_when_the_model_raises(call):
    case = plant("other-statistics", "dense", 0, 0)
    case.model.append(RaisesAt(call))
    before = state(case.model)
    with pytest.raises(RuntimeError, match="half-way"):
        case.diagnose()
    assert_same(before, state(case.model))


def test_a_training_step_that_raises_is_a_note():
    class OnlyInference(nn.Module):
        def forward(self, x):
            if self.training:
                raise RuntimeError("not for training")
            return x

    case = healthy("dense", 0)
    case.model.append(OnlyInference().eval())
    assert case.diagnose().notes == ("a training step was tried and raised RuntimeError: not for training",)


def test_parameters_that_train_during_the_backward_pass_are_left_alone():
    case = healthy("dense", 0)
    case.model[0].linear.weight.register_post_accumulate_grad_hook(lambda p: p.data.add_(1))
    before = case.model[0].linear.weight.clone()
    (note,) = case.diagnose().notes
    assert note == "a backward pass was not tried: parameters have hooks that may train them"
    assert torch.equal(case.model[0].linear.weight, before)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")  # torch's, without gradients
@pytest.mark.parametrize("reentrant", [True, False])
def test_both_kinds_of_checkpointing_are_seen(reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Linear(6, 8), nn.BatchNorm1d(8)

        def forward(self, x):
            return checkpoint(self.norm, self.first(x), use_reentrant=reentrant)

    model, batches = Checkpointed().eval(), [torch.randn(40, 6) for _ in range(4)]
    bn.recalibrate(model, batches)
    assert [(f.layer, f.cause) for f in bn.diagnose(model, batches).findings] == [("norm", "updated-twice")]


def test_the_mode_that_is_expected_can_be_said():
    case = healthy("dense", 0)
    assert bn.diagnose(case.model, case.batches, training=False).findings == ()
    causes = [finding.cause for finding in bn.diagnose(case.model, case.batches, training=True).findings]
    assert causes == ["inference-in-training"] * 3
    case.model.train()
    causes = [finding.cause for finding in bn.diagnose(case.model, case.batches, training=False).findings]
    assert causes == ["training-left-on"] * 3
    bn.freeze(case.model[0])
    causes = [finding.cause for finding in bn.diagnose(case.model, case.batches, training=True).findings]
    assert causes == []


def test_one_pass_finds_the_same_in_a_shallow_network():
    case = plant("never-updated", "dense", 0, 1)
    case.options["method"] = "one-pass"
    assert case.found() == case.expected
    with pytest.raises(bn.InputError, match="method is 'quick', expected 'exact' or 'one-pass'"):
        bn.diagnose(case.model, case.batches, method="quick")


def test_streams_are_batches():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

    loader = torch.utils.data.DataLoader(Stream(), batch_size=16)
    assert {cause for _, cause in plant("never-updated", "dense", 0, 0).found()} == {"never-updated"}
    case = healthy("dense", 0)
    case.model[0].norm.reset_running_stats()
    assert "never-updated" in {finding.cause for finding in bn.diagnose(case.model, loader).findings}


def test_what_the_data_raise_is_what_is_raised():
    def batches():
        yield from healthy("dense", 0).batches[:1]
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="disk on fire"):
        bn.diagnose(healthy("dense", 0).model, batches())


def test_one_fault_does_not_hide_another():
    case = plant("momentum", "dense", 0, 1)
    case.model[1].norm.running_mean += 100
    assert {cause for _, cause in case.found()} == {"momentum", "other-statistics"}
    remedy = next(finding.remedy for finding in case.diagnose().findings if finding.cause == "momentum")
    exec(remedy, {"batchnorm": bn, "model": case.model, "batches": case.batches})
    assert case.found() == set()


@pytest.mark.parametrize("how", ["freeze", "momentum", "eval"])
@pytest.mark.parametrize("fault", ["nan", "initial", "drift"])
def test_the_remedy_mends_frozen_layers_too(fault, how):
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
    assert (finding.layer, finding.cause, finding.severity) == ("1.norm", "other-statistics", "warning")


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


def test_outputs_of_changing_shape_are_a_note_and_an_empty_batch_is_left_out():
    class Chosen(nn.Sequential):
        def forward(self, x):
            y = super().forward(x)
            return y[y[:, 0] > 0]

    torch.manual_seed(0)
    model, x = Chosen(nn.BatchNorm1d(2)).eval(), torch.randn(64, 2) + 3
    report = bn.diagnose(model, [x])
    assert [finding.cause for finding in report.findings] == ["never-updated"]
    assert report.notes == ("outputs were not compared: their shape depends on the statistics; give loss=",)
    case = plant("never-updated", "dense", 0, 1)
    case.batches.append((torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64)))
    assert case.diagnose().gap.gap > 0.1


def test_gradients_of_the_loss_and_of_the_batch_stay_what_they_were():
    case = healthy("dense", 0)
    head = nn.Linear(3, 1)
    batches = [(x.clone().requires_grad_(), labels) for x, labels in case.batches]
    bn.diagnose(case.model, batches, loss=lambda output, batch: head(output).square().mean())
    assert head.weight.grad is None
    assert all(x.grad is None for x, _ in batches)


def test_layers_that_are_not_reached_are_said_to_be():
    case = healthy("dense", 0)
    case.model[0].unused = nn.BatchNorm1d(3).eval()
    report = case.diagnose()
    assert report.unreached == ("0.unused",)
    assert report.findings == ()
    assert str(report).endswith("never reached by these batches: 0.unused")


def test_lazy_models_and_models_without_batch_norm():
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d()).eval()
    x = torch.randn(64, 3) * 4 + 4
    assert [finding.cause for finding in bn.diagnose(lazy, [x]).findings] == ["never-updated"]
    report = bn.diagnose(nn.Linear(3, 2), [x])
    assert (report.findings, report.layers) == ((), ())
    with pytest.raises(bn.InputError, match="there are no batches"):
        bn.diagnose(lazy, [])


def test_positions_are_elements_too():
    model = nn.Sequential(nn.BatchNorm2d(2)).eval()
    x = torch.randn(17, 2, 5, 5)
    bn.recalibrate(model, [x])
    assert bn.diagnose(model, list(x.split([4, 4, 4, 4, 1]))).findings == ()  # 100 elements, and 25 of a single image
    assert [finding.cause for finding in bn.diagnose(model, list(x.split(2))).findings] == ["tiny-batch"]
    bn.freeze(model)  # which is what mends it
    assert bn.diagnose(model, list(x.split(2))).findings == ()


def test_an_output_without_numbers_has_no_gap():
    class Classes(nn.Sequential):
        def forward(self, x):
            return {"classes": super().forward(x).argmax(1)}

    model, x = Classes(nn.BatchNorm1d(3)).eval(), torch.randn(64, 3)
    bn.recalibrate(model, [x])
    report = bn.diagnose(model, [x])
    assert report.gap is None
    assert str(report) == (
        "1 batch-norm layer: nothing wrong was found\n"
        "outputs were not compared: there are no numbers in them, or all are 0; give loss="
    )


def test_a_report_is_text_a_table_json_and_html():
    case = plant("never-updated", "dense", 0, 1)
    report = bn.diagnose(case.model, case.batches, loss=cross_entropy)
    text = str(report).splitlines()
    assert text[0].startswith("3 batch-norm layers: 1 error; loss ")
    assert text[1].startswith("error: 1.norm: never-updated: the running statistics are the initial mean 0 and var")
    assert text[2] == "    → batchnorm.recalibrate(model, batches)"
    content = json.loads(report.to_json())
    assert list(content) == ["findings", "layers", "gap", "unreached", "notes"]
    assert content["findings"][0]["cause"] == "never-updated"
    assert content["layers"][1]["share"] > 0.75
    assert content["gap"]["kind"] == "loss"

    from rich.console import Console

    console = Console(width=120, file=io.StringIO())
    console.print(report)
    table = console.file.getvalue()
    assert "1.norm" in table
    assert "variance off by (×)" in table

    html = report._repr_html_()
    assert "<td>1.norm</td>" in html
    assert html.count("<tr") == 4
    assert "<script" not in html


def test_names_cannot_break_out_of_the_html():
    case = plant("never-updated", "dense", 0, 1)
    report = case.diagnose()
    hostile = copy.copy(report)
    object.__setattr__(hostile, "unreached", ("<script>alert(1)</script>",))
    assert "<script>" not in hostile._repr_html_()


def test_long_work_shows_a_bar_at_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "_SECONDS_BEFORE_IT_APPEARS", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    case = healthy("dense", 0)
    case.diagnose()
    assert "diagnosing" in capsys.readouterr().err
    bn.diagnose(case.model, case.batches, progress=False)
    assert capsys.readouterr().err == ""


def test_every_rule_is_tried_on_a_model_that_has_its_fault():
    assert set(FAULTS) == set(RULES)


def test_every_cause_is_in_the_documentation():
    page = (REPOSITORY / "docs" / "toolkit.md").read_text()
    for cause in RULES:
        assert page.count(f"`{cause}`") >= 2, cause  # what it means, and how well it is found
