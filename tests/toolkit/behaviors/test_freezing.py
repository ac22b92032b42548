"""Frozen layers: they stay in inference whatever is asked of the model, and what was done can be undone to the bit."""

import copy
import io
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from batchnorm.errors import InputError
from batchnorm.toolkit.behaviors.freezing import freeze, is_frozen, unfreeze
from batchnorm.toolkit.behaviors.synchronization import is_synchronized, synchronize, unsynchronize
from batchnorm.toolkit.model.restoring import inference

LAYERS = {
    "1d": (lambda: nn.BatchNorm1d(3), (6, 3)),
    "1d with positions": (lambda: nn.BatchNorm1d(3), (4, 3, 5)),
    "2d": (lambda: nn.BatchNorm2d(3), (4, 3, 2, 2)),
    "3d": (lambda: nn.BatchNorm3d(3, momentum=None), (4, 3, 2, 2, 2)),
    "sync": (lambda: nn.SyncBatchNorm(3), (4, 3, 2, 2)),
    "without affine": (lambda: nn.BatchNorm2d(3, affine=False), (4, 3, 2, 2)),
    "ours": (lambda: bn.BatchNorm1d(3, stored_variance="biased"), (6, 3)),
    "own forward": (lambda: WithActivation(3), (4, 3, 2, 2)),
}


class WithActivation(nn.BatchNorm2d):
    """As libraries of image models fuse the two."""

    def forward(self, x):
        return super().forward(x).relu()


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = self.again = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.tied = nn.BatchNorm1d(3)
        self.tied.weight = self.norm.weight

    def forward(self, x):
        return self.tied(self.again(self.linear(self.norm(x))))


def small_model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3), bn.BatchNorm1d(3))


def train(model, x, steps=3):
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x).square().sum() + sum(parameter.sum() for parameter in model.parameters())).backward()
        optimizer.step()


def traces(model):
    """Everything that freezing may touch."""
    return {
        name: (
            type(module),
            set(vars(module)),
            module.training,
            {k: p.requires_grad for k, p in own_parameters(module)},
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }


def own_parameters(module):
    return list(module.named_parameters(recurse=False))


def assert_same_state(model, before):
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def snapshot(model):
    return copy.deepcopy(model.state_dict())


@pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=LAYERS)
def test_training_leaves_a_frozen_layer_as_it_is(make, shape):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    x = torch.randn(shape) * 3 + 1
    model(x)  # statistics that are not those of a new layer
    expected = copy.deepcopy(model).eval()(x)
    state, before = snapshot(model), traces(model)
    assert freeze(model).names == ("0",)
    assert is_frozen(model[0])
    assert isinstance(model[0], before["0"][0])
    for mode in (True, False, True):
        model.train(mode)
        assert torch.equal(model(x), expected)
    model[0].training = True  # some do not call train()
    assert torch.equal(model(x), expected)
    assert not model[0].training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert unfreeze(model) == ["0"]
    assert_same_state(model, state)
    assert traces(model) == before
    assert unfreeze(model) == []
    model(x)
    assert model[0].num_batches_tracked == 2


def test_evaluation_mode_of_the_layers_does_not_outlast_train_as_freezing_does():
    model, x = small_model(), torch.randn(5, 4)
    statistics = [model[i].running_mean.clone() for i in (1, 4)]
    for layer in (model[1], model[4]):
        layer.eval()
        layer.requires_grad_(False)
    train(model, x)
    assert not torch.equal(model[1].running_mean, statistics[0])  # what users run into
    model = small_model()
    freeze(model)
    train(model, x)
    assert all(torch.equal(model[i].running_mean, old) for i, old in zip((1, 4), statistics, strict=True))


MODES = st.lists(
    st.sampled_from(["train", "eval", "layer train", "layer eval", "step", "freeze", "sync", "infer"]), max_size=8
)


