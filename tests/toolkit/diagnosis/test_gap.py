"""A diagnosis measures the gap of the model itself, and blames the right layer for it."""

import json

import pytest
import torch
from torch import nn

import batchnorm as bn
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
