"""Our estimators beside scikit-learn's, on the tables of `tables.py`: score, rank and fit time, defaults for everybody.

Every table is split five-fold, once per seed, and the estimators are fitted in turn on each part, so that a slow moment
of the machine falls on all of them. Preprocessing is the same for all, fitted on the training part, and not timed. A
fit that was measured is in the file of results, and is not repeated unless parameters or version have changed.

pip install -c constraints.txt ".[all]" -r benchmarks/requirements-estimators.txt
python benchmarks/estimators.py --threads 2
"""

import json
import platform
import time
import warnings
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.progress import track
from scipy.stats import rankdata
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.training.runs.environment import describe_session
from tables import BENCHMARK, Table, preprocessor

N_FOLDS = 5
OURS, MLP = "batchnorm", "MLP"
ESTIMATORS: dict[str, dict[str, type[BaseEstimator]]] = {
    "classification": {
        OURS: BatchNormClassifier,
        MLP: MLPClassifier,
        "gradient boosting": HistGradientBoostingClassifier,
        "random forest": RandomForestClassifier,
        "linear": LogisticRegression,
    },
    "regression": {
        OURS: BatchNormRegressor,
        MLP: MLPRegressor,
        "gradient boosting": HistGradientBoostingRegressor,
        "random forest": RandomForestRegressor,
        "linear": Ridge,
    },
}
NAMES = list(ESTIMATORS["classification"])


def make(task: str, name: str, seed: int, n_outputs: int) -> BaseEstimator:
    """Return an estimator with its defaults."""
    estimator = ESTIMATORS[task][name](random_state=seed)
    one_output_only = isinstance(estimator, HistGradientBoostingRegressor)
    return MultiOutputRegressor(estimator) if one_output_only and n_outputs > 1 else estimator


def described(estimator: BaseEstimator) -> str:
    """Return what a measurement is of: all parameters and the version of the package."""
    package = type(estimator).__module__.partition(".")[0].replace("sklearn", "scikit-learn")
    return f"{package} {version(package)} {sorted(estimator.get_params().items())}"


