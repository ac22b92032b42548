"""Each layer after those that it depends on: all batches together, or pass by pass in as few as that takes."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.model.restoring import inference
from recalibrated import both_ways, reference


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first = nn.BatchNorm1d(2), nn.BatchNorm1d(2)  # not in the order of execution
        self.beside = nn.BatchNorm1d(2)
        self.unused = nn.BatchNorm1d(2)
        self.without = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x):
        return self.last(input=torch.relu(self.without(self.first(x)))) + self.beside(x)


@both_ways
def test_goes_in_the_order_of_execution_and_reports_what_it_does_not_reach(memory):
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(50, 2) * 3 + 1
    done = bn.recalibrate(model, [x[:20], x[20:]], memory=memory)
    assert list(done.changes) == ["first", "last", "beside"]
    assert done.unreached == ("unused",)
    assert done.n_passes == (1 if memory else 2)  # beside shares one with first
    assert torch.equal(model.unused.running_mean, torch.zeros(2))
    torch.testing.assert_close(model.first.running_mean, x.mean(0))
    with inference(model):
        y = torch.relu(model.without(model.first(x[:20])))
    assert not torch.allclose(model.last.running_mean, y.mean(0))  # all data, not the first batch


class Siamese(nn.Module):
    """One batch norm at two places, the second behind the first."""

    def __init__(self):
        super().__init__()
        self.norm, self.after = nn.BatchNorm1d(2), nn.BatchNorm1d(2)

    def forward(self, x):
        return self.after(self.norm(self.norm(x) * 5 + 3))


def test_a_layer_behind_itself_gets_what_all_its_uses_see_in_training():
    torch.manual_seed(0)
    model, x = Siamese(), torch.randn(200, 2)
    done = bn.recalibrate(model, [x])
    assert done.changes["norm"].circular
    assert not done.changes["after"].circular
    normed = (x - x.mean(0)) / x.std(0, correction=0)
    seen = torch.cat([x, normed * 5 + 3])
    torch.testing.assert_close(model.norm.running_mean, seen.mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.norm.running_var, seen.var(0), rtol=1e-4, atol=1e-4)
    with inference(model):
        reaches = model.norm(model.norm(x) * 5 + 3)
    torch.testing.assert_close(model.after.running_mean, reaches.mean(0))


class Hiding(nn.Module):
    """Hides what the second layer depends on: detached, written in place, passed through Python."""

    def __init__(self, how):
        super().__init__()
        self.first, self.second, self.how = nn.BatchNorm1d(2), nn.BatchNorm1d(2), how

    def forward(self, x):
        y = self.first(x)
        if self.how == "detached":
            y = y.detach()[:, [1, 0]]
        elif self.how == "in place":
            target = torch.zeros_like(x)
            target[:, 0] = y[:, 1]
            y = target
        elif self.how == "number":
            y = x * (3.0 if y.mean().item() > 0.5 else 1.0)
        elif self.how == "numpy":
            y = torch.from_numpy(y.numpy() + 1)
        elif self.how == "memory":
            target = torch.zeros_like(x)
            target.numpy()[:] = y.numpy() * 3 + 1
            y = target
        elif self.how == "tolist":
            y = x * max(max(row) for row in y.tolist())
        elif self.how == "condition":
            y = x * (1 + len(y[y[:, 0] > 0.7]))
        elif self.how == "equal":
            y = x * (1.0 if torch.equal(y, torch.zeros_like(y)) else 5.0)
        elif self.how == "view":
            rows = y.view(-1)
            rows.mul_(2)
        elif self.how == "list":
            target = torch.empty_like(x)
            torch._foreach_copy_([target], [y])  # returns nothing
            y = target
        elif self.how == "out":
            target = torch.empty_like(x)
            torch.mul(y, 2, out=target)
            y = target
        return self.second(y)


@pytest.mark.parametrize(
    "how", ["detached", "in place", "number", "numpy", "memory", "tolist", "condition", "equal", "view", "list", "out"]
)
@both_ways
def test_dependence_is_seen_through_all_that_python_can_do(how, memory):
    model, x = Hiding(how), torch.randn(20, 2) * 3 + 2
    depends_on_the_cut = ("number", "tolist", "condition")
    expected = reference(model, x) if how not in depends_on_the_cut else None
    done = bn.recalibrate(model, [x[:7], x[7:]], memory=memory)
    assert done.n_passes == (1 if memory else 2)
    if expected is not None:
        torch.testing.assert_close(model.second.running_var.double(), expected.second.running_var, rtol=1e-4, atol=1e-5)


class Sometimes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.rare, self.last = nn.BatchNorm1d(1), nn.BatchNorm1d(1), nn.BatchNorm1d(1)

    def forward(self, x):
        x = self.first(x)
        return self.last(self.rare(x) if len(x) == 2 else x)


def test_a_layer_that_only_some_batches_reach_is_measured_on_these():
    model = Sometimes()
    x = torch.randn(8, 1) + 5
    done = bn.recalibrate(model, [x[:3], x[3:5], x[5:]])
    assert list(done.changes) == ["first", "last", "rare"]
    assert done.n_passes == 3
    assert [done.changes[name].moments.n for name in ("first", "rare", "last")] == [8, 2, 8]
    with inference(model):
        torch.testing.assert_close(model.rare.running_mean, model.first(x[3:5]).mean(0))


def test_what_is_computed_of_the_weights_is_not_the_models():
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.BatchNorm1d(1) for _ in range(3))

        def forward(self, x):
            return self.first(x) + self.second(x) + self.third(x)

    pair = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 3.0])
    done = bn.recalibrate(model := Beside(), [pair], weights=lambda pair: pair[1])
    assert model.second.running_mean.item() == 2.5
    assert done.n_passes == 1


class MoreOften(nn.Module):
    """Uses its second layer twice on batches of three."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.BatchNorm1d(1), nn.BatchNorm1d(1)

    def forward(self, x):
        x = self.first(x)
        self.second(x)
        return self.second(x + 1) if len(x) == 3 else x


def test_a_pass_does_not_end_early_where_batches_differ():
    model = MoreOften()
    assert bn.recalibrate(model, list(torch.randn(5, 1).split([2, 3]))).changes["second"].moments.n == 2 + 3 + 3


def test_passes_end_where_all_that_they_measure_has_been_reached():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    calls = []
    model[3].register_forward_pre_hook(lambda *_: calls.append(1))
    assert bn.recalibrate(model, list(torch.randn(10, 2).split(5)), memory=0).n_passes == 2
    assert len(calls) == 2  # in the first pass alone
