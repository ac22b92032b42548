"""Exact population statistics in any model: the cascade, unequal batches, and whatever is not to change left alone."""

import copy
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from batchnorm.toolkit.model.restoring import inference
from graphs import random_graph


def reference(model, x):
    """In float64, one layer after the other in the order of execution, on all data at once."""
    model = copy.deepcopy(model).double().eval()
    layers, order = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)], []
    handles = [layer.register_forward_pre_hook(lambda layer, _: order.append(layer)) for layer in layers]
    with torch.no_grad():
        model(x.double())
        for handle in handles:
            handle.remove()
        for layer in order:
            reaches = []
            handle = layer.register_forward_pre_hook(lambda _, args, reaches=reaches: reaches.append(args[0].clone()))
            model(x.double())
            handle.remove()
            dims = [d for d in range(reaches[0].dim()) if d != 1]
            layer.running_mean.copy_(reaches[0].mean(dims))
            layer.running_var.copy_(reaches[0].var(dims, correction=1))
    return model


def assert_same_state(model, expected, rtol=1e-10):
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=rtol, atol=1e-12, msg=name)


GRAPHS = given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5))


@GRAPHS
@settings(max_examples=40, deadline=None)
def test_is_the_float64_reference_however_the_data_is_cut(seed, sizes):
    model, x = random_graph(seed, sum(sizes))
    model.double()
    x = x.double()
    expected = reference(model, x)
    done = bn.recalibrate(model, list(x.split(sizes)))
    assert_same_state(model, expected)
    assert not done.unreached
    assert not done.frozen


@GRAPHS
@settings(max_examples=15, deadline=None)
def test_float32_models_get_the_same_statistics_from_any_cut(seed, sizes):
    model, x = random_graph(seed, sum(sizes))
    twin = copy.deepcopy(model)
    a, b = bn.recalibrate(model, list(x.split(sizes))), bn.recalibrate(twin, [x])
    for name in a.changes:
        assert a.changes[name].moments.n == b.changes[name].moments.n
        torch.testing.assert_close(
            model.get_submodule(name).running_var, twin.get_submodule(name).running_var, rtol=1e-4, atol=1e-5
        )


def test_sorted_data_in_batches_keeps_its_variance_between_batches():
    model = nn.Sequential(nn.BatchNorm1d(1))
    bn.recalibrate(model, [torch.full((4, 1), 0.0), torch.full((4, 1), 10.0)])
    assert model[0].running_mean.item() == 5.0
    assert model[0].running_var.item() == pytest.approx(25 * 8 / 7)


def test_a_mean_far_from_zero_does_not_cancel_the_variance():
    model = nn.Sequential(nn.BatchNorm1d(1, dtype=torch.float64))
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64) + 1e9
    bn.recalibrate(model, [x[:1], x[1:]])
    assert model[0].running_var.item() == 1.0


def test_a_layer_with_biased_storage_gets_the_biased_variance():
    model = nn.Sequential(bn.BatchNorm1d(1, stored_variance="biased"))
    bn.recalibrate(model, [(torch.tensor([[1.0], [3.0]]), "label")])
    assert model[0].running_var.item() == 1.0


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.first = nn.BatchNorm1d(2), nn.BatchNorm1d(2)  # not in the order of execution
        self.beside = nn.BatchNorm1d(2)
        self.unused = nn.BatchNorm1d(2)
        self.without = nn.BatchNorm1d(2, track_running_stats=False)

    def forward(self, x):
        return self.last(input=torch.relu(self.without(self.first(x)))) + self.beside(x)


