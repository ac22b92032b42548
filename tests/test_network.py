"""The layer and the network: ordinary torch, initialised as the tutorial's, in inference mode by default."""

import copy
import math
from typing import get_args

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm import functional
from batchnorm.config import Activation
from batchnorm.network import glorot_uniform_, he_truncated_normal_


def handwritten():
    return nn.Sequential(
        nn.Linear(784, 300, bias=False), nn.BatchNorm1d(300, eps=1e-3), nn.ELU(),
        nn.Linear(300, 100, bias=False), nn.BatchNorm1d(100, eps=1e-3), nn.ELU(),
        nn.Linear(100, 10, bias=False), nn.BatchNorm1d(10, eps=1e-3),
    )  # fmt: skip


def test_is_the_tutorials_network_in_torchs_own_layers():
    network = bn.DenseNetwork(784, (300, 100), 10, activation="elu", normalize_logits=True)
    twin = handwritten()
    twin.load_state_dict(network.state_dict())
    assert all(isinstance(ours, type(theirs)) for ours, theirs in zip(network, twin, strict=True))
    x = torch.rand(32, 28, 28)
    for mode in (True, False):  # training first: it moves the running averages that inference then uses
        network.train(mode)
        twin.train(mode)
        assert torch.equal(network(x), twin(x.flatten(1)))


def test_every_stored_variance_is_the_formulas():
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1
    for convention in ("biased", "unbiased"):
        layer = bn.BatchNorm1d(4, momentum=0.1, stored_variance=convention).train()
        mean, var = torch.zeros(4), torch.ones(4)
        for step in range(3):
            y = layer(x * (step + 1))
            expected, moments = functional.batch_norm(x * (step + 1), layer.weight, layer.bias, layer.eps)
            functional.update_running(mean, var, moments, 0.1, convention)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_mean, mean)
        torch.testing.assert_close(layer.running_var, var)
        assert layer.num_batches_tracked == 3


def test_biased_storage_changes_nothing_but_the_stored_variance():
    torch.manual_seed(0)
    ours, torchs = bn.BatchNorm1d(3, stored_variance="biased").train(), nn.BatchNorm1d(3, eps=1e-3)
    x = torch.randn(10, 3)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (ours(a) ** 3).sum().backward()
    (torchs(b) ** 3).sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert torch.equal(ours.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(ours.running_var - 0.9, (torchs.running_var - 0.9) * 9 / 10)


@pytest.mark.parametrize("options", [{"momentum": None}, {}])
@pytest.mark.parametrize("shape", [(5, 3), (4, 3, 5)])
def test_biased_storage_in_every_shape_and_mode_of_torchs_layer(options, shape):
    generator = torch.Generator().manual_seed(0)
    ours = bn.BatchNorm1d(3, stored_variance="biased", **options).train()
    torchs = nn.BatchNorm1d(3, eps=1e-3, **options)
    mean, var, n = torch.zeros(3), torch.ones(3), 15 // 3 if len(shape) == 2 else 20
    for step in range(1, 4):
        x = torch.randn(shape, generator=generator)
        assert torch.equal(ours(x), torchs(x))
        weight = 1 / step if "momentum" in options else 0.1
        moments = functional.batch_moments(x)
        assert moments.n == n
        mean, var = mean + weight * (moments.mean - mean), var + weight * (moments.var - var)
    torch.testing.assert_close(ours.running_mean, mean)
    torch.testing.assert_close(ours.running_var, var)
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        ours(torch.zeros(2, 3, 4, 5))
    ours.track_running_stats = False
    ours(torch.randn(shape) + 100)
    torch.testing.assert_close(ours.running_mean, mean)
    with pytest.raises(bn.InputError, match="stored_variance is 'bias', expected 'unbiased' or 'biased'"):
        bn.BatchNorm1d(3, stored_variance="bias")


def test_its_layers_take_its_options():
    network = bn.DenseNetwork(
        6, (5,), 3, normalize_logits=True, bn_eps=0.01, bn_momentum=0.3, bn_variance="biased", dropout=0.25
    )
    for layer in network:
        if isinstance(layer, nn.BatchNorm1d):
            assert (layer.eps, layer.momentum, layer.stored_variance) == (0.01, 0.3, "biased")
    assert [layer.p for layer in network if isinstance(layer, nn.Dropout)] == [0.25]


def test_inference_is_the_default_and_leaves_the_statistics_alone():
    network = bn.DenseNetwork(6, (4,), 3, normalize_logits=True, bn_variance="biased")
    assert not any(module.training for module in network.modules())
    before = copy.deepcopy(network.state_dict())
    network(torch.randn(8, 6))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("activation", get_args(Activation))
def test_every_activation_is_torchs(activation):
    network = bn.DenseNetwork(5, (4,), 3, activation=activation)
    linear, norm, _, output = network
    x = torch.randn(6, 5)
    function = {"identity": lambda z: z, "tanh": torch.tanh, "sigmoid": torch.sigmoid}.get(
        activation, getattr(nn.functional, activation, None)
    )
    assert torch.equal(network(x), output(function(norm(linear(x)))))


def test_a_linear_layer_has_a_bias_only_where_no_batch_norm_follows():
    def biases(**options):
        network = bn.DenseNetwork(6, (5, 4), 3, **options)
        return [layer.bias is not None for layer in network if isinstance(layer, nn.Linear)]

    assert biases(normalize_logits=True) == [False, False, False]
    assert biases() == [False, False, True]
    assert biases(normalization="none", normalize_logits=True) == [True, True, True]
    none = bn.DenseNetwork(6, (5, 4), 3, normalization="none")
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in none)
    assert all((layer.bias == 0).all() for layer in none if isinstance(layer, nn.Linear))


