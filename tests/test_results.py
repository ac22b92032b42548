"""What verbs return: it prints itself, shows itself in a notebook, becomes JSON; lists stay sequences of the same."""

import json

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.results import Result, SequenceResult

BATCHES = [torch.randn(16, 3, generator=torch.Generator().manual_seed(i)) for i in range(3)]


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4, track_running_stats=False))


def frozen():
    network = model()
    bn.freeze(network[1])
    return network


LAYER = nn.BatchNorm1d(1)
VERBS = {
    "diagnose": (bn.Diagnosis, lambda: bn.diagnose(model(), BATCHES)),
    "recalibrate": (bn.Recalibration, lambda: bn.recalibrate(model(), BATCHES)),
    "find_sites": (bn.Sites, lambda: bn.find_sites(model(), BATCHES)),
    "fold": (bn.Folding, lambda: bn.fold(model().eval()).folding),
    "freeze": (bn.Freezing, lambda: bn.freeze(nn.Sequential(nn.BatchNorm1d(3)))),
    "unfreeze": (bn.ChangedLayers, lambda: bn.unfreeze(frozen())),
    "synchronize": (bn.ChangedLayers, lambda: bn.synchronize(model())),
    "unsynchronize": (bn.ChangedLayers, lambda: bn.unsynchronize(model())),
    "track_statistics": (bn.ChangedLayers, lambda: bn.track_statistics(model())),
    "load_keras": (bn.Loading, lambda: bn.load_keras(LAYER, [[2.0], [1.0], [5.0], [9.0]])),
    "load_flax": (bn.Loading, lambda: bn.load_flax(LAYER, {}, {"mean": [0.0], "var": [1.0]})),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_returns_an_exported_result(verb):
    kind, call = VERBS[verb]
    result = call()
    assert type(result) is kind
    assert isinstance(result, Result)
    assert str(result)
    assert "object at 0x" not in str(result) + repr(result)
    page = result._repr_html_()
    assert page.startswith("<")
    assert page.count("<table") == page.count("</table>")
    assert json.loads(result.to_json()) == json.loads(json.dumps(result.to_dict(), allow_nan=False))


def test_every_verb_of_the_toolkit_is_in_the_table():
    from batchnorm import toolkit

    convert = {"convert_kernel", "convert_momentum", "convert_variance"}  # functions of numbers, which return numbers
    types = {name for name in toolkit.__all__ if isinstance(getattr(toolkit, name), type)}
    assert set(toolkit.__all__) - types - convert == set(VERBS)


def test_what_was_a_list_is_a_sequence_of_the_same():
    names = bn.synchronize(model())
    assert names == ["1", "3"]
    assert names != ["1"]
    assert names == ("1", "3")
    assert (len(names), names[0], names[-1], names[:1], "3" in names) == (2, "1", "3", ["1"], True)
    assert list(names) == sorted(names) == ["1", "3"]
    assert isinstance(names, SequenceResult)
    assert not bn.unfreeze(model())
    assert str(bn.unfreeze(model())) == "no layer unfrozen"
    assert str(names) == "layers '1', '3' synchronised"
    assert names.to_dict() == {"action": "synchronised", "layers": ["1", "3"]}
    with pytest.raises(TypeError, match="unhashable"):
        hash(names)


def test_what_is_not_finite_becomes_none_in_json():
    network = nn.Sequential(nn.BatchNorm1d(3, eps=0))
    network[0].running_mean.fill_(float("nan"))
    done = bn.recalibrate(network, BATCHES).to_dict()
    assert done["changes"]["0"]["largest_shift"] is None


def test_names_are_escaped_in_html():
    network = nn.Sequential()
    network.add_module("<b>", nn.BatchNorm1d(3))
    for result in (bn.find_sites(network), bn.recalibrate(network, BATCHES), bn.synchronize(network)):
        assert "<b>&" not in result._repr_html_()
        assert "&lt;b&gt;" in result._repr_html_()


def test_a_run_tells_how_it_went(blobs, tmp_path):
    config = bn.TrainingConfig(hidden_layer_sizes=(4,), epochs=2, batch_size=20)
    network = bn.DenseNetwork.from_config(config, blobs.n_features, blobs.n_classes)
    run = bn.fit(network, blobs, config, out=tmp_path / "run")
    told = json.loads(run.to_json())
    assert told["run"] == str(tmp_path / "run")
    assert told["test"] == run.results["test"]
    assert told["config"]["hidden_layer_sizes"] == [4]
    assert [record["epoch"] for record in told["history"]] == [0, 1]
    assert str(run).startswith("DenseNetwork trained for 2 epochs; test accuracy ")
    assert run._repr_html_().count("<tr>") == (1 + 2) + (1 + 2)  # of the tests, of the history
    loaded = bn.load_run(tmp_path / "run")
    assert loaded.to_dict() == run.to_dict()
    assert str(loaded) == str(run)


def test_an_evaluation_tells_its_figures(blobs):
    network = bn.DenseNetwork(blobs.n_features, (4,), blobs.n_classes)
    evaluation = bn.evaluate(network, blobs.test)
    assert str(evaluation).endswith(" on 30 examples")
    told = json.loads(evaluation.to_json())
    assert told == evaluation.to_dict()
    assert sum(map(sum, told["confusion"])) == 30
    assert evaluation._repr_html_().count("<tr>") == 1 + 3
