"""What looks into a network takes a `DenseNetwork` too: compilers, exporters, traces, TorchScript, vmap."""

import copy
import io

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode

import batchnorm as bn
from batchnorm.network import BatchNorm1d
from helpers import same_weights

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit"),
    pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Converting a tensor to a Python boolean:torch.jit.TracerWarning"),
]
X = torch.linspace(-1, 1, 48).reshape(8, 6)
CONVENTIONS = pytest.mark.parametrize("variance", ["unbiased", "biased"])


def network(**options):
    return bn.DenseNetwork(6, (4, 4), 3, generator=torch.Generator().manual_seed(0), **options).train()


@CONVENTIONS
def test_dropout_in_training_compiles_without_a_break(variance):
    dropping = network(dropout=0.5, bn_variance=variance)
    compiled = torch.compile(dropping, backend="aot_eager", fullgraph=True)
    compiled(X).sum().backward()
    assert all(parameter.grad is not None for parameter in dropping.parameters())
    assert not torch.equal(compiled(X), compiled(X))  # it draws anew


@pytest.mark.parametrize("strict", [True, False])
def test_dropout_in_training_is_exported(strict):
    exported = torch.export.export(network(dropout=0.5), (X,), strict=strict).module()
    assert not torch.equal(exported(X), exported(X))


def test_dropout_in_training_is_traced():
    traced = torch.jit.trace(network(dropout=0.5), (X,), check_trace=False)
    assert not torch.equal(traced(X), traced(X))


def test_dropout_in_training_is_vectorised():
    dropping = network(dropout=0.5, normalization="none")
    same, different = (torch.vmap(dropping, randomness=kind)(torch.stack([X, X])) for kind in ("same", "different"))
    assert torch.equal(*same)
    assert not torch.equal(*different)


@pytest.mark.parametrize("activation", ["relu", "elu", "gelu", "tanh"])
@CONVENTIONS
def test_torchscript_computes_the_same_in_both_modes(activation, variance):
    plain = network(activation=activation, normalize_logits=True, bn_variance=variance)
    scripted = torch.jit.script(copy.deepcopy(plain))
    assert torch.equal(scripted(X), plain(X))
    assert same_weights(scripted, plain)  # the running statistics moved alike
    saved = io.BytesIO()
    torch.jit.save(scripted.eval(), saved)
    saved.seek(0)
    assert torch.equal(torch.jit.load(saved)(X), plain.eval()(X))


def test_torchscript_drops_units():
    scripted = torch.jit.script(network(dropout=0.5))
    assert not torch.equal(scripted(X), scripted(X))
    assert torch.equal(scripted.eval()(X), scripted(X))


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"eps": 0.1, "momentum": 0.3}])
@pytest.mark.parametrize("tracking", [True, False])
def test_the_layer_computes_what_torchs_does(options, tracking):
    ours, theirs = BatchNorm1d(6, **{"eps": 1e-5} | options), nn.BatchNorm1d(6, **options)
    ours.track_running_stats = theirs.track_running_stats = tracking
    for x in (X, 3 * X, X + 1):
        assert torch.equal(ours(x), theirs(x))
    assert same_weights(ours, theirs)
    assert torch.equal(ours.eval()(X), theirs.eval()(X))


@CONVENTIONS
def test_a_network_is_built_and_run_on_fake_tensors(variance):
    with FakeTensorMode():
        built = network(dropout=0.5, bn_variance=variance)
        logits = built(torch.empty(8, 6))
    assert type(logits) is type(built[0].weight) is FakeTensor
    assert logits.shape == (8, 3)


@pytest.mark.parametrize("mode", [True, False])
@CONVENTIONS
def test_fx_keeps_the_layers_as_it_keeps_torchs(variance, mode):
    plain = network(normalize_logits=True, dropout=0.5, bn_variance=variance).train(mode)
    traced = torch.fx.symbolic_trace(copy.deepcopy(plain))
    called = [traced.get_submodule(node.target) for node in traced.graph.nodes if node.op == "call_module"]
    assert [type(layer) for layer in called] == [type(layer) for layer in plain]
    for now in (mode, not mode):
        outputs = []
        for each in (traced.train(now), plain.train(now)):
            torch.manual_seed(0)
            outputs.append(each(X))
        assert torch.equal(*outputs)
    assert same_weights(traced, plain)


def test_fx_looks_into_a_layer_on_its_own_as_into_torchs():
    assert torch.equal(torch.fx.symbolic_trace(network(dropout=0.5)[3].eval())(X), X)
    for layer in (BatchNorm1d(6), nn.BatchNorm1d(6)):
        with pytest.raises(torch.fx.proxy.TraceError):
            torch.fx.symbolic_trace(layer)
