"""What `estimators.py` prints and draws of its measurements."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import gmean, rankdata

OURS, BOOSTING = "batchnorm", "gradient boosting"
OTHERS = {"MLP": ["MLP"], "trees": [BOOSTING, "random forest"], "linear": ["linear"]}
# 1: the more the better. Brier: squared differences between probabilities and what came, summed over the classes.
MEASURES = {"accuracy": 1, "log-loss": -1, "Brier": -1, "R²": 1}
SCORE = "accuracy or R²"

Record = dict[str, Any]
Row = dict[str, dict[str, tuple[float, float]]]  # estimator → measure → mean, standard deviation
Summary = dict[str, Row]  # by table


def summarize(records: list[Record]) -> Summary:
    """Return mean and standard deviation over the seeds of each measure and of the seconds, by table and estimator."""
    by_seed: dict[str, Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: defaultdict(list))))
    for record in records:
        for measure in record.keys() & {*MEASURES, "seconds"}:
            by_seed[record["table"]][record["estimator"]][measure][record["seed"]].append(record[measure])

    def mean_and_spread(seeds: dict[int, list[float]]) -> tuple[float, float]:
        means = [np.mean(values) for values in seeds.values()]
        return float(np.mean(means)), float(np.std(means, ddof=1)) if len(means) > 1 else 0.0

    return {
        table: {name: {m: mean_and_spread(seeds) for m, seeds in row.items()} for name, row in rows.items()}
        for table, rows in by_seed.items()
    }


def having(summary: Summary, measure: str) -> Summary:
    """Return the tables that have a measure."""
    return {
        table: row for table, row in summary.items() if measure == SCORE or all(measure in of for of in row.values())
    }


def worth(row: Row, name: str, measure: str) -> float:
    """Return an estimator's mean of a measure, signed so that more is better."""
    if measure == SCORE:
        measure = "accuracy" if "accuracy" in row[name] else "R²"
    return MEASURES[measure] * row[name][measure][0]


def ranks(row: Row, measure: str) -> dict[str, float]:
    """Return each estimator's rank on a table, 1 for the best mean; ties share theirs."""
    return dict(zip(row, rankdata([-worth(row, name, measure) for name in row]).tolist(), strict=True))


def _header(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |\n" + "|---" * len(cells) + "|"


def _better(rows: Summary, rivals: list[str], measure: str) -> list[str]:
    """Return the tables on which one of the rivals is better than ours."""
    return [
        table for table, row in rows.items()
        if any(worth(row, name, measure) > worth(row, OURS, measure) for name in rivals)
    ]  # fmt: skip


def print_tables(summary: Summary) -> None:
    """Print Markdown: measures and fit times by table, then mean ranks, sums of times, and who is better than ours."""
    names = list(next(iter(summary.values())))
    for measure in MEASURES:
        rows = having(summary, measure)
        if rows:
            print(f"\n{measure}, mean ± sd over the seeds\n")
            print(_header("table", *names, "better than ours", "seconds per fit: " + ", ".join(names)))
        for table, row in rows.items():
            best = max(worth(row, name, measure) for name in names)
            cells = [
                ("**{:.4f}** ± {:.4f}" if worth(row, name, measure) == best else "{:.4f} ± {:.4f}").format(
                    *row[name][measure]
                )
                for name in names
            ]
            better = ", ".join(name for name in names if worth(row, name, measure) > worth(row, OURS, measure)) or "–"
            times = " / ".join(f"{row[name]['seconds'][0]:.2f}" for name in names)
            print(f"| {table} | {' | '.join(cells)} | {better} | {times} |")
    print("\n" + _header("", *names))
    for measure in (*MEASURES, SCORE):
        rows = having(summary, measure)
        if rows:
            means = [np.mean([ranks(row, measure)[name] for row in rows.values()]) for name in names]
            print(f"| mean rank, {measure} ({len(rows)}) | " + " | ".join(f"{mean:.2f}" for mean in means) + " |")
    sums = [sum(row[name]["seconds"][0] for row in summary.values()) for name in names]
    print("| seconds: sum of the mean fits | " + " | ".join(f"{total:.2f}" for total in sums) + " |\n")
    for kind, rivals in OTHERS.items():
        for measure in (SCORE, "log-loss"):
            rows = having(summary, measure)
            better = _better(rows, rivals, measure)
            print(
                f"- {kind} better than {OURS} by {measure} on {len(better)} of {len(rows)}: {', '.join(better) or '–'}"
            )


def print_comparison(group: str, first: list[Record], second: list[Record]) -> None:
    """Print Markdown: two versions of ours by table, then mean ranks, wins, and the ratio of their fit times."""
    summary = summarize([*first, *second])
    old, new = first[0]["estimator"], second[0]["estimator"]
    print(f"\n{group}: {old} → {new}\n\n" + _header("table", *MEASURES, f"seconds {new} / {old}"))
    ratios = defaultdict(list)
    for one, other in zip(first, second, strict=True):
        ratios[one["table"]].append(other["seconds"] / one["seconds"])
    for table, row in summary.items():
        cells = [
            f"{row[old][measure][0]:.4f} → {row[new][measure][0]:.4f}" if measure in row[old] else ""
            for measure in MEASURES
        ]
        print(f"| {table} | {' | '.join(cells)} | {gmean(ratios[table]):.2f} |")
    print("\n" + _header("", "tables", f"mean rank {old}", f"mean rank {new}", f"{new} better on", f"{old} better on"))
    for measure in MEASURES:
        rows = having(summary, measure)
        if rows:
            placed = [ranks(row, measure) for row in rows.values()]
            means = [f"{np.mean([ranking[name] for ranking in placed]):.2f}" for name in (old, new)]
            wins = [str(sum(ranking[name] == 1 for ranking in placed)) for name in (new, old)]
            print(f"| {measure} | {len(rows)} | {' | '.join(means)} | {' | '.join(wins)} |")
    ratio = gmean([gmean(of) for of in ratios.values()])
    print(f"\nseconds per fit, {new} / {old}, geometric mean of {len(ratios)} tables: {ratio:.2f}")


def draw(summary: Summary, path: Path) -> None:
    """Draw mean rank against time: the better and the faster, the further down and to the left."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "batchnorm", "svg.fonttype": "none"}
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name in next(iter(summary.values())):
        rank = np.mean([ranks(row, SCORE)[name] for row in summary.values()])
        seconds = sum(row[name]["seconds"][0] for row in summary.values())
        axes.plot(seconds, rank, "o", markersize=9)
        axes.annotate(name, (seconds, rank), xytext=(0, 8), textcoords="offset points", ha="center")
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.2)
    axes.set_xlabel("seconds: sum over the tables of the mean time of a fit")
    axes.set_ylabel(f"mean rank on {len(summary)} tables")
    figure.savefig(path, metadata={"Date": None})
