"""A run is loaded into, and goes on with, the network that it was begun with, and no other that happens to fit."""

import dataclasses
import functools
import json
import re
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import batchnorm as bn
from batchnorm import InputError
from batchnorm.errors import TrainingInterrupted
from batchnorm.training import evaluate_run
from batchnorm.training.identity import _differences, describe_network
from conftest import SAMPLES
from helpers import PLAIN, InterruptAt, make_network, run_files, same_weights, seal_as_it_is

CONFIG = dataclasses.replace(PLAIN, engine="autograd", epochs=2, batch_size=60)


def plain():
    torch.manual_seed(0)
    return bn.DenseNetwork(6, (8, 8), 3)


def altered(change):
    """Return what builds a `DenseNetwork` and changes it."""

    def make():
        network = plain()
        change(network)
        return network

    return make


class Tripled(bn.DenseNetwork):
    def forward(self, x):
        return super().forward(3 * x)


def own_forward(network):
    forward = network.forward
    network.forward = lambda x: forward(3 * x)


def tied():
    torch.manual_seed(0)
    network = bn.DenseNetwork(6, (8, 8, 8), 3)
    network[6].weight = network[3].weight
    return network


def wider(network):
    network[6].bias = nn.Parameter(torch.zeros(1))  # one for all classes


class Tripling(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return 3 * result if func is F.linear else result


class OwnParameter(nn.Parameter):
    pass


def tripling(network):
    network[3].weight = nn.Parameter(network[3].weight.detach().as_subclass(Tripling))


def own_parameter(network):
    network[3].weight = OwnParameter(network[3].weight.detach())


def tripling_buffer(network):
    network[1].running_mean = network[1].running_mean.as_subclass(Tripling)


def test_tensors_of_another_class_alter_a_network():
    for change in (tripling, tripling_buffer, own_parameter):
        assert altered(change)().alteration() == "its tensors are of a class that may compute otherwise"
    assert plain().alteration() is None


ALTERATIONS = {
    "a subclass": lambda: (torch.manual_seed(0), Tripled(6, (8, 8), 3))[1],
    "a forward of its own": altered(own_forward),
    "another activation": altered(lambda network: network.__setitem__(2, nn.Tanh())),
    "a layer more": altered(lambda network: network.insert(3, nn.LayerNorm(8))),
    "a layer's option": altered(lambda network: setattr(network[1], "eps", 0.5)),
    "a momentum": altered(lambda network: setattr(network[1], "momentum", 0.5)),
    "a stored variance": altered(lambda network: setattr(network[1], "stored_variance", "biased")),
    "a hook": altered(lambda network: network[0].register_forward_hook(lambda layer, args, output: 3 * output)),
    "a pre-hook": altered(lambda network: network.register_forward_pre_hook(lambda layer, args: (3 * args[0],))),
    "a gradient's hook": altered(lambda network: network[0].weight.register_hook(lambda gradient: gradient / 2)),
    "a parametrisation": altered(lambda network: parametrizations.weight_norm(network[0])),
    "tied weights": tied,
    "one layer twice": altered(lambda network: network.__setitem__(5, network[2])),
    "a tensor's shape": altered(wider),
    "a buffer more": altered(lambda network: network.register_buffer("table", torch.ones(2))),
}


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_an_altered_dense_network_is_the_callers_own(kind, blobs, tmp_path):
    make, path = ALTERATIONS[kind], tmp_path / "run"
    run = bn.fit(make(), blobs, CONFIG, out=path)
    with pytest.raises(InputError, match=r"trains a \S+(DenseNetwork|Tripled) that was changed \((it|layers)"):
        bn.load_run(path)
    with pytest.raises(InputError, match="must be given as network="):
        bn.resume(path, blobs)
    with pytest.raises(InputError, match=r"trains another network than was given: class was "):
        bn.load_run(path, network=plain())
    loaded = bn.load_run(path, network=make())
    assert same_weights(loaded.network, run.network)
    evaluations = evaluate_run(path, blobs, network=make())
    assert {name: found.loss for name, found in evaluations.items()} == {
        name: found["loss"] for name, found in run.results["test"].items()
    }


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_nor_does_a_plain_run_take_an_altered_network(kind, finished):
    with pytest.raises(InputError, match="trains another network than was given: class was 'DenseNetwork', is"):
        bn.load_run(finished, network=ALTERATIONS[kind]())


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    bn.fit(plain(), blobs, CONFIG, out=path)
    return path


OTHERS = {
    "activation": (lambda: bn.DenseNetwork(6, (8, 8), 3, activation="tanh"), "activation was 'relu', is 'tanh'"),
    "eps": (lambda: bn.DenseNetwork(6, (8, 8), 3, bn_eps=0.1), "bn_eps was 0.001, is 0.1"),
    "momentum": (lambda: bn.DenseNetwork(6, (8, 8), 3, bn_momentum=0.2), "bn_momentum was 0.1, is 0.2"),
    "variance": (lambda: bn.DenseNetwork(6, (8, 8), 3, bn_variance="biased"), "bn_variance was 'unbiased'"),
    "dropout": (lambda: bn.DenseNetwork(6, (8, 8), 3, dropout=0.5), "dropout was 0.0, is 0.5"),
    "sizes": (lambda: bn.DenseNetwork(6, (8, 9), 3), r"hidden_layer_sizes was \(8, 8\), is \(8, 9\)"),
    "features": (lambda: bn.DenseNetwork(5, (8, 8), 3), "in_features was 6, is 5"),
    "classes": (lambda: bn.DenseNetwork(6, (8, 8), 4), "n_classes was 3, is 4"),
    "dtype": (lambda: bn.DenseNetwork(6, (8, 8), 3).double(), "dtype was 'float32', is 'float64'"),
    "class": (lambda: nn.Sequential(nn.Linear(6, 3)), "class was 'DenseNetwork', is 'torch.nn.modules.container"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_plain_run_takes_no_other_dense_network(kind, finished, blobs):
    make, message = OTHERS[kind]
    for go_on in (bn.load_run, lambda path, network: bn.resume(path, blobs, network=network)):
        with pytest.raises(InputError, match=f"trains another network than was given: .*{message}"):
            go_on(finished, network=make())
    assert bn.load_run(finished, network=plain()).path == finished


def foreign(width=8, eps=1e-5, activation=nn.ReLU, out=nn.Linear):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.BatchNorm1d(width, eps=eps), activation(), out(width, 3))


def lazy():
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))


