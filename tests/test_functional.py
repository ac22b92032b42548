"""The formula against a naive float64 reference, finite differences, torch's layers, and by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from batchnorm.functional import (
    Moments,
    batch_moments,
    batch_norm,
    batch_norm_backward,
    fold_into_following,
    fold_into_preceding,
    merge_moments,
    normalize,
    scale_and_shift,
    stored_variance,
    update_running,
)

SHAPES = [(7, 3), (2, 1), (5, 3, 4), (3, 2, 4, 5), (2, 3, 2, 3, 2)]


def random_batch(shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    channels = shape[1]
    x = torch.randn(shape, generator=generator, dtype=dtype) * 3 + 5
    weight, bias = (torch.randn(channels, generator=generator, dtype=dtype) for _ in range(2))
    return x, weight, bias


def naive_batch_norm(x, weight, bias, eps):
    """The paper's Algorithm 1 with Python's own numbers, one channel at a time."""
    y = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].flatten().tolist()
        mean = math.fsum(values) / len(values)
        var = math.fsum((value - mean) ** 2 for value in values) / len(values)
        out = [float(weight[c]) * (value - mean) / math.sqrt(var + eps) + float(bias[c]) for value in values]
        y[:, c] = torch.tensor(out, dtype=x.dtype).reshape(x[:, c].shape)
    return y


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_is_the_papers_algorithm(shape):
    x, weight, bias = random_batch(shape)
    y, moments = batch_norm(x, weight, bias, eps=1e-3)
    torch.testing.assert_close(y, naive_batch_norm(x, weight, bias, 1e-3), rtol=1e-12, atol=1e-12)
    assert moments.n == x.numel() // shape[1]


def test_one_batch_by_hand():
    # x = (1, 3): mean 2, variance ((−1)² + 1²)/2 = 1; eps 3 makes the root 2; x̂ = (−½, ½).
    x = torch.tensor([[1.0], [3.0]], dtype=torch.float64)
    weight, bias = torch.tensor([4.0], dtype=torch.float64), torch.tensor([10.0], dtype=torch.float64)
    y, moments = batch_norm(x, weight, bias, eps=3.0)
    assert y.tolist() == [[8.0], [12.0]]
    # dy = (1, 0): dβ = 1; dγ = −½; dx = 4/2 · (dy − ½ − x̂·(−½)/2) = 2 · (1 − ½ − ⅛, −½ + ⅛) = (¾, −¾).
    grad_y = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    grad_x, grad_weight, grad_bias = batch_norm_backward(grad_y, x, moments, weight, eps=3.0)
    assert (grad_x.tolist(), grad_weight.tolist(), grad_bias.tolist()) == ([[0.75], [-0.75]], [-0.5], [1.0])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("affine", [True, False])
def test_written_gradient_is_autograds(shape, affine):
    x, weight, bias = random_batch(shape)
    x.requires_grad_()
    if affine:
        weight.requires_grad_()
        bias.requires_grad_()
    y, moments = batch_norm(x, weight if affine else None, bias if affine else None)
    grad_y = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y.backward(grad_y)
    with torch.no_grad():
        grad_x, grad_weight, grad_bias = batch_norm_backward(grad_y, x, moments, weight if affine else None)
    torch.testing.assert_close(grad_x, x.grad, rtol=1e-10, atol=1e-12)
    if affine:
        torch.testing.assert_close(grad_weight, weight.grad, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(grad_bias, bias.grad, rtol=1e-10, atol=1e-12)


class WrittenGradient(torch.autograd.Function):
    """`batch_norm` whose backward pass is the written one, so that gradcheck compares it with differences."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        y, moments = batch_norm(x, weight, bias)
        ctx.save_for_backward(x, weight, moments.mean, moments.var)
        ctx.n = moments.n
        return y

    @staticmethod
    def backward(ctx, grad_y):
        x, weight, mean, var = ctx.saved_tensors
        return batch_norm_backward(grad_y, x, Moments(ctx.n, mean, var), weight)


@pytest.mark.parametrize("shape", [(4, 2), (3, 2, 3)])
def test_gradients_pass_gradcheck(shape):
    arguments = tuple(t.requires_grad_() for t in random_batch(shape))
    assert torch.autograd.gradcheck(WrittenGradient.apply, arguments)
    assert torch.autograd.gradcheck(lambda *args: batch_norm(*args)[0], arguments)
    assert torch.autograd.gradgradcheck(lambda *args: batch_norm(*args)[0], arguments)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
