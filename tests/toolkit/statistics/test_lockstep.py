"""All batches walk through the model together: to the same bits as pass by pass, or not at all."""

import copy
import threading
import time

import pytest
import torch
from monai.networks import nets
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import batchnorm as bn
from batchnorm.toolkit.statistics import lockstep
from batchnorm.toolkit.statistics.alive import Alive
from graphs import random_graph, randomized


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def both(model, batches, **options):
    """Recalibrate together and, a copy, pass by pass; check that statistics are equal to the bit; return the former."""
    twin = copy.deepcopy(model)
    done = bn.recalibrate(model, batches, **options)
    expected = bn.recalibrate(twin, batches, memory=0, **options)
    assert list(done.changes) == list(expected.changes)
    assert (done.unreached, done.frozen) == (expected.unreached, expected.frozen)
    for (name, a), b in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert expected.n_passes >= done.n_passes
    return done


def chain(*between):
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), *between, nn.Linear(4, 4), nn.BatchNorm1d(4))


def batches(*sizes, features=4):
    return [torch.randn(size, features) * 2 + i for i, size in enumerate(sizes)]


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    model, x = random_graph(seed, 24)
    both(model, x.split([9, 3, 2, 10]))


@pytest.mark.parametrize(
    "model",
    [
        nets.resnet18(spatial_dims=2, n_input_channels=3, num_classes=2),
        nets.DenseNet(2, 3, 2, init_features=8, growth_rate=4, block_config=(2, 2)),
        nets.UNet(2, 3, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2, norm="batch"),
    ],
    ids=lambda model: type(model).__name__,
)
def test_networks_that_others_wrote(model):
    done = both(randomized(model), [torch.randn(n, 3, 32, 32) + n for n in (2, 1, 3)])
    assert done.n_passes == 1


def test_every_batch_is_run_once_and_the_first_once_more():
    model, calls = chain(nn.ReLU()), []
    model[0].register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    assert bn.recalibrate(model, batches(5, 6, 7)).n_passes == 1
    assert calls == [5, 6, 7, 5]


def test_weights_frozen_layers_and_a_generator():
    model = chain(nn.Dropout(0.5))
    bn.freeze(model[1])
    data = [(x, torch.arange(len(x))) for x in batches(5, 1, 7)]  # all that counts of the second one is nothing
    done = both(model, data, weights=lambda pair: pair[1])
    assert done.n_passes == 1
    assert done.frozen == ("1",)
    assert done.changes["4"].moments.n == 10 + 21
    twin = copy.deepcopy(model)
    bn.recalibrate(model, (pair for pair in data), weights=lambda pair: pair[1])
    bn.recalibrate(twin, data, weights=lambda pair: pair[1])
    assert torch.equal(model[4].running_var, twin[4].running_var)


def test_more_batches_than_wait_to_be_merged():
    x, model = torch.randn(300, 4) + torch.arange(300).reshape(-1, 1), nn.Sequential(nn.BatchNorm1d(4))
    both(model, x.split(2))
    torch.testing.assert_close(model[0].running_var, x.double().var(0).float())


def test_weights_that_cannot_be():
    model = chain()
    before = copy.deepcopy(model.state_dict())
    for weights in (lambda x: -torch.ones(len(x)), lambda x: torch.ones(len(x) + 1)):
        for memory in (0, 2**31):
            with pytest.raises(ValueError, match="expected one of at least 0 for each of the 5 examples"):
                bn.recalibrate(model, batches(5, 6), weights=weights, memory=memory)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_empty_batches_and_single_ones():
    assert both(chain(), [torch.randn(0, 4), *batches(5, 6)]).n_passes == 1
    assert both(chain(), [torch.randn(5, 4)]).n_passes == 1
    with pytest.raises(bn.InputError, match="all batches are empty"):
        bn.recalibrate(chain(), [torch.randn(0, 4)])


# What a layer is used for.


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = (nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x):
        return self.last(self.second(self.first(x)) + self.second(x))


