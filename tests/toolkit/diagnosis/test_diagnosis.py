"""A diagnosis takes models and batches of many kinds, and changes nothing."""

import itertools
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm import progress
from planted import cross_entropy, healthy, plant


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


class RaisesFrom(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call, self.calls = call, itertools.count(1)  # which nobody gives back

    def forward(self, x):
        if next(self.calls) >= self.call:
            raise RuntimeError("half-way")
        return x


@pytest.mark.parametrize("call", [3, 12, 20, 40])
def test_it_changes_nothing_when_the_model_raises(call):
    case = plant("other-statistics", "dense", 0, 0)
    case.model.append(RaisesFrom(call))
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
