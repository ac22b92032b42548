"""Each kernel of a loss is the plain formula: value and gradient, weighted, in both precisions, to what is extreme."""

import numpy as np
import pytest
import torch
from sklearn.metrics import mean_pinball_loss, mean_poisson_deviance

from batchnorm.kernels import cpu, tensors
from batchnorm.losses import Loss, mean_loss

TARGETS = {
    "cross_entropy": lambda rng: rng.integers(3, size=9),
    "binary_cross_entropy": lambda rng: rng.integers(2, size=(9, 3)) == 1,
    "squared_error": lambda rng: rng.normal(size=(9, 3)),
    "quantile": lambda rng: rng.normal(size=(9, 3)),
    "poisson": lambda rng: rng.poisson(1.5, size=(9, 3)).astype(float),
}
PARAMETERS = {
    "cross_entropy": (0.05, 0.1, 0.02),
    "binary_cross_entropy": (0.1, 0.05, 0.0, 0.2, 0.03, 0.03),
    "quantile": 0.2,
}
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])


def drawn(name, dtype, seed=0):
    """Outputs, labels and weights."""
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(TARGETS[name](rng))
    labels = labels.to(dtype) if labels.is_floating_point() else labels
    outputs = torch.from_numpy(rng.normal(size=(9, 3))).to(dtype)
    if name == "quantile":
        outputs[0] = labels[0]  # a kink
    return outputs, labels, torch.from_numpy(rng.integers(1, 4, 9) / 2).to(dtype)


def taken(module, name, outputs, labels, weights, parameter):
    """Return the loss and the gradient of a kernel."""
    if name in ("cross_entropy", "binary_cross_entropy"):
        spread = Loss(name, parameter).spread(outputs.shape[1])
        parameter = spread if module is cpu else torch.from_numpy(spread)
    kind = torch.int64 if name == "cross_entropy" else outputs.dtype
    targets = labels.reshape(len(labels), -1).to(kind)
    loss, gradient = torch.zeros(1, dtype=torch.float64), torch.empty_like(outputs)
    view = torch.Tensor.numpy if module is cpu else lambda tensor: tensor
    tensors = [view(tensor.clone()) for tensor in (outputs, targets, weights)]
    getattr(module, name)(*tensors, parameter, view(loss), view(gradient))
    return loss.item(), gradient


@DTYPES
@pytest.mark.parametrize(
    ("module", "weighted"), [(cpu, False), (cpu, True), (tensors, False)], ids=["cpu", "cpu, weighted", "tensors"]
)
@pytest.mark.parametrize("name", TARGETS)
def test_a_kernel_is_the_formula_and_its_gradient(name, module, weighted, dtype, tolerance):
    outputs, labels, weights = drawn(name, dtype)
    weights = weights if weighted else torch.ones_like(weights)
    exact = outputs.double().clone().requires_grad_()
    wanted = labels.double() if labels.is_floating_point() else labels
    parameter = PARAMETERS.get(name, 0.0)
    expected = mean_loss(exact, wanted, Loss(name, parameter), weights.double())
    expected.backward()
    loss, gradient = taken(module, name, outputs, labels, weights, parameter)
    assert loss == pytest.approx(expected.item(), rel=tolerance)
    np.testing.assert_allclose(gradient, exact.grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ["quantile", "poisson"])
def test_a_loss_is_scikit_learns(name):
    outputs, labels, weights = drawn(name, torch.float64)
    loss = mean_loss(outputs, labels, Loss(name, 0.2), weights).item()
    if name == "quantile":
        expected = mean_pinball_loss(labels, outputs, sample_weight=weights, alpha=0.2)
    else:
        columns = range(labels.shape[1])
        deviances = [mean_poisson_deviance(labels[:, j], outputs[:, j].exp(), sample_weight=weights) for j in columns]
        expected = np.mean(deviances) / 2
    assert loss == pytest.approx(expected, rel=1e-12)


@DTYPES
@pytest.mark.parametrize("module", [cpu, tensors], ids=["cpu", "tensors"])
def test_a_poisson_mean_does_not_overflow(module, dtype, tolerance):
    """Beyond e^30 it grows as its tangent, so that the way back stays steep and finite."""
    outputs = torch.tensor([[-1e4], [29.9], [30.0], [31.0], [1e4]], dtype=dtype)
    labels = torch.tensor([[2.0], [0.0], [1.0], [0.0], [3.0]], dtype=dtype)
    exact = outputs.double().clone().requires_grad_()
    expected = mean_loss(exact, labels.double(), Loss("poisson"))
    expected.backward()
    loss, gradient = taken(module, "poisson", outputs, labels, torch.ones(5, dtype=dtype), 0.0)
    assert np.isfinite(loss)
    assert loss == pytest.approx(expected.item(), rel=10 * tolerance)
    np.testing.assert_allclose(gradient, exact.grad, rtol=10 * tolerance)
    assert gradient[3] == gradient[4] + 3 / 5 == pytest.approx(np.exp(30) / 5, rel=1e-5)


@pytest.mark.parametrize("module", [cpu, tensors], ids=["cpu", "tensors"])
@pytest.mark.parametrize("name", ["squared_error", "quantile", "poisson"])
def test_what_is_not_a_number_is_seen(name, module):
    outputs = torch.tensor([[0.0], [np.nan]])
    loss, _ = taken(module, name, outputs, torch.ones(2, 1), torch.ones(2), 0.5)
    assert np.isnan(loss)