class Choosing(nn.Module):
    """Large batches take another way than small ones."""

    def __init__(self):
        super().__init__()
        self.large, self.small, self.last = (nn.BatchNorm1d(4) for _ in range(3))

    def forward(self, x):
        return self.last(self.large(x) if len(x) > 4 else self.small(x))


class Ending(Choosing):
    def forward(self, x):
        return self.last(self.large(x)) if len(x) > 4 else self.large(x)


@pytest.mark.parametrize(("model", "together"), [(Twice(), False), (Choosing(), False), (Ending(), True)])
def test_layers_that_are_used_twice_or_by_some_batches(model, together):
    assert (both(model, batches(5, 3, 6)).n_passes == 1) == together


# What the model's code does beside.


class Stash(nn.Module):
    """Keeps a value for later in the same forward pass, where another batch's may replace it."""

    def __init__(self, keep):
        super().__init__()
        self.first, self.second, self.last = (nn.BatchNorm1d(4) for _ in range(3))
        self.keep = keep

    def forward(self, x):
        where = self if self.keep is None else self.keep
        where.kept = x
        return self.last(self.second(self.first(x)) + 3 * where.kept)


class Anything:
    pass


@pytest.mark.parametrize("keep", [None, Anything(), threading.local()], ids=["module", "elsewhere", "of the thread"])
def test_what_is_kept_for_later_is_that_batch_s_own(keep):
    model, data = Stash(keep), batches(5, 3, 6)
    done = bn.recalibrate(model, data)
    assert (done.n_passes == 1) == isinstance(keep, threading.local)
    with torch.no_grad():
        first = model.eval().first(torch.cat(data))
        reaches = model.second(first) + 3 * torch.cat(data)
    torch.testing.assert_close(model.last.running_mean, reaches.mean(0))
    torch.testing.assert_close(model.last.running_var, reaches.var(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_what_is_kept_is_seen_in_every_precision(dtype):
    data = [x.to(dtype) for x in batches(50, 30, 60)]
    assert bn.recalibrate(Stash(Anything()).to(dtype), data).n_passes > 1
    assert bn.recalibrate(Stash(threading.local()).to(dtype), data).n_passes == 1


def test_what_is_only_looked_at_afterwards_may_be_kept():
    class Notes(nn.Module):
        def forward(self, x):
            self.last_input = x
            return x

    model = chain(Notes())
    assert both(model, batches(5, 3, 6)).n_passes == 1
    assert not hasattr(model[2], "last_input")


class Locked(nn.Module):
    """Lets in one at a time."""

    def __init__(self):
        super().__init__()
        self.inside = chain()

    def forward(self, x):
        with LOCK:
            return self.inside(x)


LOCK = threading.Lock()


def test_a_lock_that_a_waiting_batch_holds_keeps_nobody_waiting(monkeypatch):
    monkeypatch.setattr(lockstep, "_PATIENCE", 0.05)
    begun = time.monotonic()
    done = bn.recalibrate(Locked(), batches(5, 3, 6))
    assert done.n_passes == 2
    assert time.monotonic() - begun < 5
    assert not LOCK.locked()


class InThreads(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = chain()

    def forward(self, x):
        results = []

        def run():
            with torch.no_grad():
                results.append(self.inside(x))

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        return results[0]


def test_a_model_with_threads_of_its_own():
    assert both(InThreads(), batches(5, 3, 6)).n_passes == 2


class Raises(nn.Module):
    def __init__(self, error, at):
        super().__init__()
        self.error, self.at = error, at

    def forward(self, x):
        if len(x) == self.at:
            raise self.error
        return x


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt(), SystemExit(3)])
def test_what_a_model_raises_is_raised_and_nothing_is_changed(error):
    model = chain(Raises(error, 3))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(type(error)) as caught:
        bn.recalibrate(model, batches(5, 3, 6))
    assert caught.value is error
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training


@pytest.mark.parametrize("error", [RuntimeError("half-way"), KeyboardInterrupt()])
def test_what_the_batches_raise_is_raised(error):
    def loader():
        yield from batches(5, 3)
        raise error

    model = chain()
    with pytest.raises(type(error)) as caught:
        bn.recalibrate(model, loader())
    assert caught.value is error
    assert not model[1].running_mean.any()


def test_statistics_that_a_layer_cannot_have_are_refused():
    model = chain(nn.ReLU())
    with pytest.raises(bn.InputError, match="what reaches layer '1' holds NaN or infinite values"):
        bn.recalibrate(model, [*batches(5, 3), torch.full((4, 4), torch.nan)])
    assert not model[1].running_mean.any()


def test_where_no_more_threads_can_be_started(monkeypatch):
    start = threading.Thread.start
    started = []

    def fewer(thread):
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fewer)
    assert bn.recalibrate(chain(), batches(5, 3, 6, 7)).n_passes == 2


