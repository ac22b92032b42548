"""Running statistics that no batch-norm layer's call uses are named: nobody says of them that nothing is wrong."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.toolkit.model import Feed, Overlooked
from batchnorm.toolkit.statistics import MEMORY

BATCHES = list((torch.randn(64, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 3 + 5).split(16))


def statistics(channels=4):
    return torch.zeros(channels), torch.ones(channels)


class FrozenBatchNorm2d(nn.Module):
    """As torchvision's and detectron2's."""

    def __init__(self):
        super().__init__()
        mean, var = statistics()
        for name, buffer in {"weight": var, "bias": mean, "running_mean": mean, "running_var": var}.items():
            self.register_buffer(name, buffer.clone())

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale.view(1, -1, 1, 1) + (self.bias - self.running_mean * scale).view(1, -1, 1, 1)


class OtherNames(nn.Module):
    """With plain attributes, as Keras calls them."""

    def __init__(self):
        super().__init__()
        self.moving_mean, self.moving_variance = statistics()

    def forward(self, x):
        return (x - self.moving_mean.view(-1, 1, 1)) / self.moving_variance.view(-1, 1, 1).sqrt()


class Sliced(nn.Module):
    """Uses some channels of its layer, as slimmable networks do."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        mean, var = self.norm.running_mean[:4], self.norm.running_var[:4]
        return F.batch_norm(x, mean, var, self.norm.weight[:4], self.norm.bias[:4], self.training)


class Whole(Sliced):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm.forward(x)  # past the hooks


