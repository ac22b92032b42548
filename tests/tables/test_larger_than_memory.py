"""Tables that are larger than memory: what is said of 2**29 bytes is tested with fewer."""

import errno
import gc
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchnorm.errors import InputError
from batchnorm.tables import Split, keeping, train_table
from table_cases import TABLES, table_file, write

SHORT = {"epochs": 2, "hidden_layer_sizes": (8,), "random_state": 0}


@pytest.fixture
def small(monkeypatch):
    """Have a few rows be more than memory holds, and blocks be small."""
    monkeypatch.setattr(keeping, "IN_MEMORY", 1000)
    monkeypatch.setattr(keeping, "BLOCK_BYTES", 5000)


def files_open():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("name", TABLES)
def test_the_same_run_as_in_memory(name, tmp_path, request):
    """To the bit, whatever its columns are."""
    _, target, task, _, options = TABLES[name]
    drop = options[1:] * (options[:1] == ["--drop"])
    path = table_file(name, tmp_path)
    there = train_table([path], [target], task=task, drop=drop, parameters=SHORT)
    request.getfixturevalue("small")
    told = []
    here = train_table([path], [target], task=task, drop=drop, parameters=SHORT, tell=told.append)
    assert any("scratch file" in text for text in told)
    assert here.estimator._to_file() == there.estimator._to_file()
    assert here.results["profile"] == there.results["profile"]
    scores, expected = here.results["test"], there.results["test"]
    assert scores.keys() == expected.keys()
    for key, value in scores.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-5)


def test_rows_without_a_target_and_groups_and_weights(small, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=400).round(2),
            "kind": rng.choice(["a", "b", None], 400),
            "who": rng.integers(0, 40, 400),
            "often": rng.integers(1, 4, 400),
            "y": rng.choice([0.5, 1.5, 2.5, np.nan], 400),
        }
    )
    path = write(frame, tmp_path / "t.csv")
    asked = {"task": "regression", "sample_weight": "often", "parameters": SHORT}
    run = train_table([path], ["y"], split=Split(group="who"), **asked)
    n = frame["y"].notna().sum()
    assert run.results["training_rows"] + run.results["test"]["rows"] == n
    assert any(f"{400 - n} of 400 rows have no y" in text for text in run.results["notices"])


def test_the_command_line_tells_of_it_and_evaluates_again(small, command, tmp_path):
    path = table_file("weather", tmp_path)
    short = ["--epochs", "2", "--hidden-layer-sizes", "8"]
    code, out, err = command("train", path, "--target", "weather", *short, "--out", "runs/one")
    assert (code, err) == (0, "")
    assert "the rows take more than 0.0 GiB of memory: they go to a scratch file in" in out
    assert "the scratch file has 1,461 rows in 0.0 GiB" in out
    assert sorted(path.name for path in Path("runs").iterdir()) == ["one"]
    code, out, err = command("evaluate", "runs/one", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["accuracy"] == json.loads(Path("runs/one/results.json").read_text())["test"]["accuracy"]


@pytest.mark.parametrize("is_small", [True, False])
def test_categories_stay_categories(is_small, tmp_path, request):
    """Those of Parquet, whose dictionary each part of a file may have anew."""
    if is_small:
        request.getfixturevalue("small")
    texts = [f"v{i % 7}" for i in range(300)] + [f"w{i}" for i in range(300)]
    table = pa.table({"c": pa.array(texts).dictionary_encode(), "y": np.arange(600) % 2})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100)
    run = train_table([tmp_path / "t.parquet"], ["y"], parameters=SHORT)
    assert run.results["profile"]["columns"][0]["kind"] == "category"
    assert "c=v3" in run.estimator.network_feature_names_


def test_infinite_numbers_are_refused_with_their_column(small, tmp_path):
    frame = pd.DataFrame({"a": np.arange(500.0), "b": [1.0, np.inf] * 250, "y": np.arange(500) % 2})
    with pytest.raises(InputError, match="infinity in column 'b'"):
        train_table([write(frame, tmp_path / "t.parquet")], ["y"], parameters=SHORT)


def test_nothing_is_left_open(small, tmp_path):
    path = table_file("iris", tmp_path)
    train_table([path], ["target"], parameters=SHORT)
    gc.collect()
    before = files_open()
    train_table([path], ["target"], parameters=SHORT)
    gc.collect()
    assert files_open() == before


def test_a_full_disk_is_told(small, command, tmp_path, monkeypatch):
    class Full:
        def __init__(self, **_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", Full)
    code, out, err = command("train", table_file("iris", tmp_path), "--target", "target", "--out", "run", "--quiet")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "cannot be written (No space left on device)" in err
    assert not Path("run").exists()
