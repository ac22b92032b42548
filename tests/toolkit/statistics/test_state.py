"""Models that keep something from one batch for the next: the same course of it in every pass, or a refusal."""

import copy
from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn


class Stream(nn.Module):
    """Its second batch norm sees a moving average over the batches."""

    def __init__(self, keep):
        super().__init__()
        self.a, self.c, self.last = (nn.BatchNorm1d(8) for _ in range(3))
        self.keep = keep
        if keep == "buffer":
            self.register_buffer("h", torch.zeros(8))
        elif keep == "attribute" or keep == "in place":
            self.h = torch.zeros(8)
        elif keep == "deque":
            self.h = deque([torch.zeros(8)], maxlen=1)
        elif keep == "dict of tuples":
            self.h = {"state": (torch.zeros(8),)}
        elif keep == "elsewhere":
            self.h = lambda: ELSEWHERE

    def forward(self, x):
        new = torch.tanh(self.a(x)).mean(0)
        if self.keep in ("buffer", "in place"):
            h = self.h.mul_(0.9).add_(new).clone()
        elif self.keep == "attribute":
            h = self.h = (0.9 * self.h + new).detach()
        elif self.keep == "deque":
            self.h.append(0.9 * self.h[-1] + new)
            h = self.h[-1]
        elif self.keep == "dict of tuples":
            h = 0.9 * self.h["state"][0] + new
            self.h["state"] = (h,)
        else:
            h = ELSEWHERE["h"] = 0.9 * ELSEWHERE["h"] + new
        return self.last(F.relu(self.c(h + 0.1 * x)))


ELSEWHERE = {}
KEPT = ["buffer", "attribute", "in place", "deque", "dict of tuples"]


@pytest.fixture
def batches():
    torch.manual_seed(0)
    ELSEWHERE["h"] = torch.zeros(8)
    return [torch.randn(16, 8) + i for i in range(6)]


def reaching(model, batches):
    """Return what reaches the layers of a model in inference, the state beginning as it is."""
    model = copy.deepcopy(model).eval()
    seen = {name: [] for name in ("a", "c", "last")}
    for name, values in seen.items():
        hook = lambda _, args, values=values: values.append(args[0].double())  # noqa: E731
        model.get_submodule(name).register_forward_pre_hook(hook)
    with torch.no_grad():
        for x in batches:
            model(x)
    return {name: torch.cat(values) for name, values in seen.items()}


@pytest.mark.parametrize("memory", [2**31, 0])
@pytest.mark.parametrize("keep", KEPT)
def test_statistics_are_those_of_the_state_that_evaluation_has(keep, memory, batches):
    model = Stream(keep)
    before = copy.deepcopy(model)
    bn.recalibrate(model, batches, memory=memory)
    for name, values in reaching(model, batches).items():
        layer = model.get_submodule(name)
        torch.testing.assert_close(layer.running_mean.double(), values.mean(0), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(layer.running_var.double(), values.var(0), rtol=1e-4, atol=1e-4)
    if isinstance(model.h, torch.Tensor):
        assert torch.equal(model.h, before.h)  # as it was found


@pytest.mark.parametrize("keep", KEPT)
def test_a_second_time_moves_nothing(keep, batches):
    model = Stream(keep)
    bn.recalibrate(model, batches)
    again = bn.recalibrate(model, batches)
    assert max(float(change.shift.max()) for change in again.changes.values()) < 1e-5


@pytest.mark.parametrize("memory", [2**31, 0])
def test_state_that_cannot_be_given_back_is_refused(memory, batches):
    model = Stream("elsewhere")
    message = "what the first batch shows layer.* is not the same when it is run again: the model keeps something"
    with pytest.raises(bn.InputError, match=message):
        bn.recalibrate(model, batches, memory=memory)
    assert not model.a.running_mean.any()

    def anew(model, x):
        ELSEWHERE["h"] = torch.zeros(8)
        return model(x)

    bn.recalibrate(model, batches, forward=anew, memory=memory)
    assert model.c.running_mean.any()


class InPlace(nn.Module):
    """Doubles its input, in place or not."""

    def __init__(self, in_place):
        super().__init__()
        self.in_place = in_place

    def forward(self, x):
        return x.mul_(2) if self.in_place else x * 2


@pytest.mark.parametrize("kind", ["tensors", "arrays", "dicts"])
@pytest.mark.parametrize("memory", [2**31, 0])
def test_a_model_that_works_in_place_leaves_the_batches_as_they_are(kind, memory, batches):
    before = [batch.clone() for batch in batches]
    given = {"arrays": [batch.numpy() for batch in batches], "dicts": [{"x": batch} for batch in batches]}
    layers = nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8)
    model, twin = (copy.deepcopy(nn.Sequential(InPlace(in_place), *layers)) for in_place in (True, False))
    forward = (lambda model, batch: model(batch["x"])) if kind == "dicts" else None
    report = bn.diagnose(model, given.get(kind, batches), memory=memory, forward=forward)
    bn.recalibrate(model, given.get(kind, batches), memory=memory, forward=forward)
    assert all(map(torch.equal, batches, before))
    assert report.to_dict() == bn.diagnose(twin, batches, memory=memory).to_dict()
    bn.recalibrate(twin, batches, memory=memory)
    torch.testing.assert_close(model.state_dict(), twin.state_dict(), rtol=0, atol=0)


def test_batches_that_cannot_be_copied_and_that_the_model_changes_are_refused(batches):
    model = nn.Sequential(InPlace(True), nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))
    with pytest.raises(bn.InputError, match="or changes the batch itself"):
        bn.recalibrate(model, [SimpleNamespace(x=x) for x in batches], forward=lambda model, batch: model(batch.x))


def test_another_order_in_each_pass_and_random_numbers_are_no_state(batches):
    x = torch.cat(batches)

    class Shuffled:
        def __iter__(self):
            return iter(x[torch.randperm(len(x))].split(16))

    class Noise(nn.Module):
        def forward(self, x):
            return F.dropout(x, 0.1, training=True)

    model = nn.Sequential(nn.BatchNorm1d(8), nn.ReLU(), nn.BatchNorm1d(8))
    bn.recalibrate(model, Shuffled(), memory=0)
    reaches = torch.relu(model[0].eval()(x))
    torch.testing.assert_close(model[2].running_mean, reaches.mean(0))
    noisy = nn.Sequential(Noise(), *model).train()
    assert bn.recalibrate(noisy, batches).n_passes == 2


@pytest.mark.parametrize("memory", [2**31, 0])
def test_a_diagnosis_of_a_model_that_keeps_state(memory, batches):
    model = Stream("attribute").eval()
    bn.recalibrate(model, batches)
    report = bn.diagnose(model, batches, memory=memory)
    assert max(layer.largest_shift for layer in report.layers) < 1e-4
    assert report.gap.running < 1e-4  # each run on a batch begins with the state that the batch finds
    assert torch.equal(model.h, torch.zeros(8))
