"""The benchmarks run: what they time trains, and the floor is what it says."""

import sys

import numpy as np
import pytest
import torch

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import estimators
import floor
import peers
import tables

INSTALLED_FOR_TESTS = {"torch", "batchnorm", "numba", "scikit-learn"}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, (_, packages) in peers.FRAMEWORKS.items()
        if INSTALLED_FOR_TESTS.issuperset(packages) and name != "PyTorch, compiled"  # which needs a C++ compiler
    ],
)
def test_what_is_timed_trains_an_epoch(name):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (200, 784), dtype=np.uint8), np.arange(200) % 10
    pauses = []
    epoch = peers.FRAMEWORKS[name][0](images, labels, 1, lambda: pauses.append(1))
    epoch()
    epoch()
    assert len(pauses) == (0 if "scikit-learn" in name else 2)


def test_the_floor_counts_the_tutorials_multiply_adds():
    assert floor.Floor((784, 300, 100, 10), 1).multiply_adds == 563_400


def test_the_floor_computes_each_product():
    products = floor.Floor((5, 4, 3), 2)
    products.step()
    first, second = products.weights
    torch.testing.assert_close(products.z[1], products.x[0] @ first.T)
    torch.testing.assert_close(products.z[2], products.x[1] @ second.T)
    torch.testing.assert_close(products.dx[1], products.dz[2] @ second)


@pytest.mark.filterwarnings("ignore")  # defaults that do not converge are part of what is compared
def test_estimators_are_compared_once_and_only_as_they_are(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results.jsonl"
    iris = tables.BENCHMARK["iris"]()
    estimators.measure(iris, 0, results)
    records = estimators.read(results)
    assert len(records) == 5 * 5
    estimators.measure(iris, 0, results)
    assert estimators.read(results) == records
    summary = estimators.summarize(estimators.current(records, [iris], 1))
    assert all(0.9 < score < 1 for score, _, _ in summary["iris"].values())
    assert sum(estimators.ranks(summary["iris"]).values()) == 1 + 2 + 3 + 4 + 5
    estimators.print_tables(summary, {"iris": "classification"})
    assert "| mean rank, all (1) |" in capsys.readouterr().out
    estimators.draw(summary, tmp_path / "figure.svg")
    assert "gradient boosting" in (tmp_path / "figure.svg").read_text()
    monkeypatch.setattr(estimators, "version", lambda package: "99")
    with pytest.raises(SystemExit, match="25 measurements are missing"):
        estimators.current(records, [iris], 1)


def test_no_table_is_both_compared_and_chosen_on():
    sources = [{entry.source for entry in group} for group in (tables._BENCHMARK, tables._DEVELOPMENT)]
    assert len(sources[0]) == 18
    assert len(sources[1]) == 12
    assert not sources[0] & sources[1]
