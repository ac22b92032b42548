"""What a training step costs against the work in it: width, depth and batch varied, ours and the floor.

python benchmarks/sweep.py --threads 2 --out docs/pictures/performance-sweep
"""

import json
import os
import statistics
from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from rich.progress import track

import batchnorm as bn
from batchnorm.training.engines.fused import FusedEngine
from batchnorm.training.runs.environment import describe_session
from floor import Floor, microseconds

FEATURES, CLASSES = 784, 10
GRID = [(width, 2, batch) for width in (64, 256, 1024, 4096) for batch in (16, 64, 256, 1024, 4096)]
GRID += [(256, depth, 128) for depth in (1, 2, 4, 8, 16)]


def measure(width: int, depth: int, batch: int, rounds: int, seconds: float) -> dict[str, float]:
    """Return the medians over rounds of our step and of the floor in microseconds, and of their ratio."""
    generator = torch.Generator().manual_seed(0)
    n = max(2 * batch, 1000)
    images = torch.randint(256, (n, FEATURES), dtype=torch.uint8, generator=generator)
    examples = bn.Examples(images, torch.randint(CLASSES, (n,), generator=generator), 1 / 255)
    config = bn.TrainingConfig(
        hidden_layer_sizes=(width,) * depth, activation="elu", normalize_logits=True, batch_size=batch,
        learning_rate=0.01, momentum=0.0, nesterov=False,
    )  # fmt: skip
    engine = FusedEngine(bn.DenseNetwork.from_config(config, FEATURES, CLASSES).train(), examples, config)
    order = np.random.default_rng(0).permutation(n)[:batch]
    floor = Floor([FEATURES, *config.hidden_layer_sizes, CLASSES], batch)
    for call in (floor.step, lambda: engine.step(order, 0.01)):
        microseconds(call, 2)
    n_calls = max(1, round(seconds * 1e6 / microseconds(floor.step, 1)))
    pairs = [
        (microseconds(lambda: engine.step(order, 0.01), n_calls), microseconds(floor.step, n_calls))
        for _ in range(rounds)
    ]
    return {
        "width": width,
        "depth": depth,
        "batch": batch,
        "multiply_adds": floor.multiply_adds,
        "ours": statistics.median(ours for ours, _ in pairs),
        "floor": statistics.median(floor for _, floor in pairs),
        "ratio": statistics.median(ours / floor for ours, floor in pairs),
    }


def draw(rows: list[dict[str, float]], path: Path, title: str) -> None:
    """Draw cost against work, and the ratio below it."""
    rows = sorted(rows, key=lambda row: row["multiply_adds"])
    work = [row["multiply_adds"] for row in rows]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(8, 7), height_ratios=(2, 1), layout="constrained")
    above.loglog(work, [row["floor"] for row in rows], ".", color="0.5", label="floor: the matrix products alone")
    above.loglog(work, [row["ours"] for row in rows], "x", color="C0", label="batchnorm, engine fused")
    above.set(ylabel="µs per step", title=title)
    above.legend()
    widths = sorted({row["width"] for row in rows})
    for i, width in enumerate(widths):
        of_width = [row for row in rows if row["width"] == width]
        below.semilogx(
            [row["multiply_adds"] for row in of_width], [row["ratio"] for row in of_width], "x", color=f"C{i}",
            label=f"width {width}",
        )  # fmt: skip
    below.axhline(1, color="0.5", linewidth=1)
    below.set(xlabel="multiply-adds per step", ylabel="ours / floor", ylim=(0.9, None))
    below.legend(ncols=len(widths))
    figure.savefig(path)


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 5,
    seconds: Annotated[float, typer.Option(help="Per measurement and round.")] = 0.3,
    out: Annotated[Path, typer.Option(help="Where .json and .svg are written.")] = Path("sweep"),
) -> None:
    """Measure, print a Markdown table, write JSON and the figure."""
    torch.set_num_threads(threads)
    rows = [measure(*point, rounds, seconds) for point in track(GRID, "measuring")]
    session = describe_session(torch.device("cpu"), "random numbers")
    out.with_suffix(".json").write_text(
        json.dumps({"session": session, "rounds": rounds, "rows": rows}, indent=1) + "\n"
    )
    draw(rows, out.with_suffix(".svg"), f"784-width×depth-10, plain SGD, {threads} threads, {session['cpu']}")
    print("| width | depth | batch | floor, µs | ours, µs | ours / floor |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['width']} | {row['depth']} | {row['batch']} | {row['floor']:.0f} | {row['ours']:.0f} | "
            f"{row['ratio']:.2f} |"
        )


if __name__ == "__main__":
    typer.run(main)