def test_equals_torchs_layer_in_both_modes(shape):
    x, weight, bias = random_batch(shape)
    layer = nn.BatchNorm1d(3, eps=1e-3, momentum=0.3, dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    running_mean, running_var = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    for step in range(3):
        batch = x + step
        y, moments = batch_norm(batch, weight, bias)
        update_running(running_mean, running_var, moments, momentum=0.3)
        torch.testing.assert_close(y, layer(batch), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(running_mean, layer.running_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(running_var, layer.running_var, rtol=1e-12, atol=1e-12)
    inferred = normalize(x, running_mean, running_var, weight, bias)
    torch.testing.assert_close(inferred, layer.eval()(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_keeps_the_dtype(dtype):
    x, weight, bias = random_batch((8, 3), dtype=dtype)
    y, moments = batch_norm(x, weight, bias)
    assert {y.dtype, moments.mean.dtype, moments.var.dtype} == {dtype}
    assert {t.dtype for t in batch_norm_backward(y, x, moments, weight)} == {dtype}


def test_running_update_in_both_conventions():
    # One step with momentum 0.1 from mean 0 and variance 1, over 50 elements with mean 2 and biased variance 4.9.
    moments = Moments(50, torch.tensor([2.0]), torch.tensor([4.9]))
    for variance, expected in (("biased", 0.9 + 0.1 * 4.9), ("unbiased", 0.9 + 0.1 * 4.9 * 50 / 49)):
        running_mean, running_var = torch.zeros(1), torch.ones(1)
        update_running(running_mean, running_var, moments, 0.1, variance)
        assert running_mean.item() == pytest.approx(0.2, rel=1e-6)
        assert running_var.item() == pytest.approx(expected, rel=1e-6)


def test_an_unbiased_variance_needs_two_elements():
    running_mean, running_var = torch.zeros(1), torch.ones(1)
    with pytest.raises(ValueError, match="at least 2 elements"):
        update_running(running_mean, running_var, Moments(1, torch.ones(1), torch.zeros(1)))
    assert (running_mean.item(), running_var.item()) == (0.0, 1.0)  # neither has moved
    with pytest.raises(ValueError, match="at least 2 elements per channel, got 1"):
        stored_variance(Moments(1, torch.zeros(1), torch.zeros(1)), "unbiased")
    with pytest.raises(ValueError, match="'population', expected 'biased' or 'unbiased'"):
        stored_variance(Moments(2, torch.zeros(1), torch.zeros(1)), "population")


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 1.0, 1e6]),
    seed=st.integers(0, 2**16),
)
def test_merged_moments_do_not_depend_on_how_the_data_is_cut(sizes, offset, seed):
    x = torch.randn(sum(sizes), 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + offset
    parts = [batch_moments(part) for part in x.split(sizes)]
    merged = parts[0]
    for part in parts[1:]:
        merged = merge_moments(merged, part)
    whole = batch_moments(x)
    assert merged.n == whole.n
    # At an offset of 1e6, E[x²] − E[x]² would have lost 12 of its 16 digits.
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(merged.var, whole.var, rtol=1e-8, atol=1e-12)


def test_merging_sees_the_variance_between_sorted_batches():
    a, b = batch_moments(torch.zeros(4, 1)), batch_moments(torch.full((4, 1), 2.0))
    assert merge_moments(a, b).var.item() == 1.0  # the mean of the two variances would be 0
    with pytest.raises(ValueError, match="all sets of moments are empty"):
        merge_moments(Moments(0, a.mean, a.var), Moments(0, a.mean, a.var))


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("layer_type", ["linear", "conv"])
def test_folding_into_the_layer_before_keeps_the_function(affine, with_bias, layer_type):
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=with_bias) if layer_type == "linear" else nn.Conv2d(4, 3, 2, bias=with_bias)
    x = torch.randn(5, 4) if layer_type == "linear" else torch.randn(5, 4, 3, 3)
    layer, x = layer.double(), x.double()
    mean, var = torch.randn(3).double(), torch.rand(3).double() + 0.1
    gamma, beta = (torch.randn(3).double(), torch.randn(3).double()) if affine else (None, None)
    expected = normalize(layer(x), mean, var, gamma, beta)

    weight, bias = fold_into_preceding(layer.weight, layer.bias, *scale_and_shift(mean, var, gamma, beta))
    function = nn.functional.linear if layer_type == "linear" else nn.functional.conv2d
    torch.testing.assert_close(function(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_bias", [True, False])
def test_folding_into_the_layer_after_keeps_the_function(with_bias):
    torch.manual_seed(0)
    layer = nn.Linear(3, 4, bias=with_bias).double()
    x, mean, var = torch.randn(5, 3).double(), torch.randn(3).double(), torch.rand(3).double() + 0.1
    weight, bias = fold_into_following(layer.weight, layer.bias, *scale_and_shift(mean, var))
    expected = layer(normalize(x, mean, var))
    torch.testing.assert_close(nn.functional.linear(x, weight, bias), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 3, 0)])
def test_refuses_what_has_no_moments(shape):
    with pytest.raises(ValueError, match="x has shape"):
        batch_moments(torch.zeros(shape))
