"""Batches of any kind, in one pass or several, and what is wrong with others."""

import pytest
import torch
from torch import nn

import batchnorm as bn
from recalibrated import Keywords, X


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
    done = bn.recalibrate(model, iter(x.split(7)), memory=0)
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


def test_batches_that_are_gone_after_one_pass_are_not_taken_for_layers_that_are_not_reached():
    """One pass is all that it takes where they can walk together."""

    class Once:
        def __init__(self):
            self.left = iter(torch.randn(9, 2).split(3))

        def __iter__(self):
            return self.left

    model = nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2))
    message = "the first pass over the batches saw 3 of them, a later one 0: give a list"
    with pytest.raises(bn.InputError, match=message):
        bn.recalibrate(model, Once(), memory=0)
    twice = nn.Sequential(model[0], model[0], model[2])  # which cannot be measured together
    with pytest.raises(bn.InputError, match=message):
        bn.recalibrate(twice, Once())
    assert torch.equal(model[0].running_mean, torch.zeros(2))
    assert bn.recalibrate(model, Once()).n_passes == 1
    assert not torch.equal(model[0].running_mean, torch.zeros(2))


def test_arrays_are_batches_and_several_inputs_are_asked_about():
    model = Keywords()
    bn.recalibrate(model, [X.numpy()])
    assert model.norm.running_mean.item() == 4.0

    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(bn.InputError, match=r"Two.forward needs x, y: say how .* model\(\*batch\[:2\]\)"):
        bn.recalibrate(Two(), [(X, X)])
