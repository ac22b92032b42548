"""What looks into the layers, and the page of a run, cost: the recipe `classic` on MNIST without and with them.

Each training is in a process of its own, which has to import what a page needs; the kinds take turns, and a round
begins with another one each time. Where others' work makes rounds differ by more than what is measured, the last lines
say what looks and page took within their own training.

python benchmarks/looking.py --threads 2 --rounds 5
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track

_KINDS = ("without", "looks", "report")


def train(kind: str, epochs: int, threads: int) -> dict[str, float]:
    """Train once, and return how long it took, and how long the processor was at it, in seconds."""
    import torch

    torch.set_num_threads(threads)
    import batchnorm as bn

    looking = _timed_looks()
    dataset, config = bn.load_dataset("mnist"), replace(bn.recipes["classic"], epochs=epochs)
    with tempfile.TemporaryDirectory() as folder:
        _run(bn.load_dataset("digits"), replace(config, epochs=1), Path(folder) / "warm", looks=False)
        looking.clear()
        begun, busy = time.perf_counter(), time.process_time()
        run = _run(dataset, config, Path(folder) / "run", looks=kind != "without")
        trained, trained_busy = time.perf_counter(), time.process_time()
        if kind == "report":
            bn.write_report(run, dataset)
        ended, ended_busy = time.perf_counter(), time.process_time()
    return {
        "seconds": ended - begun,
        "cpu seconds": ended_busy - busy,
        "seconds of the page": ended - trained,
        "cpu seconds of the page": ended_busy - trained_busy,
        "seconds of the looks": sum(looking),
    }


def _timed_looks() -> list[float]:
    """Return a list that takes up how long each part of a look takes from now on."""
    from batchnorm.dynamics import Observer
    from batchnorm.training.runs import RunFolder

    took: list[float] = []

    def timed(method):
        def run(*arguments):
            begun = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                took.append(time.perf_counter() - begun)

        return run

    for owner, name in ((Observer, "before_last_step"), (Observer, "look"), (RunFolder, "save_looks")):
        setattr(owner, name, timed(getattr(owner, name)))
    return took


def _run(dataset, config, folder, *, looks):
    import torch

    import batchnorm as bn

    torch.manual_seed(0)
    network = bn.DenseNetwork.from_config(config, dataset.n_features, dataset.n_classes)
    return bn.fit(network, dataset, config, out=folder, observe=looks)


def main(
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 5,
    epochs: Annotated[int, typer.Option(help="Of a training.")] = 40,
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("looking.json"),
) -> None:
    """Train in turns, print medians and ratios, write JSON."""
    turns = [kind for i in range(rounds) for kind in (*_KINDS[i % 3 :], *_KINDS[: i % 3])]
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    spawn = multiprocessing.get_context("spawn")
    for kind in track(turns, "training"):
        with ProcessPoolExecutor(1, mp_context=spawn) as pool:
            found[kind].append(pool.submit(train, kind, epochs, threads).result())
    for figure in ("seconds", "cpu seconds"):
        base = [run[figure] for run in found["without"]]
        print(f"{figure}: {statistics.median(base):.2f} without")
        for kind in _KINDS[1:]:
            times = [run[figure] for run in found[kind]]
            ratio = statistics.median(mine / other for mine, other in zip(times, base, strict=True))
            print(f"  {statistics.median(times):.2f} with {kind}, {100 * (ratio - 1):+.1f} % within a round")
        page = statistics.median(run[f"{figure} of the page"] for run in found["report"])
        print(f"  {page:.2f} for the page itself, what it imports included")
    for kind in _KINDS[1:]:
        parts = [(run["seconds of the looks"], run["seconds of the page"], run["seconds"]) for run in found[kind]]
        shares = [(looks + page) / (all - looks - page) for looks, page, all in parts]
        print(f"within a training: {100 * statistics.median(shares):.1f} % for {kind}")
    out.write_text(json.dumps({"epochs": epochs, "threads": threads, "runs": found}, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
