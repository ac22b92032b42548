"""What the closest relatives do wrong."""

import warnings

import pytest
import torch
from torch import nn

import batchnorm as bn
from recalibrated import Keywords, Raises, X, reference


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
    update(model, [torch.full((51, 1), 2.0)])  # an odd number: whichever half is dropped, the mean is another
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