OTHER_FOREIGN = {
    "a width": (lambda: foreign(width=9), r"tensor '0.weight' was float32 \(8, 6\), is float32 \(9, 6\)"),
    "an eps": (lambda: foreign(eps=0.1), "eps of layer '1' was 1e-05, is 0.1"),
    "an activation": (lambda: foreign(activation=nn.Tanh), r"class of layer '2' was torch\S+\.ReLU, is torch\S+\.Tanh"),
    "an option": (lambda: foreign(activation=lambda: nn.ReLU(inplace=True)), "inplace of layer '2' was False, is True"),
    "a bias": (lambda: foreign(out=lambda *a: nn.Linear(*a, bias=False)), "tensor '3.bias' is missing"),
    "a layer more": (lambda: foreign().append(nn.Identity()), "layer '4' is new"),
    "a dtype": (lambda: foreign().double(), r"was float32 \(8, 6\), is float64 \(8, 6\)"),
    "a DenseNetwork": (plain, r"class was 'torch.nn.modules.container.Sequential', is 'DenseNetwork'"),
}


@pytest.mark.parametrize("made", [foreign, lazy])
@pytest.mark.parametrize("kind", OTHER_FOREIGN)
def test_nor_does_that_of_another_module(kind, made, blobs, tmp_path):
    run = bn.fit(made(), blobs, PLAIN, out=tmp_path / "run")
    make, message = OTHER_FOREIGN[kind]
    with pytest.raises(InputError, match=f"trains another network than was given: .*{message}"):
        bn.load_run(tmp_path / "run", network=make())
    for same in (foreign, lazy):
        loaded = bn.load_run(tmp_path / "run", network=same())
        assert bn.evaluate(loaded.network, blobs.test).loss == run.results["test"]["running"]["loss"]


