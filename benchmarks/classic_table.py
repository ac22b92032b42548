"""The tutorial's published figures against ours: Markdown tables from a folder that `batchnorm train --seeds` made.

batchnorm train mnist --recipe classic --seeds 20 --out runs/classic
python benchmarks/classic_table.py runs/classic
"""

import json
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


def main(folder: Path) -> None:
    """Print both tables for FOLDER."""
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


if __name__ == "__main__":
    typer.run(main)
