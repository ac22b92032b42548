"""Whatever a module keeps, and wherever, is afterwards what it was."""

import collections
import types

import pytest
import torch
from torch import nn

import batchnorm as bn
from test_opaque import VERBS, around


class Slotted(nn.Module):
    """Keeps what it has seen outside its `__dict__`."""

    __slots__ = ("__hidden", "kept", "last")

    def __init__(self):
        super().__init__()
        self.kept = "before"
        self.__hidden = 1

    def forward(self, x):
        self.last, self.kept, self.__hidden = x, "changed", 2
        return x

    def held(self):
        return self.kept, self.__hidden, hasattr(self, "last")


@pytest.mark.parametrize("verb", VERBS)
def test_slots(verb):
    model = around(Slotted())
    VERBS[verb](model)
    assert model[2].held() == ("before", 1, False)


class ReadOnlyList(list):
    def clear(self):
        raise TypeError("read-only")

    extend = __copy__ = __deepcopy__ = clear


class ReadOnlyDict(dict):
    def clear(self):
        raise TypeError("read-only")

    def __deepcopy__(self, memo):
        return self

    update = __setitem__ = __copy__ = clear


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "fold"])
@pytest.mark.parametrize("value", [ReadOnlyList([1]), ReadOnlyDict(a=1)], ids=["list", "dict"])
def test_containers_that_cannot_be_changed_are_left(verb, value):
    model = around(nn.Identity())
    model.held = value
    VERBS[verb](model)
    assert model.held is value


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.list, self.dict, self.set = [1, 2], collections.OrderedDict(a=1, b=2), {1}
        self.count = collections.Counter(a=1)

    def forward(self, x):
        self.list[:] = [2, 1]
        self.dict.move_to_end("a")
        self.set.add(x.shape)
        self.count["a"] += 1
        return x


@pytest.mark.parametrize("verb", VERBS)
def test_containers_get_back_what_was_in_them_in_its_order(verb):
    model = around(Remembering())
    kept = model[2]
    VERBS[verb](model)
    assert (kept.list, [*kept.dict], kept.set, kept.count) == ([1, 2], ["a", "b"], {1}, {"a": 1})


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "fold"])
def test_a_mapping_of_buffers_that_cannot_be_changed(verb):
    model = around(nn.Identity())
    model[2]._buffers = types.MappingProxyType({})
    VERBS[verb](model)


class Locked(nn.Module):
    """Refuses to be put into another mode."""

    def __init__(self):
        super().__init__()
        self.training = False

    def __setattr__(self, name, value):
        if name == "training" and value and "training" in vars(self):
            raise AttributeError("always in inference")
        super().__setattr__(name, value)

    def forward(self, x):
        return x


@pytest.mark.parametrize("verb", VERBS)
def test_a_part_that_has_one_mode_alone(verb):
    VERBS[verb](around(Locked().eval()))


def test_that_it_cannot_train_is_noted():
    report = bn.diagnose(around(Locked().eval()), [torch.randn(16, 4)])
    assert any("AttributeError: always in inference" in note for note in report.notes)