@given(
    seed=st.integers(0, 100),
    steps=MODES,
    parameters=st.booleans(),
    off=st.sets(st.sampled_from(["1.weight", "4.bias"])),
)
@settings(max_examples=60, deadline=None)
def test_unfreezing_leaves_the_modes_that_were_asked_for_and_no_other_trace(seed, steps, parameters, off):
    model, x = small_model(seed), torch.randn(5, 4)
    for name in off:
        model.get_parameter(name).requires_grad_(False)
    twin = copy.deepcopy(model)  # which is asked for the same
    norms = {name: value for name, value in snapshot(model).items() if name[0] in "14"}
    freeze(model, parameters=parameters)
    for step in steps:
        for one in (model, twin):
            if step == "infer":
                with inference(one):
                    one(x)
            if "train" in step or "eval" in step:
                (one[1] if "layer" in step else one).train("train" in step)
        if step == "step":
            train(model, x)
            twin.train()
        if step == "freeze":
            freeze(model, parameters=parameters)
        if step == "sync":
            unsynchronize(model) if is_synchronized(model[1]) else synchronize(model)
    for name, value in norms.items():
        if parameters or "running" in name or "tracked" in name:
            assert torch.equal(model.state_dict()[name], value)
    assert unfreeze(model) == ["1", "4"]
    unsynchronize(model)
    assert traces(model) == traces(twin)


def test_a_handle_undoes_what_its_call_did_and_nothing_else_also_when_the_body_raises():
    model = small_model()
    before = traces(model)
    freeze(model[1], parameters=False)
    inner = traces(model)
    with pytest.raises(RuntimeError, match="half-way"), freeze(model) as frozen:  # noqa: PT012
        assert frozen.names == ("1", "4")
        assert not model[1].weight.requires_grad
        assert not model[4].weight.requires_grad
        with freeze(model) as nothing:
            assert nothing.names == ()
        assert repr(nothing) == "Freezing(names=())"
        assert is_frozen(model[4])
        raise RuntimeError("half-way")
    assert traces(model) == inner
    assert unfreeze(model) == ["1"]
    assert traces(model) == before
    with freeze(model):
        unfreeze(model)
    assert traces(model) == before


def test_layers_under_several_names_and_with_tied_parameters():
    model, x = Shared(), torch.randn(6, 3)
    model(x)
    before, state = traces(model), snapshot(model)
    with freeze(model) as frozen:
        assert frozen.names == ("norm", "tied")
        train(model, x)
        assert model.norm is model.again
        assert torch.equal(model.norm.running_var, state["norm.running_var"])
        assert torch.equal(model.norm.weight, state["norm.weight"])
    assert traces(model) == before


def test_gradients_pass_through_frozen_layers():
    model, x = small_model().eval(), torch.randn(5, 4)
    model(x).square().sum().backward()
    expected = model[0].weight.grad.clone()
    model.zero_grad()
    freeze(model)
    model.train()(x).square().sum().backward()
    assert torch.equal(model[0].weight.grad, expected)
    assert model[1].weight.grad is None


