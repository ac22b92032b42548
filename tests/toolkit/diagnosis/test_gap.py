"""A diagnosis measures the gap of the model itself, and blames the right layer for it."""

import json

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.diagnosis import blame
from planted import cross_entropy, plant


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


# Networks of many layers.


class Residual(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(12, 12), nn.BatchNorm1d(12), activation)

    def forward(self, x):
        return x + 0.5 * self.inner(x)


def deep(n=24, seed=0, activation=None):
    """Return a network of many layers, healthy but for what a running average leaves, and its batches."""
    torch.manual_seed(seed)
    blocks = [Residual(activation or nn.ReLU(inplace=True)) for _ in range(n)]
    model, batches = nn.Sequential(*blocks, nn.Linear(12, 3)).eval(), list(torch.randn(256, 12).split(32))
    bn.recalibrate(model, batches)
    for layer in norms(model):
        layer.running_mean += 0.01 * torch.randn(12)
        layer.running_var *= 1 + 0.01 * torch.randn(12)
    with torch.no_grad():
        return model, [(x, model(x) + 0.2 * torch.randn(32, 3)) for x in batches]


def squared_error(output, batch):
    return (output - batch[1]).square().mean()


def norms(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm1d)]


def evaluations(model, batches):
    """Count, in place, how often a model is run: a list that grows."""
    calls = []
    model.register_forward_pre_hook(lambda _, args: calls.append(len(args[0]) / sum(len(x) for x, _ in batches)))
    return calls


@pytest.mark.parametrize("loss", [None, squared_error])
def test_of_many_layers_those_that_matter_are_switched_and_the_others_estimated(loss, monkeypatch):
    model, batches = deep()
    guilty = {"3.inner.1": 0.5, "11.inner.1": 2.0, "17.inner.1": 1.0}
    for name, shift in guilty.items():
        model.get_submodule(name).running_mean += shift
    calls = evaluations(model, batches)
    report = bn.diagnose(model, batches, loss=loss)
    assert sum(calls) <= 12
    assert report.gap.matters
    monkeypatch.setattr(blame, "_SWITCHED", 100)  # so that nothing is estimated
    switched = bn.diagnose(model, batches, loss=loss)
    assert switched.gap.estimated == frozenset()
    assert report.gap.estimated.isdisjoint(guilty)
    assert 24 - 4 <= len(report.gap.estimated) <= 24 - 3
    for layer, expected in zip(report.layers, switched.layers, strict=True):
        assert layer.estimated == (layer.name in report.gap.estimated)
        assert layer.share == pytest.approx(expected.share, abs=0.1)
        if not layer.estimated:
            assert layer.damage == pytest.approx(expected.damage)
    assert sum(layer.share for layer in report.layers) == pytest.approx(1)
    assert "≈ " in report.to_html()
    assert [layer["estimated"] for layer in report.to_dict()["layers"]] == [layer.estimated for layer in report.layers]


def test_a_healthy_network_is_not_searched_for_what_makes_it_bad():
    model, batches = deep()
    calls = evaluations(model, batches)
    report = bn.diagnose(model, batches)
    assert not report.gap.matters
    assert {layer.share for layer in report.layers} == {None}
    assert sum(calls) <= 1 + 1 / 8 + 1 / 8 + 3 + 1e-9  # population, first batch again, training step, three modes


def test_statistics_that_are_the_population_s_are_not_tried_beside_them():
    model, batches = deep()
    bn.recalibrate(model, batches)
    calls = evaluations(model, batches)
    report = bn.diagnose(model, batches)
    assert (report.gap.running, report.gap.population) == (0.0, 0.0) != (report.gap.batch, 0.0)
    assert sum(calls) <= 1 + 1 / 8 + 1 / 8 + 2 + 1e-9


def test_layers_that_differ_by_rounding_are_not_switched():
    model, batches = deep()
    bn.recalibrate(model, batches)
    norms(model)[5].running_mean += 3
    calls = evaluations(model, batches)
    report = bn.diagnose(model, batches)
    assert {layer.name: layer.share for layer in report.layers if layer.share} == {"5.inner.1": 1.0}
    assert report.gap.estimated == frozenset()
    assert sum(calls) <= 1 + 1 / 8 + 1 / 8 + 3 + 2 + 1 / 8 + 1e-9  # one batch more: are there random numbers?


class Undifferentiable(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.detach().numpy())


@pytest.mark.parametrize("activation", [Undifferentiable(), nn.ReLU()], ids=["no gradient", "frozen weights"])
def test_layers_that_cannot_be_estimated_are_switched(activation):
    model, batches = deep(8, activation=activation)
    model.requires_grad_(False)
    norms(model)[2].running_mean += 2
    report = bn.diagnose(model, batches)
    assert report.gap.estimated == frozenset() if isinstance(activation, Undifferentiable) else report.gap.estimated
    assert next(layer for layer in report.layers if layer.name == "2.inner.1").share > 0.5
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("value", [torch.nan, -0.5, torch.inf])
def test_statistics_that_make_everything_nan_do_not_hide_the_rest(value):
    model, batches = deep()
    norms(model)[7].running_var[3] = value
    norms(model)[9].running_mean += 2
    report = bn.diagnose(model, batches)
    shares = {layer.name: layer.share for layer in report.layers if layer.share}
    assert "7.inner.1" in shares if value != torch.inf else "9.inner.1" in shares
    assert "7.inner.1" not in report.gap.estimated