def test_goes_in_the_order_of_execution_and_reports_what_it_does_not_reach():
    torch.manual_seed(0)
    model, x = Branches(), torch.randn(50, 2) * 3 + 1
    done = bn.recalibrate(model, [x[:20], x[20:]])
    assert list(done.changes) == ["first", "last", "beside"]
    assert done.unreached == ("unused",)
    assert done.n_passes == 2  # beside shares one with first
    assert torch.equal(model.unused.running_mean, torch.zeros(2))
    torch.testing.assert_close(model.first.running_mean, x.mean(0))
    with inference(model):
        y = torch.relu(model.without(model.first(x[:20])))
    assert not torch.allclose(model.last.running_mean, y.mean(0))  # all data, not the first batch


def test_says_what_changed():
    model = nn.Sequential(nn.BatchNorm1d(1, eps=0.0), nn.BatchNorm1d(1)).eval()
    model[1].requires_grad_(False)  # says nothing of the statistics
    done = bn.recalibrate(model, [torch.tensor([[2.0], [6.0]])])
    assert done.changes["0"].shift.tolist() == [2.0]  # from 0 to 4, in units of 2
    assert done.changes["0"].variance_ratio.tolist() == [0.25]
    assert done.changes["1"].mean_before.tolist() == [0.0]
    assert str(done) == (
        "2 layers recalibrated in 2 passes over the data\nlargest shift of a mean: 2 standard deviations, in '0'"
    )


@pytest.mark.parametrize("how", ["freeze", "eval", "momentum"])
@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_frozen_layers_stay(how, method):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).train()
    if how == "freeze":
        bn.freeze(model[0])
    elif how == "eval":
        model[0].eval()
    else:
        model[0].momentum = 0.0
    done = bn.recalibrate(model, [torch.tensor([[1.0], [3.0]])], method=method)
    assert (done.frozen, list(done.changes)) == (("0",), ["1"])
    assert model[0].running_mean.item() == 0.0
    assert model[1].running_mean.item() == pytest.approx(2.0, abs=1e-4)  # behind the frozen 0 and 1
    assert str(done).endswith("1 layer frozen and left alone: '0'")


class Raises(nn.Module):
    def forward(self, x):
        if len(x) == 3:
            raise RuntimeError("half-way")
        return x


def test_modes_and_hooks_are_afterwards_what_they_were_also_when_the_model_raises():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(), nn.BatchNorm1d(2), Raises()).train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    statistics = [buffer.clone() for buffer in model.buffers()]
    for method in ("exact", "one-pass"):
        with pytest.raises(RuntimeError, match="half-way"):
            bn.recalibrate(model, [torch.randn(4, 2), torch.randn(3, 2)], method=method)
        late = nn.Sequential(*model[:3])  # its first layer is done when the second one meets what is wrong
        with pytest.raises(bn.InputError, match="a single element per channel reaches layer '0'"):
            bn.recalibrate(late, [torch.randn(1, 2)], method=method)
        with pytest.raises(bn.InputError, match="what reaches layer '0' holds NaN or infinite values"):
            bn.recalibrate(late, [torch.tensor([[1.0, float("nan")], [1.0, 2.0]])], method=method)
        assert all(torch.equal(old, new) for old, new in zip(statistics, model.buffers(), strict=True))
    bn.recalibrate(model, [torch.randn(4, 2)])
    assert [module.training for module in model.modules()] == before
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_dropout_is_off_and_other_buffers_stay():
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm1d(2)).train()
    model[1].num_batches_tracked.fill_(7)
    x = torch.randn(100, 2)
    bn.recalibrate(model, [x])
    torch.testing.assert_close(model[1].running_mean, x.mean(0))
    assert model[1].num_batches_tracked.item() == 7
    assert model[1].momentum == 0.1


class Keywords(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, pixels, scale=1.0):
        return self.norm(pixels * scale)


X = torch.tensor([[1.0], [3.0], [8.0]])


