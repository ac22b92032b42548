"""A run is loaded into, and goes on with, the network that it was begun with, and no other that happens to fit."""

import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import batchnorm as bn
from batchnorm import InputError
from batchnorm.errors import TrainingInterrupted
from batchnorm.training import evaluate_run
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
    "an activation": (lambda: foreign(activation=nn.Tanh), "class of layer '2' was ReLU, is Tanh"),
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