def folds(table: Table, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return training and test rows of each part; of each class its share."""
    kind = StratifiedKFold if table.task == "classification" else KFold
    return list(kind(N_FOLDS, shuffle=True, random_state=seed).split(table.inputs, table.target))


def measure(table: Table, seed: int, results: Path) -> None:
    """Fit every estimator on every part of a table, and append score and seconds to the file of results."""
    n_outputs = 1 if table.target.ndim == 1 else table.target.shape[1]
    estimators = {name: make(table.task, name, seed, n_outputs) for name in NAMES}
    done = {(r["table"], r["seed"], r["fold"], r["what"]) for r in read(results)}
    for fold, (train, test) in enumerate(folds(table, seed)):
        missing = {n: e for n, e in estimators.items() if (table.name, seed, fold, described(e)) not in done}
        if not missing:
            continue
        prepare = preprocessor(table)
        inputs, test_inputs = (
            prepare.fit_transform(table.inputs.iloc[train]),
            prepare.transform(table.inputs.iloc[test]),
        )
        for name, estimator in missing.items():
            record = {"table": table.name, "seed": seed, "fold": fold, "estimator": name, "what": described(estimator)}
            begun = time.perf_counter()
            estimator.fit(inputs, table.target[train])
            record["seconds"] = time.perf_counter() - begun
            record["score"] = float(estimator.score(test_inputs, table.target[test]))
            with results.open("a") as file:
                file.write(json.dumps(record) + "\n")


def read(results: Path) -> list[dict[str, Any]]:
    """Return what was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def current(records: list[dict[str, Any]], tables: list[Table], seeds: int) -> list[dict[str, Any]]:
    """Return the records of today's estimators, all of them, on these tables and seeds."""
    wanted = {
        (table.name, seed, fold, name): described(make(table.task, name, seed, table.target.ndim))
        for table in tables for seed in range(seeds) for fold in range(N_FOLDS) for name in NAMES
    }  # fmt: skip
    found = {(r["table"], r["seed"], r["fold"], r["estimator"]): r for r in records}
    missing = [key for key, what in wanted.items() if found.get(key, {}).get("what") != what]
    if missing:
        raise SystemExit(f"{len(missing)} measurements are missing, the first of {missing[0]}")
    return [found[key] for key in wanted]


def summarize(records: list[dict[str, Any]]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Return mean score, its standard deviation over the seeds, and mean fit time, by table and estimator."""
    by_seed: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    seconds = defaultdict(list)
    for record in records:
        key = record["table"], record["estimator"]
        by_seed[key][record["seed"]].append(record["score"])
        seconds[key].append(record["seconds"])
    summary: dict[str, dict[str, tuple[float, float, float]]] = {name: {} for name in BENCHMARK}
    for (table, estimator), scores in by_seed.items():
        means = [np.mean(values) for values in scores.values()]
        spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
        summary[table][estimator] = float(np.mean(means)), spread, float(np.mean(seconds[table, estimator]))
    return {table: row for table, row in summary.items() if row}


def ranks(row: dict[str, tuple[float, float, float]]) -> dict[str, float]:
    """Return each estimator's rank on a table, 1 for the best mean score; ties share theirs."""
    return dict(zip(NAMES, rankdata([-row[name][0] for name in NAMES]).tolist(), strict=True))


def print_tables(summary: dict[str, dict[str, tuple[float, float, float]]], tasks: dict[str, str]) -> None:
    """Print Markdown: scores and fit times by table, then mean ranks and sums of times."""
    head = "| table | " + " | ".join(NAMES) + " | better than ours | seconds per fit: " + ", ".join(NAMES) + " |"
    for task in ESTIMATORS:
        print(f"\n{task}: {'accuracy' if task == 'classification' else 'R²'}, mean ± sd over the seeds\n")
        print(head + "\n" + "|---" * (len(NAMES) + 3) + "|")
        for table, row in summary.items():
            if tasks[table] == task:
                best = max(row[name][0] for name in NAMES)
                cells = [
                    ("**{:.4f}** ± {:.4f}" if row[name][0] == best else "{:.4f} ± {:.4f}").format(*row[name])
                    for name in NAMES
                ]
                better = ", ".join(name for name in NAMES if row[name][0] > row[OURS][0]) or "–"
                times = " / ".join(f"{row[name][2]:.2f}" for name in NAMES)
                print(f"| {table} | {' | '.join(cells)} | {better} | {times} |")
    print("\n| | " + " | ".join(NAMES) + " |\n" + "|---" * (len(NAMES) + 1) + "|")
    for task in (*ESTIMATORS, "all"):
        rows = [row for table, row in summary.items() if task in (tasks[table], "all")]
        if rows:
            means = [np.mean([ranks(row)[name] for row in rows]) for name in NAMES]
            sums = [sum(row[name][2] for row in rows) for name in NAMES]
            print(f"| mean rank, {task} ({len(rows)}) | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
            print(f"| seconds, {task}: sum of the mean fits | " + " | ".join(f"{total:.2f}" for total in sums) + " |")
    wins = sum(row[OURS][0] > row[MLP][0] for row in summary.values())
    trees = sum(row[OURS][0] > max(row["gradient boosting"][0], row["random forest"][0]) for row in summary.values())
    print(f"\n{OURS} scores above {MLP} on {wins} of {len(summary)} tables, above both kinds of trees on {trees}.")


def draw(summary: dict[str, dict[str, tuple[float, float, float]]], path: Path) -> None:
    """Draw mean rank against time: the better and the faster, the further down and to the left."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "batchnorm", "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in NAMES:
        rank = np.mean([ranks(row)[name] for row in summary.values()])
        seconds = sum(row[name][2] for row in summary.values())
        axes.plot(seconds, rank, "o", markersize=9)
        axes.annotate(name, (seconds, rank), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel("seconds: sum over the tables of the mean time of a fit")
    axes.set_ylabel(f"mean rank on {len(summary)} tables")
    figure.savefig(path, metadata={"Date": None})


def main(
    threads: Annotated[int, typer.Option(help="Of every library.")] = 2,
    seeds: Annotated[int, typer.Option(help="How often each table is split and fitted.")] = 3,
    tables: Annotated[str, typer.Option(help="Names with commas between them; all by default.")] = "",
    results: Annotated[Path, typer.Option(help="Where measurements are kept.")] = Path("estimators.jsonl"),
    figure: Annotated[Path | None, typer.Option(help="An SVG file to draw rank against time into.")] = None,
) -> None:
    """Measure what is not measured yet, then print."""
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")  # defaults that do not converge are part of what is compared
    loaded = [BENCHMARK[name]() for name in (tables.split(",") if tables else BENCHMARK)]
    with threadpool_limits(threads):
        for table in track(loaded, "tables"):
            for seed in range(seeds):
                measure(table, seed, results)
    summary = summarize(current(read(results), loaded, seeds))
    tasks = {table.name: table.task for table in loaded}
    cpu = describe_session(torch.device("cpu"), "")["cpu"]
    versions = [f"{package} {version(package)}" for package in ("batchnorm", "torch", "numba", "scikit-learn")]
    print(f"{cpu}, {threads} threads, Python {platform.python_version()}, {N_FOLDS} folds, {seeds} seeds")
    print(", ".join(versions))
    print_tables(summary, tasks)
    if figure:
        draw(summary, figure)


if __name__ == "__main__":
    typer.run(main)
