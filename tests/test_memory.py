"""Networks larger than memory are refused before they are allocated."""

import dataclasses
import resource

import pytest

import batchnorm as bn
from batchnorm import memory
from batchnorm.training import fit_seeds

HUGE = bn.TrainingConfig(hidden_layer_sizes=(10**7, 10**7))


@pytest.mark.parametrize("sizes", [(10**7, 10**7), (2**31 - 1,) * 2, (2**31 - 1,) * 200])
def test_a_network_beyond_memory_is_refused(sizes):
    config = dataclasses.replace(HUGE, hidden_layer_sizes=sizes)
    with pytest.raises(bn.InputError, match=r"takes at least [\d,.]+ GiB of memory, but there are [\d.]+ GiB: use sma"):
        bn.DenseNetwork.from_config(config, 64, 10)


def test_several_seeds_and_an_estimator_refuse_it_too(blobs, tmp_path):
    with pytest.raises(bn.InputError, match="of memory"):
        fit_seeds(blobs, HUGE, 2, out=tmp_path / "many")
    assert list(tmp_path.iterdir()) == []
    classifier = bn.BatchNormClassifier(hidden_layer_sizes=(10**7, 10**7))
    with pytest.raises(ValueError, match="of memory"):
        classifier.fit([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(
    ("options", "copies"), [({"momentum": 0.0, "nesterov": False}, 2), ({}, 3), ({"optimizer": "adamw"}, 4)]
)
def test_training_takes_gradient_and_state_beside_the_weights(options, copies, monkeypatch):
    config = bn.TrainingConfig(hidden_layer_sizes=(300, 100), **options)
    need = 4 * copies * (784 * 300 + 300 * 100 + 100 * 10)
    monkeypatch.setattr(memory, "available_memory", lambda: need)
    memory.check_training_memory(config, 784, 10)
    monkeypatch.setattr(memory, "available_memory", lambda: need - 1)
    with pytest.raises(bn.InputError, match="784-300-100-10 units"):
        memory.check_training_memory(config, 784, 10)
    monkeypatch.setattr(memory, "available_memory", lambda: None)  # not known
    memory.check_training_memory(config, 784, 10)


def test_the_smallest_limit_counts(tmp_path, monkeypatch):
    have = memory.available_memory()
    assert 2**20 < have < 2**50
    (tmp_path / "limit").write_text("12345\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUPS", [tmp_path / "none", tmp_path / "limit"])
    assert memory.available_memory() == 12345
    monkeypatch.setattr(memory, "_CGROUPS", [])
    monkeypatch.setattr(resource, "getrlimit", lambda which: (999, 999))
    assert memory.available_memory() == 999
