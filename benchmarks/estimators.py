"""Our estimators beside scikit-learn's, on the tables of `tables.py`: scores, ranks, fit time, defaults for everybody.

Every table is split five-fold, once per seed, and the estimators are fitted in turn on each part, so that a slow moment
of the machine falls on all of them. Preprocessing is the same for all, fitted on the training part, and not timed. A
fit that was measured is in the file of results, and is not repeated unless its parameters, the version of scikit-learn
or, for ours, the source have changed.

pip install -c constraints.txt ".[all]" -r benchmarks/requirements-estimators.txt
python benchmarks/estimators.py --threads 2
python benchmarks/estimators.py --group choosing --only-ours --label mine --before ../other/src
python benchmarks/estimators.py --group choosing --compare mine yours
"""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import typer
from rich.progress import track
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neural_network import MLPClassifier, MLPRegressor
from threadpoolctl import threadpool_limits

import batchnorm
from batchnorm import BatchNormClassifier, BatchNormRegressor
from estimators_report import BOOSTING, OURS, Record, draw, print_comparison, print_tables, summarize
from tables import GROUPS, Table, preprocessor

N_FOLDS = 5
ESTIMATORS: dict[str, dict[str, type[BaseEstimator]]] = {
    "classification": {
        OURS: BatchNormClassifier,
        "MLP": MLPClassifier,
        BOOSTING: HistGradientBoostingClassifier,
        "random forest": RandomForestClassifier,
        "linear": LogisticRegression,
    },
    "regression": {
        OURS: BatchNormRegressor,
        "MLP": MLPRegressor,
        BOOSTING: HistGradientBoostingRegressor,
        "random forest": RandomForestRegressor,
        "linear": Ridge,
    },
}
NAMES = list(ESTIMATORS["classification"])
NOW, BEFORE = "now", "before"  # labels of versions of ours


class Parts(NamedTuple):
    """A table's training and test part, preprocessed."""

    inputs: Any
    target: np.ndarray
    test_inputs: Any
    test_target: np.ndarray


@cache
def load(name: str) -> Table:
    """Return a table of whatever group."""
    return {name: loader for tables in GROUPS.values() for name, loader in tables.items()}[name]()


def make(table: Table, name: str, seed: int) -> BaseEstimator:
    """Return an estimator with its defaults."""
    estimator = ESTIMATORS[table.task][name](random_state=seed)
    one_output_only = isinstance(estimator, HistGradientBoostingRegressor)
    return MultiOutputRegressor(estimator) if one_output_only and table.target.ndim > 1 else estimator


@cache
def source(package: Path) -> str:
    """Return what a measurement of ours is of: a digest of the package's source, which holds the defaults."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    return f"batchnorm {digest.hexdigest()[:12]}"


def described(table: Table, name: str, seed: int) -> str:
    """Return what a measurement is of: our source, or all parameters and the version of scikit-learn."""
    if name == OURS:
        return source(Path(batchnorm.__file__).parent)
    return f"scikit-learn {version('scikit-learn')} {sorted(make(table, name, seed).get_params().items())}"


def split(table: Table, seed: int, fold: int) -> Parts:
    """Return a part for tests and the rest for training; of each class its share."""
    kind = StratifiedKFold if table.task == "classification" else KFold
    splits = kind(N_FOLDS, shuffle=True, random_state=seed).split(table.inputs, table.target)
    train, test = list(splits)[fold]
    prepare = preprocessor(table)
    inputs = prepare.fit_transform(table.inputs.iloc[train])
    return Parts(inputs, table.target[train], prepare.transform(table.inputs.iloc[test]), table.target[test])


def fit(table: Table, name: str, seed: int, parts: Parts) -> Record:
    """Fit an estimator, and return its seconds and the measures of its predictions."""
    if name == BOOSTING and issparse(parts.inputs):  # which it refuses
        parts = parts._replace(inputs=parts.inputs.toarray(), test_inputs=parts.test_inputs.toarray())
    estimator = make(table, name, seed)
    begun = time.perf_counter()
    estimator.fit(parts.inputs, parts.target)
    record: Record = {"seconds": time.perf_counter() - begun}
    score = float(estimator.score(parts.test_inputs, parts.test_target))
    if table.task == "regression":
        return record | {"R²": score}
    # In one precision, as the log-loss of a probability of 0 depends on it.
    probabilities = estimator.predict_proba(parts.test_inputs).astype(np.float64)
    classes = np.arange(table.target.max() + 1)
    squares = (probabilities - (parts.test_target[:, None] == classes)) ** 2
    loss = float(log_loss(parts.test_target, probabilities, labels=classes))
    return record | {"accuracy": score, "log-loss": loss, "Brier": float(squares.sum(axis=1).mean())}


def prepare_process(threads: int) -> None:
    """Set the threads of every library, and load what the first fit would wait for."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    warnings.simplefilter("ignore")  # defaults that do not converge are part of what is compared
    inputs = np.random.default_rng(0).normal(size=(64, 2))
    BatchNormClassifier().fit(inputs, inputs[:, 0] > 0)
    BatchNormRegressor().fit(inputs, inputs[:, 0])


