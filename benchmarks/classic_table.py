"""The tutorial's published figures against ours: Markdown tables from a folder that `batchnorm train --seeds` made.

batchnorm train mnist --recipe classic --seeds 20 --out runs/classic
python benchmarks/classic_table.py runs/classic
"""

import json
import random
import statistics
from pathlib import Path

import typer

# The output of the tutorial's one run: epoch, accuracy on the training set, accuracy on the validation set.
PUBLISHED = [
    (0, 0.9162, 0.9152),
    (5, 0.971091, 0.9688),
    (10, 0.984273, 0.9772),
    (15, 0.990546, 0.9786),
    (20, 0.993237, 0.981),
    (25, 0.996, 0.9812),
    (30, 0.996582, 0.9778),
    (35, 0.997964, 0.9798),
    (39, 0.998709, 0.9822),
]
PUBLISHED_TEST = 0.9811


def rows(summary: dict) -> list[tuple[str, float | None, dict]]:
    """Return for each figure its name, what was published (None: nothing), and our mean, sd and values."""
    by_epoch = {row["epoch"]: row for row in summary["evaluations"]}
    figures: list[tuple[str, float | None, dict]] = []
    for epoch, train, validation in PUBLISHED:
        figures.append((f"train, epoch {epoch}", train, by_epoch[epoch]["train_accuracy"]))
        figures.append((f"validation, epoch {epoch}", validation, by_epoch[epoch]["validation_accuracy"]))
    figures.append(("test, running averages", PUBLISHED_TEST, summary["test_accuracy"]["running"]))
    figures.append(("test, population statistics", None, summary["test_accuracy"]["population"]))
    return figures


def outside(value: float, others: list[float]) -> bool:
    """Tell whether a value lies outside mean ± 3 standard deviations of others."""
    return abs(value - statistics.fmean(others)) > 3 * statistics.stdev(others)


def false_alarms(values: list[list[float]], n_others: int, draws: int = 4000) -> float:
    """Return how often one of our own runs, held against others of ours, has a figure outside.

    `values` holds for each published figure our runs' values. Such a run is a reproduction without any doubt: this is
    how often the test fails by chance alone.
    """
    rng, alarms = random.Random(0), 0
    for _ in range(draws):
        one, *others = rng.sample(range(len(values[0])), 1 + n_others)
        alarms += any(outside(of_figure[one], [of_figure[i] for i in others]) for of_figure in values)
    return alarms / draws


def main(folder: Path) -> None:
    """Print both tables for FOLDER, and what chance makes of the comparison."""
    summary = json.loads((folder / "summary.json").read_text())
    figures = rows(summary)
    print("| accuracy | published | mean ± sd | distance in sd |")
    print("|---|---|---|---|")
    for name, published, ours in figures:
        of_ours = f"{ours['mean']:.5f} ± {ours['sd']:.5f}"
        if published is None:
            print(f"| {name} | – | {of_ours} | – |")
        else:
            print(f"| {name} | {published:g} | {of_ours} | {(published - ours['mean']) / ours['sd']:+.1f} |")
    print()
    print("| accuracy by seed |", " | ".join(str(seed) for seed in summary["seeds"]), "|")
    print("|---" * (len(summary["seeds"]) + 1) + "|")
    for name, _, ours in figures:
        print(f"| {name} |", " | ".join(f"{value:.4f}" for value in ours["values"]), "|")
    print()
    published_ones = [(name, published, ours["values"]) for name, published, ours in figures if published is not None]
    n_seeds = len(summary["seeds"])
    for start in range(0, n_seeds, 5) if n_seeds > 5 else []:
        names = [name for name, published, v in published_ones if outside(published, v[start : start + 5])]
        print(f"seeds {start} to {start + 4} alone: outside mean ± 3 sd are {names}")
    for n_others in (5, n_seeds - 1) if n_seeds > 5 else []:
        share = false_alarms([values for _, _, values in published_ones], n_others)
        print(f"a run of ours held against {n_others} others of ours has a figure outside in {share:.0%} of draws")


if __name__ == "__main__":
    typer.run(main)