def test_dropout_follows_each_hidden_activation_and_rests_in_inference():
    network = bn.DenseNetwork(6, (5, 4), 3, dropout=0.5)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Dropout"] * 2 + ["Linear"]
    x = torch.randn(4, 6)
    assert torch.equal(network(x), network(x))


def test_he_initialisation_is_a_truncated_normal_with_variance_2_over_fan_in():
    weight = torch.empty(2000, 500)
    he_truncated_normal_(weight, torch.Generator().manual_seed(0))
    # TensorFlow's rounded correction of the cut makes it 0.6 % more; a million draws leave 0.1 % of doubt.
    assert weight.var().item() == pytest.approx(2 / 500, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=4 * math.sqrt(2 / 500 / weight.numel()))
    bound = 2 * math.sqrt(1.3 * 2 / 500)
    assert weight.abs().max() <= bound  # cut at two standard deviations of the normal that is drawn from
    assert weight.abs().max() > 0.99 * bound


def test_glorot_initialisation_is_uniform():
    weight = torch.empty(400, 600)
    glorot_uniform_(weight, torch.Generator().manual_seed(0))
    bound = math.sqrt(6 / 1000)
    assert weight.abs().max() <= bound
    assert weight.var().item() == pytest.approx(bound**2 / 3, rel=0.01)


def test_hidden_layers_begin_with_he_and_the_output_layer_with_glorot():
    network = bn.DenseNetwork(1000, (500,), 200, generator=torch.Generator().manual_seed(0))
    hidden, output = network[0].weight, network[-1].weight
    assert hidden.var().item() == pytest.approx(2 / 1000, rel=0.02)
    assert output.var().item() == pytest.approx(2 / 700, rel=0.03)


def test_the_seed_draws_the_weights():
    config = bn.TrainingConfig(seed=3)
    a, b = (bn.DenseNetwork.from_config(config, 8, 2) for _ in range(2))
    c = bn.DenseNetwork.from_config(bn.TrainingConfig(seed=4), 8, 2)
    assert torch.equal(a[0].weight, b[0].weight)
    assert not torch.equal(a[0].weight, c[0].weight)


def test_a_slice_is_a_plain_sequential():
    network = bn.DenseNetwork(6, (5,), 3)
    x = torch.randn(2, 6)
    assert type(network[:3]) is nn.Sequential
    assert torch.equal(network[3:](network[:3](x)), network(x))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0, (5,), 3), {}, "in_features is 0, expected at least 1"),
        ((6, (5,), -1), {}, "n_classes is -1, expected at least 1"),
        ((6, (5, 0), 3), {}, r"hidden_layer_sizes is \(5, 0\), expected positive whole numbers"),
        ((6, (5,), 3), {"activation": "swish"}, "activation is 'swish', expected one of relu, elu"),
        ((6, (5,), 3), {"normalization": "layer"}, "normalization is 'layer', expected one of batch, none"),
        ((6, (5,), 3), {"dropout": 1.0}, "dropout is 1.0, expected a number from 0 below 1"),
        ((6, (5,), 3), {"bn_momentum": 0}, "bn_momentum is 0, expected a number above 0 to 1"),
        ((6, (5,), 3), {"bn_eps": -1.0}, "bn_eps is -1.0, expected a number above 0"),
    ],
)
def test_says_what_is_wrong_with_an_option(arguments, options, message):
    with pytest.raises(bn.InputError, match=message):
        bn.DenseNetwork(*arguments, **options)


def test_a_network_without_memory_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.device("meta"):
        bn.DenseNetwork(3, (4,), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_shared_and_hidden_buffers_are_alterations():
    shared, hidden = bn.DenseNetwork(4, (3, 3), 2), bn.DenseNetwork(4, (3, 3), 2)
    shared[4].running_mean = shared[1].running_mean
    assert shared.alteration() == "layers share a tensor"
    hidden[1].register_buffer("running_mean", torch.zeros(3), persistent=False)
    assert hidden.alteration() == "its tensors are not those that it was built with"