class OtherVersion:
    """Our estimators as another folder of sources has them, in a process of its own."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.what = source((folder / "batchnorm").resolve())
        path = [str(folder.resolve()), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"import estimators; estimators.serve({threads})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def fit(self, table: Table, seed: int, fold: int) -> Record:
        """Do what `fit` does, there."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([table.name, seed, fold]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise SystemExit(f"the process of the other version ended at {table.name}; see its message above")
        record: Record = json.loads(answer)
        if record.pop("what") != self.what:
            raise SystemExit("the process of the other version imported another batchnorm than the one in --before")
        return record

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve(threads: int) -> None:
    """Fit ours on what `OtherVersion` asks for, until it closes."""
    prepare_process(threads)
    for line in sys.stdin:
        name, seed, fold = json.loads(line)
        table = load(name)
        record = fit(table, OURS, seed, split(table, seed, fold)) | {"what": described(table, OURS, seed)}
        print(json.dumps(record), flush=True)


def measure(
    table: Table, seed: int, results: Path, label: str = NOW, before: OtherVersion | None = None, names: Any = NAMES
) -> None:
    """Fit every estimator on every part of a table, and append what came to the file of results."""
    wanted = [(name, label if name == OURS else "", described(table, name, seed)) for name in names]
    if before:
        wanted.insert(0, (OURS, BEFORE, before.what))
    done = {(r["table"], r["seed"], r["fold"], r["estimator"], r["label"], r["what"]) for r in read(results)}
    for fold in range(N_FOLDS):
        missing = [run for run in wanted if (table.name, seed, fold, *run) not in done]
        if any(name == OURS for name, _, _ in missing):  # two versions are timed one after the other, or not at all
            missing = [run for run in wanted if run[0] == OURS or run in missing]
        parts = split(table, seed, fold) if missing else None
        for name, version_label, what in missing:
            record = {"table": table.name, "seed": seed, "fold": fold, "estimator": name, "label": version_label}
            other = before if version_label == BEFORE else None
            record |= other.fit(table, seed, fold) if other else fit(table, name, seed, parts)
            with results.open("a") as file:
                file.write(json.dumps(record | {"what": what}) + "\n")


def read(results: Path) -> list[Record]:
    """Return what was measured so far; lines of before there were labels and log-losses are passed over."""
    records = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return [record for record in records if "label" in record]