@pytest.mark.parametrize(
    ("batches", "forward", "mean"),
    [
        ([X[:2], X[2:]], None, 4.0),
        ((x for x in X.split(2)), None, 4.0),
        ([(X, "labels")], None, 4.0),
        ([[X[:2]], [X[2:]]], None, 4.0),
        ([{"pixels": X, "labels": torch.zeros(3)}], None, 4.0),
        ([{"pixels": X, "scale": torch.tensor(2.0)}], None, 8.0),
        ([{"image": X}], lambda model, batch: model(batch["image"], scale=3.0), 12.0),
    ],
    ids=["tensors", "generator", "tuple", "list", "dict", "dict with options", "forward"],
)
def test_takes_batches_of_any_kind(batches, forward, mean):
    model = Keywords()
    bn.recalibrate(model, batches, forward=forward)
    assert model.norm.running_mean.item() == pytest.approx(mean)


def test_an_iterator_is_kept_for_as_many_passes_as_it_takes():
    model, twin = (nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2)) for _ in range(2))
    x = torch.randn(20, 2)
    done = bn.recalibrate(model, iter(x.split(7)))
    assert done.n_passes == 2
    bn.recalibrate(twin, [x])
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


def test_says_what_is_wrong_with_the_batches():
    model = Keywords()
    with pytest.raises(bn.InputError, match=r"batches is one tensor of shape \(3, 1\), expected an iterable"):
        bn.recalibrate(model, X)
    with pytest.raises(bn.InputError, match="batches is one dict"):
        bn.recalibrate(model, {"pixels": X})
    with pytest.raises(bn.InputError, match="batches is a int, expected an iterable of batches"):
        bn.recalibrate(model, 3)
    with pytest.raises(bn.InputError, match="there are no batches"):
        bn.recalibrate(model, [])
    with pytest.raises(bn.InputError, match="a batch is an empty tuple"):
        bn.recalibrate(model, [()])
    message = (
        "a batch is a dict of 'image', but Keywords.forward takes pixels, scale: say how to run it, "
        "such as forward=lambda model, batch: model(batch['image']), or model(batch)"
    )
    with pytest.raises(bn.InputError) as caught:
        bn.recalibrate(model, [{"image": X}])
    assert str(caught.value) == message
    with pytest.raises(bn.InputError, match="method is 'fast', expected 'exact' or 'one-pass'"):
        bn.recalibrate(model, [X], method="fast")
    with pytest.raises(bn.InputError, match="model is a Tensor, expected a torch"):
        bn.recalibrate(X, [X])
    with pytest.raises(bn.InputError, match=r"distributed=True, but torch.distributed is not initialised"):
        bn.recalibrate(model, [X], distributed=True)


def test_a_model_without_batch_norm_has_nothing_to_recalibrate():
    done = bn.recalibrate(nn.Linear(2, 2), [torch.randn(4, 2)])
    assert (done.changes, done.n_passes) == ({}, 1)


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
def test_dependence_is_seen_through_all_that_python_can_do(how):
    model, x = Hiding(how), torch.randn(20, 2) * 3 + 2
    depends_on_the_cut = ("number", "tolist", "condition")
    expected = reference(model, x) if how not in depends_on_the_cut else None
    done = bn.recalibrate(model, [x[:7], x[7:]])
    assert done.n_passes == 2
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


def test_batches_that_are_gone_after_one_pass_are_not_taken_for_layers_that_are_not_reached():
    class Once:
        def __init__(self):
            self.left = iter(torch.randn(9, 2).split(3))

        def __iter__(self):
            return self.left

    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2))
    with pytest.raises(
        bn.InputError, match="the first pass over the batches saw 3 of them, a later one 0: give a list"
    ):
        bn.recalibrate(model, Once())
    assert torch.equal(model[0].running_mean, torch.zeros(2))


