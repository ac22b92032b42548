"""Parameters from Keras, TensorFlow and Flax: what these libraries computed with them, torch's layers compute too."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import batchnorm as bn
from batchnorm.functional import Moments, update_running
from batchnorm.toolkit.conventions import convert_kernel, convert_momentum, convert_variance
from batchnorm.toolkit.loading import load_flax, load_keras
from conftest import SAMPLES
from helpers import norm_without_bias

RECORDED = json.loads((SAMPLES / "conventions.json").read_text())
PER_RANK = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
close = torch.testing.assert_close


def channels_first(array):
    return torch.tensor(array).movedim(-1, 1)


def load(library, layer, record):
    """Load weights as the libraries give them: read-only arrays of numpy."""
    arrays = copy.deepcopy(record)
    if library == "flax":
        load_flax(layer, read_only(arrays["params"]), read_only(arrays["batch_stats"]), **record["options"])
    else:
        load_keras(layer, [read_only(array) for array in arrays["weights"]], **record["options"])


def read_only(arrays):
    if isinstance(arrays, dict):
        return {key: read_only(array) for key, array in arrays.items()}
    array = np.asarray(arrays, np.float32)
    array.flags.writeable = False
    return array


def norms(*libraries):
    records = [(library, name, RECORDED[f"{library} norms"][name]) for library in libraries
               for name in RECORDED[f"{library} norms"]]  # fmt: skip
    return pytest.mark.parametrize(
        ("library", "record"),
        [pytest.param(library, record, id=f"{library}, {name}") for library, name, record in records],
    )


@norms("keras", "tf_keras", "flax")
def test_inference_is_the_recorded_one(library, record):
    x = channels_first(record["x"])
    layer = PER_RANK[x.dim()](3).eval()
    nn.init.normal_(layer.weight)  # what the library does without must not keep what was here
    nn.init.normal_(layer.bias)
    load(library, layer, record)
    close(layer(x).movedim(1, -1), torch.tensor(record["y"]), rtol=1e-5, atol=1e-5)


@norms("keras", "flax")
def test_a_training_step_is_the_recorded_one_where_the_biased_variance_is_stored(library, record):
    x = torch.tensor(record["x"]).reshape(-1, 3)  # a position of an image counts as an example
    layer = bn.BatchNorm1d(3, stored_variance="biased")
    load(library, layer, record)
    layer(x)
    close(layer.running_mean, torch.tensor(record["after"]["mean"]), rtol=1e-5, atol=1e-6)
    close(layer.running_var, torch.tensor(record["after"]["var"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "convention"), [("dense", "biased"), ("images", "unbiased")])
def test_keras_2_stores_the_unbiased_variance_of_images_alone(name, convention):
    record = RECORDED["tf_keras norms"][name]
    x = torch.tensor(record["x"]).reshape(-1, 3)
    layer = bn.BatchNorm1d(3, stored_variance=convention)
    load("tf_keras", layer, record)
    layer(x)
    close(layer.running_mean, torch.tensor(record["after"]["mean"]), rtol=1e-5, atol=1e-6)
    close(layer.running_var, torch.tensor(record["after"]["var"]), rtol=1e-5, atol=1e-6)


def test_a_training_step_of_equinox():
    record = RECORDED["equinox norms"]["dense"]
    layer = bn.BatchNorm1d(
        3, momentum=convert_momentum(record["options"]["momentum"], "equinox"), stored_variance="biased"
    )
    layer.running_mean.copy_(torch.tensor(record["batch_stats"]["mean"]))
    layer.running_var.copy_(torch.tensor(record["batch_stats"]["var"]))
    layer(torch.tensor(record["x"]))
    close(layer.running_mean, torch.tensor(record["after"]["mean"]), rtol=1e-5, atol=1e-6)
    close(layer.running_var, torch.tensor(record["after"]["var"]), rtol=1e-5, atol=1e-6)


KERNELS = {f"{library} {name}": record for library in ("keras", "flax")
           for name, record in RECORDED[f"{library} kernels"].items()}  # fmt: skip


@pytest.mark.parametrize("record", KERNELS.values(), ids=KERNELS)
def test_kernels_give_the_recorded_outputs_exactly(record):
    x, kind = channels_first(record["x"]), record["kind"]
    weight = convert_kernel(np.asarray(record["kernel"], np.float32), kind)
    assert weight.is_contiguous()
    name = "linear" if kind == "dense" else f"conv{'_transpose' if 'transposed' in kind else ''}{x.dim() - 2}d"
    y = getattr(F, name)(x, weight, **record["options"])
    assert torch.equal(y.movedim(1, -1), torch.tensor(record["y"]))  # eighths: nothing is rounded


def test_a_dense_kernel_behind_a_flattening_gives_the_recorded_outputs():
    record = RECORDED["flattened"]
    x = channels_first(record["x"])  # (batch, channels, height, width)
    weight = convert_kernel(record["kernel"], "dense", flattened=(2, 3, 2))
    assert torch.equal(x.flatten(1) @ weight.T, torch.tensor(record["y"]))


def test_a_kernel_is_a_copy_in_its_own_dtype():
    kernel = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    weight = convert_kernel(kernel, "dense")
    assert weight.dtype == torch.float64
    assert not weight.requires_grad
    weight.zero_()
    assert kernel.all()
    symmetric = torch.ones(1, 1)
    convert_kernel(symmetric, "dense").zero_()
    assert symmetric.item() == 1


@pytest.mark.parametrize(
    ("shape", "kind", "options", "message"),
    [
        ((2, 3), "linear", {}, "kind is 'linear', expected 'dense', 'conv', 'keras depthwise conv', 'keras transposed "
         "conv' or 'flax transposed conv'"),
        ((2, 3, 4), "dense", {}, "the kernel has shape (2, 3, 4), expected (in, out) for 'dense'"),
        ((2, 3), "conv", {}, "the kernel has shape (2, 3), expected (*positions, in, out) for 'conv'"),
        ((2, 3), "keras depthwise conv", {}, "the kernel has shape (2, 3), expected (*positions, in, multiplier) for "
         "'keras depthwise conv'"),
        ((1,) * 6, "keras transposed conv", {}, "the kernel has shape (1, 1, 1, 1, 1, 1), expected (*positions, out, "
         "in) for 'keras transposed conv'"),
        ((4, 1), "dense", {"flattened": (2, 3)}, "flattened is (2, 3), expected (*positions, channels) with a product "
         "of 4, the kernel's inputs"),
        ((1, 1), "dense", {"flattened": ()}, "flattened is (), expected (*positions, channels) with a product of 1, "
         "the kernel's inputs"),
        ((2, 3, 4), "conv", {"flattened": (2, 3)}, "flattened is (2, 3) for 'conv': only a 'dense' kernel comes behind "
         "a flattening"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_a_kernel(shape, kind, options, message):
    with pytest.raises(bn.InputError, match=f"^{re.escape(message)}$"):
        convert_kernel(torch.zeros(shape), kind, **options)


@pytest.mark.parametrize("source", ["keras", "tensorflow", "flax", "equinox"])
def test_a_momentum_is_converted_without_the_noise_of_floats(source):
    assert convert_momentum(0.99, source) == 0.01 != 1 - 0.99
    assert convert_momentum(np.float32(0.9), source) == 0.1
    assert convert_momentum(0.9997, source) == 0.0003
    assert (convert_momentum(0, source), convert_momentum(1, source)) == (1.0, 0.0)
    assert convert_momentum(1e-3, "torch") == 1e-3


@given(digits=st.integers(0, 10**6))
def test_converting_a_momentum_twice_gives_it_back(digits):
    momentum = digits / 10**6
    assert convert_momentum(convert_momentum(momentum, "keras"), "keras") == momentum


@pytest.mark.parametrize("momentum", [1.5, -0.1, float("nan"), float("inf"), None, True])
def test_says_what_is_wrong_with_a_momentum(momentum):
    message = f"momentum is {momentum!r}, expected a number from 0 to 1: for flax, the weight of the old running value"
    with pytest.raises(bn.InputError, match=f"^{re.escape(message)}$"):
        convert_momentum(momentum, "flax")


def test_names_the_sources_and_what_torch_means():
    with pytest.raises(bn.InputError, match=r"^momentum is 2, .*: for torch, the weight of the newest batch$"):
        convert_momentum(2, "torch")
    expected = "^source is 'Keras', expected 'keras', 'tensorflow', 'flax', 'equinox' or 'torch'$"
    with pytest.raises(bn.InputError, match=expected):
        convert_momentum(0.9, "Keras")


variances = st.lists(st.floats(0, 1e6), min_size=1, max_size=5)


@given(values=variances, n=st.integers(2, 10**6))
def test_converting_a_variance_twice_gives_it_back(values, n):
    var = torch.tensor(values, dtype=torch.float64)
    for source, target in (("biased", "unbiased"), ("unbiased", "biased")):
        close(convert_variance(convert_variance(var, n, source, target), n, target, source), var)
        assert torch.equal(convert_variance(var, n, source, source), var)


@given(batches=st.lists(st.floats(0, 1e6), min_size=1, max_size=5), n=st.integers(2, 1000))
def test_a_converted_running_variance_is_what_the_other_rule_would_have_stored(batches, n):
    stored = {convention: torch.zeros(1, dtype=torch.float64) for convention in ("biased", "unbiased")}
    for var in batches:
        moments = Moments(n, torch.zeros(1), torch.tensor([var], dtype=torch.float64))
        for convention, running in stored.items():
            update_running(torch.zeros(1), running, moments, 0.3, convention)
    close(convert_variance(stored["biased"], n, "biased", "unbiased"), stored["unbiased"])
    close(convert_variance(stored["unbiased"], n, "unbiased", "biased"), stored["biased"])


def test_a_converted_variance_is_a_copy():
    var = torch.ones(2)
    convert_variance(var, 2, "biased", "biased").zero_()
    assert var.all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], 1, "biased", "unbiased"), "n is 1, expected at least 2: the elements per channel in each batch of the "
         "training"),
        (([1.0], float("nan"), "biased", "biased"), "n is nan, expected at least 2: the elements per channel in each "
         "batch of the training"),
        (([1.0], 5, "keras", "biased"), "source is 'keras', expected 'biased' or 'unbiased'"),
        (([1.0], 5, "biased", "torch"), "target is 'torch', expected 'biased' or 'unbiased'"),
        (([-1.0], 5, "biased", "unbiased"), "var holds negative, NaN or infinite values, which no variance is: look at "
         "their order"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_a_variance(arguments, message):
    with pytest.raises(bn.InputError, match=f"^{re.escape(message)}$"):
        convert_variance(*arguments)


KERAS = [[2.0, 3.0], [0.5, 0.0], [1.0, -1.0], [4.0, 0.25]]
NAN = float("nan")


def load_all(layer):
    load_keras(layer, KERAS, momentum=0.75, epsilon=0.5)


@pytest.mark.parametrize("load", [load_all, lambda layer: load_flax(
    layer, {"bias": KERAS[1], "scale": KERAS[0]}, {"var": KERAS[3], "mean": KERAS[2]}, momentum=0.75, epsilon=0.5
)], ids=["keras", "flax"])  # fmt: skip
def test_everything_is_loaded_in_place_and_nothing_else_changes(load):
    layer = nn.BatchNorm2d(2, dtype=torch.float64).train()
    layer.num_batches_tracked.fill_(7)
    slots = {name: tensor.data_ptr() for name, tensor in layer.state_dict().items()}
    load(layer)
    assert {name: tensor.tolist() for name, tensor in layer.state_dict().items()} == {
        "weight": [2.0, 3.0], "bias": [0.5, 0.0], "running_mean": [1.0, -1.0], "running_var": [4.0, 0.25],
        "num_batches_tracked": 7,
    }  # fmt: skip
    assert (layer.momentum, layer.eps, layer.training) == (0.25, 0.5, True)
    assert {name: tensor.data_ptr() for name, tensor in layer.state_dict().items()} == slots
    assert layer.weight.dtype == torch.float64
    assert layer.weight.requires_grad


def test_the_defaults_are_the_libraries_own():
    layer = nn.BatchNorm1d(2)
    load_keras(layer, KERAS)
    assert (layer.momentum, layer.eps) == (0.01, 1e-3)
    load_flax(layer, {}, {"mean": [0.0, 0.0], "var": [1.0, 1.0]})
    assert (layer.momentum, layer.eps) == (0.01, 1e-5)


def test_the_variance_is_loaded_as_it_is_whatever_the_layer_stores():
    for convention in ("biased", "unbiased"):
        layer = bn.BatchNorm1d(2, stored_variance=convention)
        load_all(layer)
        assert layer.running_var.tolist() == KERAS[3]


def test_layers_without_weight_or_bias_take_what_needs_none():
    plain, unbiased = nn.BatchNorm1d(2, affine=False), norm_without_bias(nn.BatchNorm1d, 2)
    load_keras(plain, [[1.0, 1.0], [0.0, 0.0], *KERAS[2:]])
    load_keras(plain, KERAS[2:], scale=False, center=False)
    load_keras(unbiased, [KERAS[0], *KERAS[2:]], center=False)
    assert plain.running_mean.tolist() == unbiased.running_mean.tolist() == KERAS[2]
    assert unbiased.weight.tolist() == KERAS[0]
    assert plain.weight is plain.bias is unbiased.bias is None


@pytest.mark.parametrize(
    ("layer", "weights", "options", "message"),
    [
        (nn.Linear(2, 2), KERAS, {}, "layer is a Linear, expected a batch-norm layer, such as torch.nn.BatchNorm2d"),
        (nn.BatchNorm1d(2, track_running_stats=False), KERAS, {}, "the layer has no running statistics: build it with "
         "track_running_stats=True, or give it some by track_statistics"),
        (nn.BatchNorm1d(2), KERAS[:3], {}, "weights are 3 arrays, expected 4 with scale=True and center=True: gamma, "
         "beta, moving_mean, moving_variance; give scale and center as the Keras layer has them"),
        (nn.BatchNorm1d(2), KERAS, {"scale": False}, "weights are 4 arrays, expected 3 with scale=False and "
         "center=True: beta, moving_mean, moving_variance; give scale and center as the Keras layer has them"),
        (nn.BatchNorm1d(3), KERAS, {}, "gamma has shape (2,), expected (3,) as the layer has"),
        (nn.BatchNorm1d(2), [*KERAS[:3], [1.0]], {}, "moving_variance has shape (1,), expected (2,) as the layer has"),
        (nn.BatchNorm1d(2), [*KERAS[:3], [1.0, -1.0]], {}, "moving_variance holds negative, NaN or infinite values, "
         "which no variance is: look at their order"),
        (nn.BatchNorm1d(2), [*KERAS[:3], [1.0, NAN]], {}, "moving_variance holds negative, NaN or infinite values, "
         "which no variance is: look at their order"),
        (nn.BatchNorm1d(2), [*KERAS[:3], [1.0, float("inf")]], {}, "moving_variance holds negative, NaN or infinite "
         "values, which no variance is: look at their order"),
        (nn.BatchNorm1d(2), [*KERAS[:2], [NAN, 1.0], KERAS[3]], {}, "moving_mean holds NaN or infinite values"),
        (nn.BatchNorm1d(2).half(), [*KERAS[:3], [1e6, 1.0]], {}, "moving_variance exceeds the layer's torch.float16: "
         "make it float32 first, by layer.float()"),
        (nn.BatchNorm1d(2, affine=False), KERAS, {}, "gamma is not all 1, but the layer has no weight: build it with "
         "one"),
        (norm_without_bias(nn.BatchNorm1d, 2), KERAS, {}, "beta is not all 0, but the layer has no bias: build it "
         "with one"),
        (nn.BatchNorm1d(2), KERAS, {"epsilon": -1.0}, "epsilon is -1.0, expected a number of at least 0"),
        (nn.BatchNorm1d(2), KERAS, {"epsilon": NAN}, "epsilon is nan, expected a number of at least 0"),
        (nn.BatchNorm1d(2), KERAS, {"momentum": 99}, "momentum is 99, expected a number from 0 to 1: for keras, the "
         "weight of the old running value"),
        (nn.BatchNorm1d(2), [None, *KERAS[1:]], {}, "gamma is a NoneType that torch cannot read (Could not infer dtype "
         "of NoneType): give numpy.asarray of it"),
    ],
)  # fmt: skip
def test_what_cannot_be_loaded_is_refused_before_anything_changes(layer, weights, options, message):
    before = copy.deepcopy(layer)
    with pytest.raises(bn.InputError, match=f"^{re.escape(message)}$"):
        load_keras(layer, weights, **options)
    assert repr(layer) == repr(before)  # momentum, eps
    assert all(torch.equal(old, layer.state_dict()[name]) for name, old in before.state_dict().items())


def test_a_lazy_layer_must_know_its_channels_first():
    layer = nn.LazyBatchNorm1d()
    with pytest.raises(bn.InputError, match=r"^this layer is not yet initialised: run the model on one batch first$"):
        load_all(layer)
    layer(torch.zeros(2, 2))
    load_all(layer)
    assert layer.running_var.tolist() == KERAS[3]


@pytest.mark.parametrize(
    ("params", "batch_stats", "message"),
    [
        ({"BatchNorm_0": {}}, {}, "params has 'BatchNorm_0', expected 'scale' and 'bias' alone: give the part of this "
         "one layer"),
        ({}, {"a": 0, "b": 0, "c": 0}, "batch_stats has 'a', 'b' and 'c', expected 'mean' and 'var' alone: give the "
         "part of this one layer"),
        ({}, {}, "batch_stats lacks 'mean' and 'var', expected 'mean' and 'var'"),
        ({}, {"mean": [0.0]}, "batch_stats lacks 'var', expected 'mean' and 'var'"),
        ({"scale": [-1.0, 2.0]}, {"mean": [0.0], "var": [1.0]}, "scale has shape (2,), expected (1,) as the layer has"),
    ],
)  # fmt: skip
def test_says_what_is_wrong_with_what_flax_gave(params, batch_stats, message):
    with pytest.raises(bn.InputError, match=f"^{re.escape(message)}$"):
        load_flax(nn.BatchNorm1d(1), params, batch_stats)
