"""Batches of any kind, in one pass or several, and what is wrong with others."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import batchnorm as bn
from recalibrated import Keywords, X, both_ways


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


def layers():
    """Return layers whose statistics take more than one pass without memory."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Tanh(), nn.BatchNorm1d(2))


class Endless:
    """Yields the same batches in every pass, and never ends."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return itertools.cycle(self.batches)


DRAWN = list(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)).split(8))
AS_MANY_AS_ASKED_FOR = {
    "list": lambda: DRAWN,
    "generator": lambda: (x for x in DRAWN),
    "endless": lambda: Endless(DRAWN),
    "endless generator": lambda: itertools.cycle(DRAWN),
    "loader": lambda: DataLoader(torch.cat(DRAWN), batch_size=8),
}


@both_ways
@pytest.mark.parametrize("method", ["exact", "one-pass"])
@pytest.mark.parametrize("kind", AS_MANY_AS_ASKED_FOR)
def test_as_many_batches_as_asked_for(kind, method, memory):
    model, twin = layers(), layers()
    bn.recalibrate(model, AS_MANY_AS_ASKED_FOR[kind](), n_batches=np.int64(3), method=method, memory=memory)
    bn.recalibrate(twin, DRAWN[:3], method=method, memory=memory)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in twin.state_dict().items())
    twin[0].running_mean += 3
    asked = bn.diagnose(twin, AS_MANY_AS_ASKED_FOR[kind](), n_batches=3, method=method, memory=memory)
    assert asked.to_dict() == bn.diagnose(twin, DRAWN[:3], method=method, memory=memory).to_dict()
    assert asked.findings


@both_ways
def test_no_more_is_read_than_asked_for(memory):
    left = iter(DRAWN)
    bn.recalibrate(layers(), left, n_batches=3, memory=memory)
    assert len(list(left)) == 2
    lazy, left = nn.Sequential(nn.LazyBatchNorm1d()), iter(DRAWN)
    bn.diagnose(lazy, left, n_batches=5, memory=memory)
    assert not list(left)


@both_ways
@pytest.mark.parametrize("verb", [bn.recalibrate, bn.diagnose])
@pytest.mark.parametrize("method", ["exact", "one-pass"])
@pytest.mark.parametrize("there", [0, 3])
@pytest.mark.parametrize("kind", [list, iter, lambda batches: DataLoader(batches, batch_size=None)])
def test_fewer_batches_than_asked_for_are_an_error(verb, memory, method, there, kind):
    model = layers().eval()
    before = copy.deepcopy(model.state_dict())
    message = rf"^the batches ended after {there}, n_batches is 5: ask for fewer, or leave n_batches out"
    with pytest.raises(bn.InputError, match=message):
        verb(model, kind(DRAWN[:there]), n_batches=5, method=method, memory=memory)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


def test_batches_that_are_gone_in_a_later_pass_are_not_said_to_be_too_few():
    class Once:
        def __init__(self):
            self.left = iter(DRAWN[:3])

        def __iter__(self):
            return self.left

    with pytest.raises(
        bn.InputError, match=r"^the batches ended after 0, n_batches is 3: an earlier pass had them all"
    ):
        bn.recalibrate(layers(), Once(), n_batches=3, memory=0)
    assert bn.recalibrate(layers(), Once(), n_batches=3).n_passes == 1


@pytest.mark.parametrize("n_batches", [0, -1, True, 2.0, "3", torch.tensor(3), math.inf])
@pytest.mark.parametrize("verb", [bn.recalibrate, bn.diagnose])
def test_says_which_numbers_of_batches_there_are(verb, n_batches):
    with pytest.raises(bn.InputError, match=r"^n_batches is .*, expected a whole number from 1, or None for all"):
        verb(layers(), DRAWN, n_batches=n_batches)