@pytest.mark.parametrize("make", [foreign, lazy, plain, *ALTERATIONS.values()])
def test_a_stopped_run_goes_on_with_the_network_that_it_was_begun_with(make, blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        bn.fit(make(), blobs, CONFIG, out=tmp_path / "stopped", monitor=InterruptAt(1, 2))
    bn.resume(tmp_path / "stopped", blobs, network=make())
    bn.fit(make(), blobs, CONFIG, out=tmp_path / "undisturbed")
    assert run_files(tmp_path / "stopped") == run_files(tmp_path / "undisturbed")


@pytest.mark.parametrize("make", [foreign, plain])
def test_what_is_frozen_stays_frozen(make, blobs, tmp_path):
    def frozen():
        network = make()
        network[0].requires_grad_(False)
        return network

    with pytest.raises(TrainingInterrupted):
        bn.fit(frozen(), blobs, CONFIG, out=tmp_path / "run", monitor=InterruptAt(1, 2))
    with pytest.raises(InputError, match=r"frozen was \['0.weight'.*, is \[\]"):
        bn.resume(tmp_path / "run", blobs, network=make())
    run = bn.resume(tmp_path / "run", blobs, network=None if make is plain else frozen())
    assert torch.equal(run.network[0].weight, make()[0].weight)
    bn.load_run(tmp_path / "run", network=make())  # where it does not matter any more


def test_an_earlier_record_says_less(blobs, tmp_path):
    run = tmp_path / "run"
    bn.fit(foreign(), blobs, PLAIN, out=run)
    settings = json.loads((run / "config.json").read_text())
    settings["network"] = {"class": settings["network"]["class"]}
    (run / "config.json").write_text(json.dumps(settings))
    seal_as_it_is(run)
    assert bn.load_run(run, network=foreign()).path == run
    with pytest.raises(InputError, match=r"class was 'torch\.nn"):
        bn.load_run(run, network=plain())


@pytest.mark.filterwarnings("ignore::batchnorm.errors.UncheckedRunWarning")
def test_a_run_of_an_earlier_version_names_another_network(tmp_path):
    shutil.copytree(SAMPLES / "run-format-1", tmp_path / "earlier")
    config = bn.load_run(tmp_path / "earlier").config
    digits = bn.load_dataset("digits")
    assert bn.load_run(tmp_path / "earlier", network=make_network(digits, config)).config == config
    other = make_network(digits, dataclasses.replace(config, activation="tanh"))
    with pytest.raises(InputError, match="activation was"):
        bn.load_run(tmp_path / "earlier", network=other)


def test_a_dtype_is_rebuilt_with_the_network(blobs, tmp_path):
    run = tmp_path / "run"
    bn.fit(plain().double(), blobs, PLAIN, out=run)
    settings = json.loads((run / "config.json").read_text())
    assert {parameter.dtype for parameter in bn.load_run(run).network.parameters()} == {torch.float64}
    bn.load_run(run, network=plain().double())
    with pytest.raises(InputError, match="dtype was 'float64', is 'float32'"):
        bn.load_run(run, network=plain())
    for damage in ({"dtype": "float1"}, {"frozen": ["9.weight"]}, {"frozen": [3]}, {"frozen": 3}, {"dtype": []}):
        damaged = settings | {"network": settings["network"] | damage}
        (run / "config.json").write_text(json.dumps(damaged))
        seal_as_it_is(run)
        with pytest.raises(InputError, match=r"config\.json is damaged: the network is|config\.json\.network"):
            bn.load_run(run)


@pytest.mark.parametrize("damage", [{"layers": 3}, {"layers": {"": 3}}, {"tensors": []}, {"tensors": {"0.weight": 3}}])
def test_a_damaged_record_of_another_module_is_told(damage, blobs, tmp_path):
    run = tmp_path / "run"
    bn.fit(foreign(), blobs, CONFIG, out=run)
    settings = json.loads((run / "config.json").read_text())
    settings["network"] |= damage
    (run / "config.json").write_text(json.dumps(settings))
    seal_as_it_is(run)
    with pytest.raises(InputError, match=r"config\.json\.network|another network than was given"):
        bn.load_run(run, network=foreign())


class Counting(nn.Module):
    """A module with attributes that change in use."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.calls, self.seen, self.last, self._sizes = 0, [], None, []

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.last = float(x.mean())
            self.seen.append(len(x))
        self._sizes.append(len(x))
        return self.b(F.relu(self.n(self.a(x))))


class ReLU(nn.ReLU):
    def forward(self, x):
        return -super().forward(x)


def ending(layer):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.Unflatten(1, (3, 2, 2)), nn.BatchNorm2d(3), layer, nn.Flatten())


def with_its_own_forward():
    network = foreign()
    network[0].forward = functools.partial(F.linear, weight=network[0].weight)
    return network


def hooked():
    network = foreign()
    network[0].register_forward_hook(lambda layer, args, output: 3 * output)
    return network


ONE_AND_OTHER = {
    "None, of torch's": [lambda: ending(pool()), lambda: ending(pool(divisor_override=1)), "divisor_override of layer"],
    "None, once": [lambda: foreign(), lambda: with_momentum(None), r"momentum of layer '1' was 0\.1, is None"],
    "a list": [lambda: ending(pool(padding=[0, 0])), lambda: ending(pool(padding=[1, 1])), "padding of layer '3'"],
    "a hook": [foreign, hooked, "hooks of layer '0' was none, is forward hooks"],
    "a forward": [foreign, with_its_own_forward, "forward of layer '0' was its class', is its own"],
    "a namesake": [foreign, lambda: foreign(activation=ReLU), r"class of layer '2' was torch\S+ReLU, is \S+ReLU"],
}


def pool(**options):
    return nn.AvgPool2d(2, **options)


def with_momentum(momentum):
    network = foreign()
    network[1].momentum = momentum
    return network


@pytest.mark.parametrize("kind", ONE_AND_OTHER)
def test_networks_differ_in_options_hooks_and_classes(kind):
    one, other, message = ONE_AND_OTHER[kind]
    config = bn.TrainingConfig(**getattr(one(), "architecture", {}))
    for first, second in ((one, other), (other, one)):
        record = json.loads(json.dumps(describe_network(first())))
        assert not list(_differences(record, config, first(), to_train=True))
        assert list(_differences(record, config, second(), to_train=True))
    told = _differences(describe_network(one()), config, other(), to_train=True)
    assert re.search(message, ", ".join(told))


def test_what_changes_in_use_is_no_other_network(blobs, tmp_path):
    network = Counting()
    with pytest.raises(TrainingInterrupted):
        bn.fit(network, blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(1, 2))
    assert network.calls == len(network.seen) > 0
    bn.resume(tmp_path / "run", blobs, network=network)
    for same in (network, Counting()):
        assert bn.load_run(tmp_path / "run", network=same).path


class WithSettings(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
        self.k, self.act, self.sizes, self.note, self.rows = 3.0, F.relu, (1, None, "a"), "a", list(range(1000))
        self.device, self.mapping, self._private, self.calls, self.seen = "cpu", {"a": 1}, 1, 0, None
        vars(self).update(attributes)

    def forward(self, x):
        self.calls += 1
        if self.training:
            self.seen = len(x)
        return self.net(self.k * x)


class TimesItsFactor(bn.DenseNetwork):
    def __init__(self, factor=1.0):
        torch.manual_seed(0)
        super().__init__(6, (8,), 3)
        self.factor = factor

    def forward(self, x):
        return super().forward(self.factor * x)


OTHER_SETTINGS = {
    "a number": ({"k": 1.0}, r"attribute k of layer '0' was 3\.0, is 1\.0$"),
    "a kind of number": ({"k": 3}, r"attribute k of layer '0' was 3\.0, is 3$"),
    "a function": ({"act": torch.tanh}, r"attribute act of layer '0' was torch\.nn\.functional\.relu, is \S+tanh$"),
    "a method": (
        {"act": torch.Tensor.relu},
        r"attribute act of layer '0' was torch\.nn\.functional\.relu, is \S+relu$",
    ),
    "a tuple": ({"sizes": (1, 2, "a")}, r"attribute sizes of layer '0' was \(1, None, 'a'\), is \(1, 2, 'a'\)$"),
    "a text": ({"note": "b" * 10**6}, r"attribute note of layer '0' was 'a', is 'b{49}… \(SHA-256 \w{16}\)$"),
    "a long list": ({"rows": list(range(1001))}, r"attribute rows of layer '0' was \[.*\), is \[.*\)$"),
}


@pytest.fixture(scope="module")
def with_settings(blobs, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    bn.fit(nn.Sequential(WithSettings()), blobs, PLAIN, out=path)
    return path


@pytest.mark.parametrize("kind", OTHER_SETTINGS)
def test_other_settings_are_another_network(kind, with_settings):
    attributes, message = OTHER_SETTINGS[kind]
    with pytest.raises(InputError, match=message) as caught:
        bn.load_run(with_settings, network=nn.Sequential(WithSettings(**attributes)))
    assert len(str(caught.value)) < 1000


def test_what_is_no_setting_is_not_compared(with_settings, blobs):
    same = ({}, {"device": "cuda:0"}, {"mapping": {}}, {"_private": 2}, {"calls": 7}, {"seen": 60}, {"more": 3})
    for attributes in same:
        bn.load_run(with_settings, network=nn.Sequential(WithSettings(**attributes)))
    network = nn.Sequential(WithSettings())
    bn.load_run(with_settings, network=bn.fit(network, blobs, PLAIN).network)


def test_a_recorded_setting_may_not_be_missing(with_settings):
    network = nn.Sequential(WithSettings())
    del network[0].k
    with pytest.raises(InputError, match=r"attribute k of layer '0' was 3\.0, is missing$"):
        bn.load_run(with_settings, network=network)


def test_settings_of_a_subclass_are_compared(blobs, tmp_path):
    with pytest.raises(TrainingInterrupted):
        bn.fit(TimesItsFactor(3.0), blobs, PLAIN, out=tmp_path / "run", monitor=InterruptAt(1, 2))
    with pytest.raises(InputError, match=r"attribute factor of the network was 3\.0, is 1\.0$"):
        bn.resume(tmp_path / "run", blobs, network=TimesItsFactor())
    bn.resume(tmp_path / "run", blobs, network=TimesItsFactor(3.0))


def test_a_run_without_recorded_attributes_loads(with_settings, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(with_settings, run)
    settings = json.loads((run / "config.json").read_text())
    for name, layer in settings["network"]["layers"].items():
        kept = {key: text for key, text in layer.items() if key != "torch" and not key.startswith("attribute")}
        settings["network"]["layers"][name] = kept
    (run / "config.json").write_text(json.dumps(settings))
    seal_as_it_is(run)
    scaled = nn.Sequential(WithSettings(k=1.0))
    scaled[0].net[0].scale = 2.0
    bn.load_run(run, network=scaled)


def test_an_option_of_one_side_is_compared_within_a_version_of_torch(monkeypatch):
    def scaled():
        network = foreign()
        network[0].scale = 2.0
        return network

    for one, other, message in ((scaled, foreign, r"was 2\.0, is missing"), (foreign, scaled, r"was missing, is 2\.0")):
        record = describe_network(one())
        told = ", ".join(_differences(record, CONFIG, other(), to_train=True))
        assert re.fullmatch(f"scale of layer '0' {message}", told)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "__version__", "3.0")
            assert not list(_differences(record, CONFIG, other(), to_train=True))


def test_a_record_of_unqualified_classes_and_fewer_options_loads():
    record = describe_network(foreign())
    for layer in record["layers"].values():
        layer["class"] = layer["class"].rpartition(".")[2]
        for name in ("hooks", "forward"):
            del layer[name]
    assert not list(_differences(record, CONFIG, foreign(), to_train=True))
    assert list(_differences(record, CONFIG, foreign(activation=nn.Tanh), to_train=True))


class Caching(nn.Module):
    """A module with a buffer that is made in its first call."""

    def __init__(self, cache, made=lambda x: x.new_ones(6), width=8):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.made = nn.Linear(6, width), nn.Linear(width, 3), made
        self.register_buffer("cache", cache)

    def forward(self, x):
        if self.cache is None or self.cache.numel() != 6:
            self.cache = self.made(x)
        return self.b(torch.relu(self.a(x * self.cache)))


def quantised():
    network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).train()
    network.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
    return torch.ao.quantization.prepare_qat(network)


SIZED_IN_USE = {
    "empty": lambda: Caching(torch.empty(0)),
    "None": lambda: Caching(None),
    "of one": lambda: Caching(torch.ones(1)),
    "of another dtype": lambda: Caching(torch.empty(0), lambda x: x.new_ones(6, dtype=torch.int64)),
    "within": lambda: nn.Sequential(Caching(None)),
    "quantised": quantised,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("kind", SIZED_IN_USE)
def test_a_buffer_may_get_its_size_in_the_first_call(kind, blobs, tmp_path):
    make = SIZED_IN_USE[kind]
    with pytest.raises(TrainingInterrupted):
        bn.fit(make(), blobs, CONFIG, out=tmp_path / "run", monitor=InterruptAt(1, 2))
    run = bn.resume(tmp_path / "run", blobs, network=make())
    assert same_weights(bn.load_run(tmp_path / "run", network=make()).network, run.network)
    assert evaluate_run(tmp_path / "run", blobs, network=make())["running"].accuracy == run.test_accuracy


def test_parameters_may_not(blobs, tmp_path):
    bn.fit(Caching(None), blobs, PLAIN, out=tmp_path / "run")
    with pytest.raises(InputError, match=r"tensor 'a\.weight' was float32 \(8, 6\), is float32 \(9, 6\)"):
        bn.load_run(tmp_path / "run", network=Caching(None, width=9))
