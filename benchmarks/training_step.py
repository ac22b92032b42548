"""The cost of one training step: the floor, ours, and other frameworks, on the same network, data, batch and threads.

Each framework has a process of its own, which stays alive; in every round each of them in turn trains for one epoch
while the others wait. The floor is timed in the same process: before and after, and on the way where a framework's loop
is Python's. So a ratio is of neighbours in time. The first round warms up and does not count.

pip install -c constraints.txt ".[all]" -r benchmarks/requirements-peers.txt
python benchmarks/training_step.py --threads 2 --rounds 15
"""

import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.progress import Progress

from floor import Floor, microseconds, spread
from peers import BATCH, FRAMEWORKS, SIZES

_REST = 0.2  # seconds, until a process's idle threads sleep


class Worker:
    """A process that trains by one framework whenever it is told to."""

    def __init__(self, name: str, threads: int, data: Path):
        self.name = name
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  lives as long as the process
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", name, "--threads", str(threads), "--data", str(data)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True, env=environment,
        )  # fmt: skip

    def epoch(self) -> tuple[float, float]:
        """Train for one epoch; return microseconds per step, ours and the floor's, or NaN if the framework fails."""
        try:
            print("epoch", file=self.process.stdin, flush=True)
            taken, floor = self.process.stdout.readline().split()
            return float(taken), float(floor)
        except (BrokenPipeError, ValueError):
            return float("nan"), float("nan")

    def why(self) -> str:
        """Return the last line of what a failed process said."""
        self.process.wait()
        self.said.seek(0)
        lines = self.said.read().strip().splitlines()
        return lines[-1] if lines else "no message"


def work(name: str, threads: int, data: Path) -> None:
    """Be a worker: prepare, then train for an epoch per line of standard input."""
    if hasattr(os, "sched_setaffinity"):  # for frameworks that count processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print goes elsewhere
    with np.load(data) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    import torch

    torch.set_num_threads(threads)
    floor, aside = Floor(SIZES, BATCH).step, 0.0
    times: list[float] = []

    def pause(n: int = 25) -> None:
        nonlocal aside
        begun = time.perf_counter()
        microseconds(floor, n // 5)  # wakes its threads and brings its weights into the cache
        times.append(microseconds(floor, n))
        aside += time.perf_counter() - begun

    train = FRAMEWORKS[name][0](images, labels, threads, pause)
    for _ in sys.stdin:
        times.clear()
        pause(250)
        begun, aside = time.perf_counter(), 0.0
        train()
        taken = time.perf_counter() - begun - aside
        pause(250)
        print(taken / (len(labels) // BATCH) * 1e6, statistics.fmean(times), file=answers, flush=True)


def prepare(folder: Path, n: int) -> tuple[Path, str]:
    """Write MNIST's first training images for the workers, or random ones of its shape where it is not available."""
    import batchnorm as bn

    try:
        dataset = bn.load_dataset("mnist")
        images, labels, source = dataset.train.inputs.flatten(1).numpy(), dataset.train.labels.numpy(), "MNIST"
    except bn.BatchnormError:
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (55_000, 784), dtype=np.uint8)
        labels, source = rng.integers(0, 10, 55_000), "random numbers in MNIST's shape"
    path = folder / "data.npz"
    np.savez(path, images=images[:n], labels=labels[:n])
    return path, f"{min(n, len(labels)):,} images of {source}"


def version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} missing"


def main(
    threads: Annotated[int, typer.Option(help="Threads, and processors, of each framework.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 15,
    images: Annotated[
        int, typer.Option(help="Of an epoch: fewer make shorter turns, and less drift within one.")
    ] = 22_000,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("training-step.json"),
    work_for: Annotated[str | None, typer.Option("--work", hidden=True)] = None,
    data: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Time all frameworks that are installed; print a Markdown table, write JSON."""
    if work_for is not None:
        work(work_for, threads, data)
        return
    import torch

    from batchnorm.training.runs.environment import describe_session

    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        path, source = prepare(Path(folder), images)
        workers = [Worker(name, threads, path) for name in FRAMEWORKS]
        task = progress.add_task("rounds", total=(1 + rounds) * len(workers))
        times: dict[str, list[float]] = {worker.name: [] for worker in workers}
        floors: dict[str, list[float]] = {worker.name: [] for worker in workers}
        for round_ in range(1 + rounds):
            for worker in workers:
                taken, floor = worker.epoch()
                time.sleep(_REST)
                if round_ > 0:
                    times[worker.name].append(taken)
                    floors[worker.name].append(floor)
                progress.advance(task)
        failed = {worker.name: worker.why() for worker in workers if np.isnan(times[worker.name]).any()}
        for worker in workers:
            worker.process.kill()
    session = describe_session(torch.device("cpu"), source) | {"threads": threads}
    versions = {name: ", ".join(map(version, packages)) for name, (_, packages) in FRAMEWORKS.items()}
    result = {
        "session": session,
        "rounds": rounds,
        "versions": versions,
        "microseconds": {name: of_rounds for name, of_rounds in times.items() if name not in failed},
        "floor": {name: of_rounds for name, of_rounds in floors.items() if name not in failed},
        "failed": failed,
    }
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{session['cpu']}, {threads} threads, {source}, {rounds} rounds of one epoch")
    print("| what | µs per step: median (range) | × floor: median (range) | × ours | versions |")
    print("|---|---|---|---|---|")
    ratios = {
        name: [taken / floor for taken, floor in zip(of_rounds, floors[name], strict=True)]
        for name, of_rounds in times.items()
    }
    base = [floor for name, of_rounds in floors.items() if name not in failed for floor in of_rounds]
    print(f"| floor: the eight products, torch | {spread(base)} | 1 | | {version('torch')} |")
    ours = statistics.median(ratios["batchnorm, engine fused"])
    for name, of_rounds in ratios.items():
        if name in failed:
            print(f"| {name} | – | – | – | {failed[name]} |")
            continue
        to_ours = statistics.median(of_rounds) / ours
        print(f"| {name} | {spread(times[name])} | {spread(of_rounds, 2)} | {to_ours:.2f} | {versions[name]} |")


if __name__ == "__main__":
    typer.run(main)
