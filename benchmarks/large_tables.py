"""What training on a large CSV file costs: seconds, the peak of resident memory, and the accuracy that comes of it.

The file is made up: half of its columns are normal, the rest log-normal, whole numbers and uniform ones; its two
classes depend on products and thresholds of a dozen of them, with noise. All learn from the same file and are tested on
another one, each in a process of its own: what `batchnorm train` does, scikit-learn's SGDClassifier by `partial_fit` on
scaled chunks, and LightGBM's own reader with its defaults.

python benchmarks/large_tables.py --rows 5000000 --threads 2
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import typer
from pyarrow import csv
from rich.console import Console
from rich.table import Table

_COLUMNS = 50
_ROWS_AT_ONCE = 100_000
_TESTED = 200_000  # rows
_SGD = """
import sys
import pandas as pd
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import StandardScaler

train, test, passes = sys.argv[1:]
chunks = lambda: pd.read_csv(train, chunksize=100_000)
scaler, model = StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)
for chunk in chunks():
    scaler.partial_fit(chunk.drop(columns="y").to_numpy())
for _ in range(int(passes)):
    for chunk in chunks():
        model.partial_fit(scaler.transform(chunk.drop(columns="y").to_numpy()), chunk["y"], classes=[0, 1])
rows = pd.read_csv(test)
print(accuracy_score(rows["y"], model.predict(scaler.transform(rows.drop(columns="y").to_numpy()))))
"""
_LIGHTGBM = """
import sys
import lightgbm
import pandas as pd
from sklearn.metrics import accuracy_score

train, test, threads = sys.argv[1:]
rows = pd.read_csv(test)
place = list(rows.columns).index("y")
options = {"objective": "binary", "num_threads": int(threads), "verbose": -1, "two_round": True, "header": True}
data = lightgbm.Dataset(train, params=options | {"label_column": place})
model = lightgbm.train(options, data)
print(accuracy_score(rows["y"], model.predict(rows.drop(columns="y")) > 0.5))
"""


def main(
    folder: Annotated[Path, typer.Option(help="Where the files are made.")] = Path("large-table"),
    rows: Annotated[int, typer.Option(help="To train on.")] = 5_000_000,
    threads: Annotated[int, typer.Option(help="Of each.")] = os.cpu_count() or 1,
    epochs: Annotated[list[int] | None, typer.Option(help="Of ours, in turn. [default: 2, and its own]")] = None,
) -> None:
    """Make the files, train, print."""
    folder.mkdir(exist_ok=True)
    train, test = folder / f"{rows}.csv", folder / "test.csv"
    if not train.exists():
        write(train, rows, seed=0)
        write(test, _TESTED, seed=1)
    table = Table(title=f"{rows:,} rows of {_COLUMNS} columns, {train.stat().st_size / 1e9:.2f} GB, {threads} threads")
    for heading in ("", "seconds", "peak of resident memory", "test accuracy"):
        table.add_column(heading, justify="right" if heading else "left")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    programs: dict[str, list[object]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as runs:
        for n in epochs or (2, None):
            ours: list[object] = ["-m", "batchnorm", "train", train, "--target", "y", "--test", test, "--json"]
            ours += ["--threads", threads, "--out", f"{runs}/{n}", *([] if n is None else ["--epochs", n])]
            programs[f"batchnorm train, {n or 'its own'} epochs"] = ours
        programs["SGDClassifier.partial_fit, 2 passes"] = ["-c", _SGD, train, test, 2]
        programs["LightGBM"] = ["-c", _LIGHTGBM, train, test, threads]
        for name, arguments in programs.items():
            seconds, peak, said = measured([str(argument) for argument in arguments])
            accuracy = json.loads(said)["test"]["accuracy"] if said.startswith("{") else float(said)
            table.add_row(name, f"{seconds:.0f}", f"{peak / 2**30:.2f} GiB", f"{accuracy:.4f}")
            print(name, f"{seconds:.0f} s", flush=True)
    Console().print(table)


def write(path: Path, n_rows: int, seed: int) -> None:
    """Write a table, a part at a time."""
    random = np.random.default_rng(seed)
    names = [f"x{i}" for i in range(_COLUMNS)]
    schema = pa.schema([(name, pa.float64()) for name in names] + [("y", pa.int64())])
    with path.open("wb") as file:
        file.write((",".join(schema.names) + "\n").encode())  # LightGBM takes quotes for a part of names
        writer = csv.CSVWriter(file, schema, write_options=csv.WriteOptions(include_header=False))
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            cells, labels = drawn(random, min(_ROWS_AT_ONCE, n_rows - start))
            writer.write_table(pa.table([*(pa.array(column) for column in cells.T), pa.array(labels)], schema=schema))


def drawn(random: np.random.Generator, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (rows, columns) and their classes (rows,)."""
    cells = random.normal(size=(n_rows, _COLUMNS))
    cells[:, 25:35] = np.exp(2 * cells[:, 25:35])
    cells[:, 35:42] = random.integers(0, 20, (n_rows, 7))
    cells[:, 42:] = random.random((n_rows, 8))
    x = cells.T
    score = (
        x[0] * x[1] + x[2] - 0.5 * x[3] ** 2 + np.sin(3 * x[4]) + 0.3 * np.log(x[25]) * x[5]
        + 1.5 * (x[35] > 12) * (x[36] < 8) + 2 * np.abs(x[42] - x[43]) + random.logistic(scale=0.5, size=n_rows)
    )  # fmt: skip
    return cells.round(5), (score > 0.4).astype(np.int64)


def measured(arguments: list[str]) -> tuple[float, int, str]:
    """Run Python; return its seconds, the most bytes of memory that it had, and what it printed."""
    begun = time.monotonic()
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)  # in kilobytes on Linux
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise typer.Exit(process.returncode)
    return time.monotonic() - begun, usage.ru_maxrss * 1024, said


if __name__ == "__main__":
    typer.run(main)
