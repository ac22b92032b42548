"""What a whole run of the recipe `classic` costs: time against its matrix products, and memory.

The floor, the products of as many steps and evaluations, is timed in the same process, a little after every
few hundred steps, and does not count as part of the run.

python benchmarks/classic_cost.py --threads 2
"""

from pathlib import Path

import numba
import torch


def resident(field: str) -> float:
    """Return this process's memory, MiB, as Linux tells it: VmRSS now, VmHWM at its highest."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) / 1024


IMPORTED = resident("VmRSS")  # before anything else is imported

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated

import typer
from rich.progress import track

from floor import Floor, microseconds

_STEPS_BETWEEN = 275  # a quarter of an epoch


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    runs: Annotated[int, typer.Option(help="Of which medians are taken.")] = 3,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("classic-cost.json"),
) -> None:
    """Train, time, print, write JSON."""
    torch.set_num_threads(threads)
    import batchnorm as bn
    from batchnorm.evaluation import BLOCK_SIZE
    from batchnorm.training.runs.environment import describe_session

    dataset, config = bn.load_dataset("mnist"), bn.recipes["classic"]
    sizes = [dataset.n_features, *config.hidden_layer_sizes, dataset.n_classes]
    n_steps = len(dataset.train) // config.batch_size
    blocks = (len(dataset.train) + len(dataset.validation)) // BLOCK_SIZE

    class Clock(bn.Monitor):
        """Times the run, and on the way the floor, which does not count as part of it."""

        def __init__(self) -> None:
            self.floor_step, self.floor_block = Floor(sizes, config.batch_size).step, Floor(sizes, BLOCK_SIZE).forward
            self.steps: list[float] = []
            self.blocks: list[float] = []
            self.aside = 0.0

        def begin(self, *_: object) -> None:
            self.begun = time.perf_counter()

        def step(self, epoch: int, step: int, loss: float) -> None:
            if step % _STEPS_BETWEEN == 0:
                self.measure(self.steps, self.floor_step, _STEPS_BETWEEN // 5)

        def evaluated(self, record: dict) -> None:
            self.measure(self.blocks, self.floor_block, blocks)
            self.seconds = time.perf_counter() - self.begun - self.aside

        def measure(self, times: list[float], call: Callable[[], None], n: int) -> None:
            begun = time.perf_counter()
            call()  # brings its weights into the cache
            times.append(microseconds(call, n))
            self.aside += time.perf_counter() - begun

    results = []
    for _ in track(range(runs), "training"):
        network = bn.DenseNetwork.from_config(config, sizes[0], sizes[-1])
        clock = Clock()
        bn.fit(network, dataset, config, monitor=clock)
        floor = statistics.fmean(clock.steps) * n_steps * config.epochs / 1e6
        evaluations = sum(clock.blocks) * blocks / 1e6
        results.append({"seconds": clock.seconds, "floor": floor, "floor of evaluations": evaluations})
    peak = resident("VmHWM")
    for result in results:
        seconds, floor, evaluations = result.values()
        print(
            f"{seconds:.1f} s for {config.epochs} epochs with {len(clock.blocks)} evaluations; products of the steps "
            f"{floor:.1f} s (ratio {seconds / floor:.2f}), with those of the evaluations {floor + evaluations:.1f} s "
            f"(ratio {seconds / (floor + evaluations):.2f})"
        )
    print(
        f"memory: {IMPORTED:.0f} MiB with torch {torch.__version__} and numba {numba.__version__} imported, "
        f"{peak - IMPORTED:.0f} MiB more at its highest"
    )
    session = describe_session(torch.device("cpu"), "MNIST")
    out.write_text(
        json.dumps({"session": session, "runs": results, "imported": IMPORTED, "peak": peak}, indent=1) + "\n"
    )


if __name__ == "__main__":
    typer.run(main)