class Noise(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=True)


def test_a_model_that_draws_random_numbers():
    model, x = chain(Noise()), torch.randn(2000, 4)
    before = torch.get_rng_state()
    bn.recalibrate(model, x.split(500))
    assert torch.equal(torch.get_rng_state(), before)
    with torch.no_grad():
        reaches = model.eval()[:4](x)
    torch.testing.assert_close(model[4].running_mean, reaches.mean(0), atol=0.15, rtol=0)


def test_where_batches_cannot_walk_together_the_same_random_numbers_are_drawn():
    assert both(chain(Noise()), batches(5, 3, 6)).n_passes == 2


# What surrounds it.


class Doubling(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result * 2 if func is F.linear else result


class Counting(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("surroundings", "together"),
    [
        (lambda: torch.autocast("cpu", torch.bfloat16), True),
        (torch.inference_mode, True),
        (Doubling, True),
        (lambda: torch.device("cpu"), True),
        (Counting, False),
    ],
    ids=["autocast", "inference", "function mode", "default device", "dispatch mode"],
)
def test_threads_have_the_surroundings_of_the_caller(surroundings, together):
    model, data = chain(nn.ReLU()), batches(50, 30, 60)
    alone = copy.deepcopy(model)
    with surroundings():
        done = both(model, data)
    bn.recalibrate(alone, data)
    assert (done.n_passes == 1) == together
    plain = surroundings in (torch.inference_mode, Counting) or isinstance(surroundings(), torch.device)
    assert torch.equal(model[4].running_var, alone[4].running_var) == plain


def test_a_context_variable_is_the_callers():
    import contextvars

    scale = contextvars.ContextVar("scale", default=1.0)

    class Scaled(nn.Module):
        def forward(self, x):
            return x * scale.get()

    model = nn.Sequential(Scaled(), nn.BatchNorm1d(4))
    token = scale.set(5.0)
    done = both(model, data := batches(5, 3))
    scale.reset(token)
    assert done.n_passes == 1
    torch.testing.assert_close(model[1].running_mean, 5 * torch.cat(data).mean(0))


# Memory.


def test_batches_that_hold_too_much_go_pass_by_pass():
    wide = nn.Sequential(nn.Linear(4, 1000), nn.BatchNorm1d(1000), nn.Linear(1000, 4), nn.BatchNorm1d(4))
    data = batches(*8 * [500])
    waiting = 8 * (500 * 1000 * 4 + 500 * 4 * 4 + 2**20)
    assert bn.recalibrate(wide, data, memory=int(1.1 * waiting)).n_passes == 1
    assert bn.recalibrate(wide, data, memory=int(0.9 * waiting)).n_passes == 2
    assert bn.recalibrate(wide, iter(data), memory=int(0.9 * waiting)).n_passes == 2


def test_alive_counts_what_is_there_now():
    x, weight = torch.randn(100, 10), torch.randn(10, 10)
    with Alive([x], [weight]) as alive:
        assert alive.bytes == 4000
        y = x @ weight.t()
        z = y[:50].t()
        assert alive.bytes == 8000
        y = torch.relu(y)
        assert alive.bytes == 12000
        del z
        assert alive.bytes == 8000
        y.to_sparse()
        assert alive.bytes == 8000