def current(records: list[Record], tables: list[Table], seeds: int, label: str = NOW) -> list[Record]:
    """Return the records of today's estimators, all of them, on these tables and seeds."""
    wanted = {
        (table.name, seed, fold, name): described(table, name, seed)
        for table in tables for seed in range(seeds) for fold in range(N_FOLDS) for name in NAMES
    }  # fmt: skip
    found = {
        (r["table"], r["seed"], r["fold"], r["estimator"]): r for r in records if r["label"] in ("", label)
    }  # fmt: skip
    missing = [key for key, what in wanted.items() if found.get(key, {}).get("what") != what]
    if missing:
        raise SystemExit(f"{len(missing)} measurements are missing, the first of {missing[0]}")
    return [found[key] for key in wanted]


def labelled(records: list[Record], tables: list[Table], seeds: int, label: str) -> list[Record]:
    """Return the newest records of our estimators with a label, under the name of the label."""
    found = {(r["table"], r["seed"], r["fold"]): r | {"estimator": label} for r in records if r["label"] == label}
    wanted = [(table.name, seed, fold) for table in tables for seed in range(seeds) for fold in range(N_FOLDS)]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise SystemExit(f"{len(missing)} measurements of {label!r} are missing, the first of {missing[0]}")
    if len({found[key]["what"] for key in wanted}) > 1:
        raise SystemExit(f"measurements of {label!r} are of more than one source: measure again what is older")
    return [found[key] for key in wanted]


def print_environment(threads: int, seeds: int) -> None:
    """Print the machine and the versions."""
    from batchnorm.training.runs.environment import describe_session  # which earlier versions may not have

    cpu = describe_session(torch.device("cpu"), "")["cpu"]
    print(f"{cpu}, {threads} threads, Python {platform.python_version()}, {N_FOLDS} folds, {seeds} seeds")
    print(", ".join(f"{package} {version(package)}" for package in ("batchnorm", "torch", "numba", "scikit-learn")))


def main(
    threads: Annotated[int, typer.Option(help="Of every library.")] = 2,
    seeds: Annotated[int, typer.Option(help="How often each table is split and fitted.")] = 3,
    group: Annotated[Literal[*GROUPS], typer.Option(help="Of tables.")] = "benchmark",
    tables: Annotated[str, typer.Option(help="Names out of the group with commas between them; all by default.")] = "",
    results: Annotated[Path, typer.Option(help="Where measurements are kept.")] = Path("estimators.jsonl"),
    figure: Annotated[Path | None, typer.Option(help="An SVG file to draw rank against time into.")] = None,
    only_ours: Annotated[bool, typer.Option("--only-ours", help="Fit no others.")] = False,
    label: Annotated[str, typer.Option(help="Under which measurements of ours are kept.")] = NOW,
    before: Annotated[
        Path | None, typer.Option(help=f"Sources of another version, fitted in turn with ours; its label: {BEFORE}.")
    ] = None,
    compare: Annotated[
        tuple[str, str] | None, typer.Option(help="Two labels: fit nothing, compare what was measured.")
    ] = None,
) -> None:
    """Measure what is not measured yet, then print."""
    if label in ("", BEFORE):
        raise typer.BadParameter(f"label: got {label!r}, which is taken; name it otherwise")
    names = tables.split(",") if tables else list(GROUPS[group])
    if strangers := ", ".join(name for name in names if name not in GROUPS[group]):
        raise typer.BadParameter(
            f"tables: got {strangers}, not of the group {group}; it has {', '.join(GROUPS[group])}"
        )
    chosen = [load(name) for name in names]
    if not compare:
        prepare_process(threads)
        other = OtherVersion(before, threads) if before else None
        for table in track(chosen, "tables"):
            for seed in range(seeds):
                measure(table, seed, results, label, other, [OURS] if only_ours else NAMES)
        if other:
            other.close()
        print_environment(threads, seeds)
    records = read(results)
    if not compare and not only_ours:
        summary = summarize(current(records, chosen, seeds, label))
        print_tables(summary)
        if figure:
            draw(summary, figure)
    pair = compare or ((BEFORE, label) if before else None)
    if pair:
        print_comparison(group, *(labelled(records, chosen, seeds, of) for of in pair))


if __name__ == "__main__":
    typer.run(main)