@pytest.mark.parametrize("change", [freeze, synchronize, lambda model: (freeze(model), synchronize(model))])
def test_copies_are_what_the_model_is(change):
    model, x = small_model(), torch.randn(5, 4)
    model(x)
    change(model.eval())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = [copy.deepcopy(model), copy.copy(model), torch.load(file, weights_only=False)]
    copies += [pickle.loads(pickle.dumps(model, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    for one in copies:
        assert traces(one) == traces(model)
        assert_same_state(one, model.state_dict())
        assert torch.equal(one(x), model(x))
    one = copies[0]
    assert unfreeze(one) == unfreeze(model)
    assert unsynchronize(one) == unsynchronize(model)
    assert type(one[1]) is nn.BatchNorm1d
    assert type(one[4]) is bn.BatchNorm1d


class Reducing(nn.BatchNorm1d):
    def __reduce__(self):
        return Reducing, (self.num_features,), self.__dict__


def test_copies_of_a_layer_that_says_itself_how_it_is_copied():
    model = nn.Sequential(Reducing(3))
    freeze(model)
    assert traces(copy.deepcopy(model)) == traces(model)


def test_the_class_is_named_after_what_it_does_and_the_same_each_time():
    one, two = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    freeze(one), synchronize(one)
    synchronize(two), freeze(two)
    assert type(one) is type(two)
    assert type(one).__name__ == "FrozenSynchronizedBatchNorm2d"
    assert repr(one).startswith("FrozenSynchronizedBatchNorm2d(3, eps=")
    unfreeze(one)
    assert type(one).__name__ == "SynchronizedBatchNorm2d"


def test_compiled_exported_and_symbolically_traced_models_are_frozen_too():
    model, x = small_model()[:4], torch.randn(5, 4)
    compiled = torch.compile(model, backend="eager")
    compiled(x)
    statistics = model[1].running_mean.clone()
    assert freeze(compiled).names == ("1",)
    for run in (
        compiled.train(),
        torch.export.export(model.train(), (x,), strict=False).module(),
        torch.fx.symbolic_trace(model),
    ):
        torch.testing.assert_close(run(x), model(x))
        assert torch.equal(model[1].running_mean, statistics)
    assert run.graph.find_nodes(op="call_module", target="1")  # a layer, not a model to look into
    unfreeze(compiled)
    compiled(x)
    assert not torch.equal(model[1].running_mean, statistics)


def test_layers_without_statistics_are_left_and_named():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False))
    before = traces(model)
    with pytest.warns(UserWarning, match=r"^layer '1': no running statistics, not frozen$"):
        frozen = freeze(model)
    assert frozen.names == ("0",)
    assert traces(model)["1"] == before["1"]
    with pytest.raises(InputError, match=r"^this layer: no running statistics, so the batch's own are used"):
        freeze(model[1])
    buffers_but_batch_statistics = nn.BatchNorm1d(3)
    buffers_but_batch_statistics.track_running_stats = False
    freeze(buffers_but_batch_statistics)
    assert torch.allclose(buffers_but_batch_statistics.train()(x := torch.randn(5, 3)), x, atol=1e-4)


def test_says_what_cannot_be_frozen_and_changes_nothing():
    with pytest.raises(InputError, match=r"^model is a list, expected a torch.nn.Module$"):
        freeze([nn.BatchNorm1d(3)])
    with pytest.raises(InputError, match=r"^model is a list, expected a torch.nn.Module$"):
        unfreeze([nn.BatchNorm1d(3)])
    with pytest.raises(InputError, match=r"^Linear has no batch-norm layer"):
        freeze(nn.Linear(2, 2))
    model = nn.Sequential(nn.BatchNorm1d(4), nn.LazyBatchNorm1d(), nn.LazyBatchNorm1d(affine=False))
    with pytest.raises(InputError, match=r"^layers '1', '2' are not yet initialised: run the model on"):
        freeze(model)
    assert type(model[0]) is nn.BatchNorm1d
    model(torch.randn(3, 4))
    assert freeze(model).names == ("0", "1", "2")


def test_a_class_that_someone_changed_once_more_is_left_to_them():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    freeze(model)
    nn.utils.parametrize.register_parametrization(model[1], "weight", nn.Identity())
    with pytest.raises(InputError, match=r"^layer '1': its class became ParametrizedFrozenBatchNorm1d afterwards"):
        unfreeze(model)
    assert is_frozen(model[0])
    nn.utils.parametrize.remove_parametrizations(model[1], "weight")
    assert unfreeze(model) == ["0", "1"]


def test_parametrized_layers_are_frozen():
    model = nn.Sequential(nn.BatchNorm1d(3))
    nn.utils.parametrize.register_parametrization(model[0], "weight", nn.Identity())
    before = traces(model)
    with freeze(model):
        assert not any(parameter.requires_grad for parameter in model.parameters())
    assert traces(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())