class Stateful(nn.Module):
    """Counts in a buffer, keeps values in a list, draws random numbers, and does more in train() and eval()."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.kept, self.busy = nn.BatchNorm1d(2), nn.BatchNorm1d(2), [], False
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("expanded", torch.ones(1).expand(3))

    def train(self, mode=True):
        self.first.weight.data += 1
        return super().train(mode)

    def forward(self, x):
        assert not self.busy
        self.busy = True
        self.count += 1
        self.kept.append(x)
        x = self.second(self.first(x + 0 * torch.rand(())))
        self.kept.pop()
        self.busy = False
        return x


@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_nothing_but_statistics_changes_in_a_model_with_a_life_of_its_own(method):
    model = Stateful()
    loader = torch.utils.data.DataLoader(torch.randn(12, 2), batch_size=4, shuffle=True)
    pending = model(torch.randn(5, 2)).sum()
    before, random_state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    bn.diagnose(model, loader, method=method)
    pending.backward()  # its graph holds buffers
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    bn.recalibrate(model, loader, method=method)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{layer}.running_{what}" for layer in ("first", "second") for what in ("mean", "var")}
    assert (model.kept, model.busy, model.training) == ([], False, True)
    assert torch.equal(torch.get_rng_state(), random_state)


def test_arrays_are_batches_and_several_inputs_are_asked_about():
    model = Keywords()
    bn.recalibrate(model, [X.numpy()])
    assert model.norm.running_mean.item() == 4.0

    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(bn.InputError, match=r"Two.forward needs x, y: say how .* model\(\*batch\[:2\]\)"):
        bn.recalibrate(Two(), [(X, X)])


def test_buffers_that_would_round_a_mean_away_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(1).bfloat16())
    x = torch.tensor([[49.0], [50.25], [51.0]] * 9).bfloat16()  # their mean is 50.08: near it there are 50 and 50.25
    with pytest.raises(bn.InputError, match=r"are too large for its buffers' torch.bfloat16"):
        bn.recalibrate(model, [x])


def test_lazy_layers_are_made_and_measured():
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d(), nn.LazyBatchNorm1d())
    x = torch.randn(30, 4)
    done = bn.recalibrate(model, [x])
    assert list(done.changes) == ["1", "2"]
    torch.testing.assert_close(model[1].running_mean, model[0](x).mean(0))


class NormAndActivation(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


@pytest.mark.parametrize("method", ["exact", "one-pass"])
def test_a_subclass_keeps_what_it_adds(method):
    torch.manual_seed(1)
    model = nn.Sequential(NormAndActivation(2), nn.BatchNorm2d(2))
    x = torch.randn(8, 2, 3, 3)
    bn.recalibrate(model, [x], method=method)
    with inference(model):
        torch.testing.assert_close(model[1].running_mean, model[0](x).mean((0, 2, 3)), rtol=0.02, atol=0)
    assert (model[1].running_mean > 0.3).all()


def test_compiled_and_wrapped_models_are_seen_into():
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1))
    compiled = torch.compile(model, backend="eager")
    x = torch.tensor([[1.0], [3.0]])
    compiled(x)
    assert list(bn.recalibrate(compiled, [x]).changes) == ["0", "1"]
    assert model[0].running_mean.item() == 2.0
    inside = nn.Sequential(torch.compile(nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)), backend="eager"))
    with inference(inside), torch.no_grad():
        inside(x)  # compiled code does not call the hooks that come later
    assert len(bn.recalibrate(inside, [x], method="one-pass").changes) == 2
    assert bn.recalibrate(inside, [x]).n_passes == 2
    parallel = nn.DataParallel(nn.Sequential(nn.BatchNorm1d(1)))
    assert list(bn.recalibrate(parallel, [x]).changes) == ["0"]


def test_statistics_that_half_precision_cannot_hold_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(1).half())
    x = torch.tensor([[-600.0], [600.0]], dtype=torch.float16)
    with pytest.raises(bn.InputError, match=r"are too large for its buffers' torch.float16: keep them in"):
        bn.recalibrate(model, [x])
    assert model[0].running_var.item() == 1.0


def test_passes_end_where_all_that_they_measure_has_been_reached():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    calls = []
    model[3].register_forward_pre_hook(lambda *_: calls.append(1))
    assert bn.recalibrate(model, list(torch.randn(10, 2).split(5))).n_passes == 2
    assert len(calls) == 2  # in the first pass alone


def test_one_pass_normalises_with_the_batch_and_merges_all_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2, eps=1e-9), nn.Tanh(), nn.BatchNorm1d(2)).double()
    parts = [torch.randn(n, 2, dtype=torch.float64) + n for n in (3, 50, 1)]
    done = bn.recalibrate(model, parts, method="one-pass")
    seen = torch.cat([torch.tanh((x - x.mean(0)) / (x.var(0, correction=0) + 1e-9).sqrt()) for x in parts])
    assert done.n_passes == 1
    torch.testing.assert_close(model[0].running_mean, torch.cat(parts).mean(0))
    torch.testing.assert_close(model[2].running_mean, seen.mean(0))
    torch.testing.assert_close(model[2].running_var, seen.var(0))
    assert done.changes["2"].mean_before.tolist() == [0.0, 0.0]


def test_layers_without_statistics_can_be_given_some():
    model = nn.Sequential(nn.BatchNorm1d(1, track_running_stats=False), nn.BatchNorm1d(1)).eval()
    x = torch.tensor([[1.0], [3.0], [5.0]])
    assert list(bn.recalibrate(model, [x]).changes) == ["1"]
    assert bn.track_statistics(model) == ["0"]
    assert list(bn.recalibrate(model, [x]).changes) == ["0", "1"]
    assert model[0].running_mean.item() == 3.0
    nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).load_state_dict(model.state_dict())
    double = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2, affine=False, track_running_stats=False)).double()
    bn.track_statistics(double)
    assert double[1].running_mean.dtype == torch.float64
    with pytest.raises(bn.InputError, match="layer '0' is not yet initialised"):
        bn.track_statistics(nn.Sequential(nn.LazyBatchNorm1d(track_running_stats=False)))
    single, everyone = model(x[:1]), model(x)  # an output no longer depends on the others
    torch.testing.assert_close(single, everyone[:1])


# What the closest relatives do wrong.


def update_bn(model, batches):
    torch.optim.swa_utils.update_bn(batches, model)


def fvcore_update(model, batches):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it compiles something with torch.jit when it is imported
        from fvcore.nn.precise_bn import update_bn_stats
    update_bn_stats(model, batches, num_iters=len(batches))


def recalibrate(model, batches):
    bn.recalibrate(model, batches)


def fails(relative, reason, raises=AssertionError):
    """Expect a relative to fail, for this reason alone: once it no longer does, strictness says so."""
    return pytest.param(relative, marks=pytest.mark.xfail(strict=True, raises=raises, reason=reason))


def both(relative, reason, **options):
    return pytest.mark.parametrize("update", [fails(relative, reason, **options), recalibrate])


@both(update_bn, "it restores the mode of the top module alone")
def test_a_submodules_own_mode_survives(update):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout()).train()
    model[1].eval()
    update(model, [torch.randn(5, 1)])
    assert not model[1].training


@both(update_bn, "it counts every batch once")
def test_unequal_batches_count_by_their_examples(update):
    model = nn.Sequential(nn.BatchNorm1d(1))
    update(model, [torch.zeros(6, 1), torch.full((2, 1), 4.0)])
    assert model[0].running_mean.item() == 1.0


@both(update_bn, "it puts dropout into training mode, too")
def test_dropout_does_not_disturb_the_statistics(update):
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(1))
    update(model, [torch.full((50, 1), 2.0)])
    assert model[1].running_mean.item() == 2.0


@both(update_bn, "it resets and updates every layer")
def test_layers_that_the_user_froze_keep_their_statistics(update):
    model = nn.Sequential(nn.BatchNorm1d(1), nn.BatchNorm1d(1)).train()
    model[0].eval()
    update(model, [torch.full((5, 1), 2.0)])
    assert model[0].running_mean.item() == 0.0


@both(update_bn, "it passes a dict on as if it were a tensor", raises=TypeError)
def test_dicts_are_batches(update):
    model = Keywords()
    update(model, [{"pixels": X}])
    assert model.norm.running_mean.item() == 4.0


@both(update_bn, "it averages the variances within batches")
def test_the_variance_between_batches_counts(update):
    model = nn.Sequential(nn.BatchNorm1d(1))
    update(model, [torch.zeros(5, 1), torch.ones(5, 1)])
    assert model[0].running_var.item() == pytest.approx(10 / 36)


@both(fvcore_update, "it does nothing without a layer in training mode")
def test_a_model_in_inference_mode_is_not_passed_over_in_silence(update):
    model = nn.Sequential(nn.BatchNorm1d(1)).eval()
    update(model, [X])
    assert model[0].running_mean.item() == 4.0


@both(fvcore_update, "it leaves momentum and hooks changed")
def test_a_model_that_raises_is_left_as_it_was(update):
    model = nn.Sequential(nn.BatchNorm1d(2), Raises()).train()
    with pytest.raises(RuntimeError, match="half-way"):
        update(model, [torch.randn(4, 2), torch.randn(3, 2)])
    assert model[0].momentum == 0.1
    assert not model[0]._forward_pre_hooks
    assert torch.equal(model[0].running_mean, torch.zeros(2))


@both(fvcore_update, "it computes E[x²] − E[x]²")
def test_nothing_cancels_far_from_zero(update):
    model = nn.Sequential(nn.BatchNorm1d(1, dtype=torch.float64)).train()
    x = torch.randn(100, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e8
    update(model, list(x.split(20)))
    assert model[0].running_var.item() == pytest.approx(x.var().item(), rel=0.05)


@both(fvcore_update, "it measures behind layers that normalise by the batch")
def test_a_deep_layer_gets_the_statistics_of_the_network_that_is_evaluated(update):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2)).double().train()
    x = torch.randn(60, 2, dtype=torch.float64) * torch.linspace(0.1, 4, 60)[:, None]
    expected = reference(model, x)
    update(model, list(x.split(10)))
    torch.testing.assert_close(model[2].running_mean, expected[2].running_mean)
    torch.testing.assert_close(model[2].running_var, expected[2].running_var, rtol=0.02, atol=0)


def averaged_over_workers(models, shares):
    """Average buffers as distributed trainings often do: each worker's, over the workers."""
    for buffer, *others in zip(*(model.buffers() for model in models), strict=True):
        if buffer.is_floating_point():
            buffer.copy_(torch.stack([buffer, *others]).mean(0))


def merged_over_workers(models, shares):
    bn.recalibrate(models[0], shares)


@pytest.mark.parametrize(
    "combine",
    [fails(averaged_over_workers, "it drops the variance between the workers"), merged_over_workers],
)
def test_how_far_the_means_of_workers_are_apart_is_part_of_the_variance(combine):
    shares = [torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [12.0]])]
    models = [nn.Sequential(nn.BatchNorm1d(1)) for _ in shares]
    for model, share in zip(models, shares, strict=True):
        bn.recalibrate(model, [share])
    combine(models, shares)
    assert models[0][0].running_var.item() == pytest.approx(torch.cat(shares).var().item())


def test_averaged_weights_get_the_statistics_that_belong_to_them():
    torch.manual_seed(0)
    x = torch.randn(200, 4)
    models = [nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)).eval() for _ in range(3)]
    for model in models:
        bn.recalibrate(model, [x])
    average = torch.optim.swa_utils.AveragedModel(models[0], use_buffers=True)
    for model in models:
        average.update_parameters(model)
    average.eval()
    assert {finding.cause for finding in bn.diagnose(average, [x]).findings} == {"other-statistics"}
    bn.recalibrate(average, [x])
    assert bn.diagnose(average, [x]).findings == ()
