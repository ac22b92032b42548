"""One look into a network: what it sees, of which modules, and that it leaves no trace."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.dynamics.distribution import N_BINS, distribution, spread


@pytest.fixture(scope="module")
def sample():
    examples = bn.load_dataset("mnist5k").train
    return examples.batch(torch.arange(500))


def network(n_layers, activation, normalization):
    return bn.DenseNetwork(784, (100,) * n_layers, 10, activation=activation, normalization=normalization)


def classes(n):
    return torch.arange(n) % 3


@pytest.mark.parametrize(
    ("n_layers", "activation", "normalization", "low", "high"),
    [
        (10, "sigmoid", "none", 2e-6, 2e-4),  # vanishes
        (10, "sigmoid", "batch", 0.1, 3),
        (30, "relu", "none", 0.2, 10),
        (30, "relu", "batch", 30, 1000),  # Yang et al. 2019, arXiv:1902.08129: batch norm makes gradients explode
        (50, "relu", "none", 0.1, 10),
        (50, "relu", "batch", 1000, 50_000),
    ],
)
def test_gradients_at_the_start_are_the_known_ones(sample, n_layers, activation, normalization, low, high):
    layers = bn.observe_layers(network(n_layers, activation, normalization), *sample)
    assert len(layers) == n_layers + 1
    assert low < layers[0]["gradient_norm"] < high


def test_a_layer_is_described_as_autograd_and_numpy_do(sample):
    model = network(1, "elu", "batch")
    (first, last), (inputs, targets) = bn.observe_layers(model, *sample), sample
    twin = copy.deepcopy(model).train()
    before = twin[0](inputs.flatten(1))
    after = twin[1](before)
    outputs = twin[2](after)
    F.cross_entropy(twin[3](outputs), targets).backward()
    assert (first["name"], first["norm"], first["activation"], first["units"]) == ("0", "1", "ELU", 100)
    assert (last["name"], last["norm"], last["activation"], last["units"]) == ("3", None, None, 10)
    for kind, tensor in {"before": before, "after": after, "outputs": outputs, "gradient": twin[0].weight.grad}.items():
        numbers, found = tensor.detach().numpy(), first[kind]
        counts, edges = np.histogram(numbers, N_BINS)
        assert np.abs(np.cumsum(found["counts"]) - np.cumsum(counts)).max() <= 3  # on an edge, but for rounding
        assert (found["low"], found["high"]) == pytest.approx((edges[0], edges[-1]), rel=1e-5)
        assert (found["mean"], found["sd"]) == pytest.approx((numbers.mean(), numbers.std()), rel=1e-3, abs=1e-5)
        width = float(edges[-1] - edges[0]) / 4000
        assert found["quantiles"] == pytest.approx(list(np.quantile(numbers, (0.05, 0.25, 0.5, 0.75, 0.95))), abs=width)
    assert first["gradient_norm"] == pytest.approx(twin[0].weight.grad.norm().item(), rel=1e-4)
    assert first["weight_norm"] == pytest.approx(model[0].weight.norm().item(), rel=1e-4)
    assert first["sample_mean"] == pytest.approx(spread(before.mean(0)), rel=1e-3, abs=1e-5)
    assert first["sample_var"] == pytest.approx(spread(before.var(0, correction=0)), rel=1e-3)
    assert (first["gamma"], first["beta"]) == ([1.0] * 5, [0.0] * 5)
    assert (first["running_mean"], first["running_var"]) == ([0.0] * 5, [1.0] * 5)
    assert last["after"] is last["outputs"] is last["gamma"] is last["dead"] is first["update_ratio"] is None


@pytest.mark.parametrize(
    ("activation", "flat_from"),
    [(nn.ReLU(), 0), (nn.Tanh(), -2.993), (nn.ELU(), -4.605), (nn.Sigmoid(), -5.987), (nn.LeakyReLU(), -math.inf)],
    ids=lambda value: type(value).__name__,
)
def test_dead_and_saturated_go_by_the_slope(activation, flat_from):
    layer = nn.Linear(1, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0], [0.0]]))
        layer.bias.copy_(torch.tensor([0.0, -9.0]))
    inputs = torch.linspace(-8, 1, 91)[:, None]
    first = bn.observe_layers(nn.Sequential(layer, activation, nn.Linear(2, 3)), inputs, classes(91))[0]
    share = ((inputs < flat_from).float().mean().item() + (flat_from > -9)) / 2
    assert first["activation"] == type(activation).__name__
    assert first["saturated"] == pytest.approx(share, abs=0.01)
    assert first["dead"] == (0.5 if flat_from > -9 else 0)


def test_a_model_is_left_as_it_was(sample):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 20), nn.BatchNorm1d(20), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(20, 10)
    )
    model[2].eval()  # someone's choice, in a model that is in training mode
    model[1].weight.grad = torch.ones_like(model[1].weight)
    calls = []
    model[1].register_forward_hook(lambda *args: calls.append(args))
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    hooks = [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in model.modules()]
    random = torch.get_rng_state()
    grads, (inputs, targets) = [p.grad for p in model.parameters()], sample
    kept = inputs.clone()
    found = bn.observe_layers(model, inputs, targets)
    again = bn.observe_layers(model, inputs, targets)
    assert found == again  # nothing is dropped
    assert found[0]["after"] is not None
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    assert [m.training for m in model.modules()] == modes
    assert [list(m._forward_hooks) + list(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert [p.grad for p in model.parameters()] == grads
    assert (model[1].weight.grad == 1).all()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(inputs, kept)


class Swish(nn.Module):
    def forward(self, x):
        return x * x.sigmoid()


class Centred(nn.Module):  # no activation
    def forward(self, x):
        return x - x.mean(1, keepdim=True)


class Convolutional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.head, self.unused = nn.Linear(4, 3), nn.Linear(4, 4)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = F.relu(self.again(self.relu(self.again(x))))
        return self.head(x.mean((2, 3)))


def test_any_model_is_looked_into():
    model = Convolutional()
    model.conv.weight.requires_grad_(False)
    found = bn.observe_layers(model, torch.randn(6, 1, 8, 8), classes(6))
    assert [(one["name"], one["norm"], one["activation"], one["units"]) for one in found] == [
        ("conv", "norm", "ReLU", 4), ("again", None, "ReLU", 4), ("head", None, None, 3)
    ]  # fmt: skip
    assert found.unreached == ("unused",)
    assert found[0]["gradient_norm"] is None  # frozen
    assert found[1]["gradient_norm"] > 0
    assert sum(found[0]["before"]["counts"]) == 6 * 4 * 6 * 6
    assert found[0]["after"]["low"] < 0 == found[0]["outputs"]["low"]  # though ReLU works in place


@pytest.mark.parametrize(("module", "name"), [(Swish(), "Swish"), (Centred(), None), (nn.Softmax(1), None)])
def test_activations_of_others_are_told_by_what_they_do(module, name):
    first = bn.observe_layers(nn.Sequential(nn.Linear(4, 8), module, nn.Linear(8, 3)), torch.randn(9, 4), classes(9))[0]
    assert first["activation"] == name
    assert (first["saturated"] is None) == (name is None)


@pytest.mark.parametrize(
    ("targets", "loss"),
    [
        (torch.rand(9, 2) > 0.5, lambda o, t: F.binary_cross_entropy_with_logits(o, t.float(), reduction="sum") / 9),
        (torch.rand(9, 2), lambda o, t: F.mse_loss(o, t) / 2),
        (torch.arange(9) % 2, F.cross_entropy),
    ],
    ids=("labels", "values", "classes"),
)
def test_the_loss_is_that_of_the_targets(targets, loss):
    model, inputs = nn.Linear(4, 2), torch.randn(9, 4)
    (found,) = bn.observe_layers(model, inputs, targets)
    (asked,) = bn.observe_layers(model, inputs, targets, loss=loss)
    assert found["gradient_norm"] == pytest.approx(asked["gradient_norm"], rel=1e-4)
    assert found["gradient_norm"] > 0


def test_a_column_of_values_may_come_flat():
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))  # (batch,)
    found = bn.observe_layers(model, torch.randn(9, 4), torch.randn(9))
    assert found[0]["gradient_norm"] > 0


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.first, self.last = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), nn.Linear(8, 3)
        self.use_reentrant = use_reentrant

    def forward(self, x):
        return self.last(checkpoint(self.first, x.requires_grad_(), use_reentrant=self.use_reentrant))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_what_is_computed_again_in_the_backward_pass_is_seen_once(use_reentrant):
    model, inputs = Checkpointed(use_reentrant), torch.randn(9, 4)
    expected = bn.observe_layers(nn.Sequential(model.first, model.last), inputs, classes(9))
    first, last = bn.observe_layers(model, inputs, classes(9))
    assert first["saturated"] == expected[0]["saturated"] > 0
    assert last == expected[1] | {"name": "last"}
    if not use_reentrant:
        assert first["gradient"] == expected[0]["gradient"]


def test_it_may_be_called_in_inference_mode():
    model, inputs = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(9, 4)
    with torch.inference_mode():
        found = bn.observe_layers(model, inputs.clone(), classes(9))
    assert found == bn.observe_layers(model, inputs, classes(9))


def test_computed_weights_are_followed():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 3))
    assert bn.observe_layers(model, torch.randn(9, 4), classes(9))[0]["gradient_norm"] > 0


@pytest.mark.parametrize(
    ("model", "inputs", "said"),
    [
        (nn.Sequential(nn.ReLU()), torch.randn(2, 4), "no linear or convolution layer"),
        (nn.LazyLinear(3), torch.randn(2, 4), "not yet initialised"),
        (nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(1, 4), "more than 1 value per channel"),
        (nn.Linear(4, 3), torch.randn(2, 5), "cannot be looked into"),
        (nn.LSTM(4, 3, proj_size=2), torch.randn(2, 4), "no linear or convolution layer"),
        (nn.Linear(4, 3, device="meta"), torch.randn(2, 4), "^weight, bias: on the meta device, which holds no values"),
        (nn.Linear(4, 3, dtype=torch.cfloat), torch.randn(2, 4, dtype=torch.cfloat), "and gives real numbers"),
        (nn.Linear(4, 3), torch.randn(0, 4), "no targets"),
        (nn.Bilinear(4, 4, 3), torch.randn(2, 4), "no linear or convolution layer"),
    ],
)
def test_what_cannot_be_looked_into_says_so(model, inputs, said):
    with pytest.raises(bn.InputError, match=said):
        bn.observe_layers(model, inputs, classes(len(inputs)))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_cannot_be_looked_into():
    with pytest.raises(bn.InputError, match="TorchScript"):
        bn.observe_layers(torch.jit.script(nn.Sequential(nn.Linear(4, 3))), torch.randn(2, 4), classes(2))


def test_a_model_that_uses_weights_without_calling_the_layer_says_so():
    class Borrowing(nn.Linear):
        def __call__(self, x):
            return F.linear(x, self.weight)

    with pytest.raises(bn.InputError, match="is called as a module"):
        bn.observe_layers(Borrowing(4, 3), torch.randn(2, 4), classes(2))


def test_a_loss_of_ones_own_takes_what_it_takes():
    """Maps of classes, several inputs, a dict for targets: whatever the loss and the function that runs it take."""
    model, inputs = (
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1)),
        torch.ones(2, 5),
    )
    asked = {"map": torch.zeros(2, 2, 5, dtype=torch.long)}
    found = bn.observe_layers(
        model,
        (inputs, -inputs),
        asked,
        loss=lambda outputs, targets: F.cross_entropy(outputs, targets["map"]),
        forward=lambda model, batch: model(torch.stack(batch, 1)[:, None]),
    )
    assert [layer["norm"] for layer in found] == ["1", None]
    assert all(layer["gradient_norm"] > 0 for layer in found)


@pytest.mark.parametrize(
    ("targets", "loss", "said"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.long), None, "or say what the loss is of other ones, by loss="),
        (classes(2), lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"), r"returned \(2,\)"),
        (classes(2), lambda outputs, targets: 1.0, "loss returned float, expected a tensor of one number"),
        (classes(2), "mse", "loss is 'mse', expected a function"),
    ],
)
def test_what_has_no_loss_says_so(targets, loss, said):
    with pytest.raises(bn.InputError, match=said):
        bn.observe_layers(nn.Linear(4, 3), torch.randn(2, 4), targets, loss=loss)


@pytest.mark.parametrize(
    "between", [nn.GroupNorm(2, 8), nn.LayerNorm(8), nn.RMSNorm(8), nn.Dropout(0.5), nn.Sequential(nn.AlphaDropout())]
)
def test_another_normalisation_and_dropout_may_stand_before_the_activation(between):
    model = nn.Sequential(nn.Linear(4, 8), between, nn.ReLU(), nn.Linear(8, 3))
    first = bn.observe_layers(model, torch.randn(20, 4), classes(20))[0]
    assert (first["norm"], first["activation"]) == (None, "ReLU")
    assert 0.2 < first["saturated"] < 0.8


def test_it_prints_and_is_shown_escaped():
    model = nn.Sequential()
    model.add_module("<b>\x1b[31m", nn.Linear(4, 3))
    found = bn.observe_layers(model, torch.randn(5, 4), classes(5))
    assert "\x1b" not in str(found)
    assert ">&lt;b&gt;\\x1b" in found._repr_html_()
    assert json.loads(found.to_json())["layers"][0]["units"] == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("values", [[3.0, 3.0], [0.0], [1.0, math.nan, -1.0, math.inf], [math.nan], [6e4, -6e4, 0.0]])
def test_any_numbers_have_a_distribution(values, dtype):
    found = distribution(torch.tensor(values, dtype=dtype))
    finite = [value for value in values if math.isfinite(value)]
    assert sum(found["counts"]) == len(finite)
    assert (found["mean"] is None) == (len(finite) < len(values))
    if finite:
        assert found["low"] <= min(finite) <= max(finite) <= found["high"]
        assert found["low"] < found["high"]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("scale", [3e38, 1e-44])
def test_the_ends_of_a_type_have_a_distribution(scale):
    found = distribution(torch.linspace(-1, 1, 400) * scale)
    assert found["counts"] == pytest.approx([10] * N_BINS, abs=4 if scale > 1 else 60)
    assert found["high"] == pytest.approx(scale, rel=0.1)


def test_nan_in_a_network_is_nothing_that_fails():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3))
    model[0].weight.data.fill_(math.nan)
    (first, _) = bn.observe_layers(model, torch.randn(5, 4), classes(5))
    assert (first["before"]["mean"], first["gradient_norm"], first["sample_mean"]) == (None, None, [None] * 5)
    json.dumps(first, allow_nan=False)