class OfItsOwn(nn.Module):
    """Calls one of torch's functions on buffers of any names."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("mu", torch.zeros(4))
        self.register_buffer("sigma", torch.ones(4))

    def forward(self, x):
        return self.function(x, self.mu, self.sigma)


class InAList(nn.Module):
    """Has a layer that `named_modules` does not know."""

    def __init__(self):
        super().__init__()
        self.norms = [nn.BatchNorm2d(4).eval()]

    def forward(self, x):
        return self.norms[0](x)


class InInferenceAlone(OfItsOwn):
    def __init__(self):
        super().__init__(F.batch_norm)

    def forward(self, x):
        return F.batch_norm(x, None, None, training=True) if self.training else super().forward(x)


FUNCTIONS = {
    "F.batch_norm": F.batch_norm,
    "by name": lambda x, mean, var: F.batch_norm(input=x, running_var=var, running_mean=mean),
    "torch.batch_norm": lambda x, mean, var: torch.batch_norm(x, None, None, mean, var, False, 0.1, 1e-5, False),
    "native": lambda x, mean, var: torch.native_batch_norm(x, None, None, mean, var, False, 0.1, 1e-5)[0],
    "operator": lambda x, mean, var: torch.ops.aten.batch_norm(x, None, None, mean, var, False, 0.1, 1e-5, False),
    "overload": lambda x, m, v: torch.ops.aten.native_batch_norm.default(x, None, None, m, v, False, 0.1, 1e-5)[0],
    "F.instance_norm": lambda x, mean, var: F.instance_norm(x, mean, var, use_input_stats=False),
}
KINDS = {
    "InstanceNorm1d": (lambda: nn.Sequential(nn.Flatten(2), nn.InstanceNorm1d(4, track_running_stats=True)), ["0.1"]),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), ["0"]),
    "InstanceNorm3d": (
        lambda: nn.Sequential(nn.Unflatten(3, (3, 1)), nn.InstanceNorm3d(4, track_running_stats=True)), ["0.1"]
    ),
    "lazy": (lambda: nn.LazyInstanceNorm2d(track_running_stats=True), ["0"]),
    "FrozenBatchNorm2d": (FrozenBatchNorm2d, ["0"]),
    "other names": (OtherNames, ["0"]),
    "sliced": (Sliced, ["0", "0.norm"]),
    "past the hooks": (Whole, ["0", "0.norm"]),
    "in a list": (InAList, ["0"]),
    "in inference alone": (InInferenceAlone, ["0"]),
    **{name: (lambda function=function: OfItsOwn(function), ["0"]) for name, function in FUNCTIONS.items()},
}  # fmt: skip


@pytest.mark.parametrize("memory", [MEMORY, 0], ids=["together", "pass by pass"])
@pytest.mark.parametrize("method", ["exact", "one-pass"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_layers_call_is_named(kind, method, memory):
    make, names = KINDS[kind]
    model = nn.Sequential(make(), nn.BatchNorm2d(4) if kind[-2:] not in ("1d", "3d") else nn.Identity()).eval()
    found = [f"{name} ({type(model.get_submodule(name)).__name__})" for name in names]
    note = f"not looked at: {', '.join(found)}: running statistics outside of calls of batch-norm layers"
    done = bn.recalibrate(model, BATCHES, method=method, memory=memory)
    assert list(done.not_looked_at) == names
    assert (done.unreached, "1" in done.changes) == ((), len(model[1]._buffers) > 0)
    assert str(done).splitlines()[-1] == note.replace("Lazy", "")
    assert done.to_dict()["not_looked_at"] == done.not_looked_at
    report = bn.diagnose(model, BATCHES, method=method, memory=memory)
    assert report.notes == (note.replace("Lazy", ""),)
    assert report.unreached == ()
    assert report.not_looked_at == report.to_dict()["not_looked_at"] == done.not_looked_at
    assert not report.findings
    assert "nothing wrong was found in what was looked at" in report.summary


def test_layers_own_calls_and_batch_norm_without_statistics_are_no_news():
    class Scaled(nn.BatchNorm2d):
        def forward(self, x):
            return F.batch_norm(2 * x, self.running_mean, self.running_var, training=self.training)

    class Standardized(nn.Module):  # as convolutions with standardised weights do
        def forward(self, x):
            return F.batch_norm(x, None, None, training=True)

    model = nn.Sequential(
        nn.BatchNorm2d(4), Scaled(4), Standardized(), nn.InstanceNorm2d(4), nn.SyncBatchNorm(4)
    ).eval()
    bn.freeze(model[0])
    assert bn.recalibrate(model, BATCHES).not_looked_at == {}
    bn.unfreeze(model)
    bn.unsynchronize(model, dims=2)
    bn.recalibrate(model, BATCHES)
    report = bn.diagnose(model, BATCHES)
    assert report.notes == ()
    assert report.summary.startswith("3 batch-norm layers: nothing wrong was found;")


def test_a_layer_that_is_called_as_well_is_looked_at():
    class Both(Whole):
        def forward(self, x):
            return super().forward(self.norm(x))

    model = nn.Sequential(Both()).eval()
    assert bn.recalibrate(model, BATCHES).not_looked_at == {"0": "Both"}


def test_a_model_that_is_one_itself_and_calls_without_a_module():
    assert bn.recalibrate(FrozenBatchNorm2d(), BATCHES).not_looked_at == {"": "FrozenBatchNorm2d"}
    model = OfItsOwn(F.batch_norm).eval()
    done = bn.recalibrate(model, BATCHES, forward=lambda model, x: model.function(x, model.mu, model.sigma))
    assert done.not_looked_at == {"": "OfItsOwn"}
    assert str(done).endswith(
        "not looked at: (the model) (OfItsOwn): running statistics outside of calls of batch-norm layers"
    )


def test_of_many_some_are_named():
    model = nn.Sequential(*(FrozenBatchNorm2d() for _ in range(7)))
    (note,) = bn.diagnose(model, BATCHES).notes
    assert "4 (FrozenBatchNorm2d) and 2 more: running" in note


def test_one_pass_in_each_mode_is_watched_to_its_end():
    class FailsAtFirst(OfItsOwn):
        def forward(self, x):
            calls.append(torch.overrides._get_current_function_mode_stack())
            if len(calls) == 1:
                raise RuntimeError("too early")
            return super().forward(x)

    calls = []
    model = FailsAtFirst(F.batch_norm).eval()
    overlooked = Overlooked(model)
    feed = Feed(model, BATCHES, around=overlooked.watching)
    with pytest.raises(RuntimeError, match="too early"):
        feed.run(BATCHES[0])
    assert overlooked.beside(()) == {}
    for _ in range(2):
        feed.run(BATCHES[0])
    model.train()
    for _ in range(2):
        feed.run(BATCHES[0])
    assert list(map(len, calls)) == [1, 1, 0, 1, 0]
    assert overlooked.beside(()) == {"": "FailsAtFirst"}
