"""What exact population statistics cost on a network of ResNet-50's size, in forward passes and in time.

All is timed in the same process, in turn, and given as a ratio to one evaluation of the same batches: medians over
rounds. Also how far the one-pass methods end up from the exact statistics.

python benchmarks/recalibration.py --threads 2
"""

import copy
import os
import statistics
import time
import warnings
from typing import Annotated

import torch
import typer
from monai.networks.nets import resnet50
from rich.console import Console
from rich.table import Table

import batchnorm as bn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles something with torch.jit when it is imported
    from fvcore.nn.precise_bn import update_bn_stats


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 5,
    examples: Annotated[int, typer.Option(help="In two batches.")] = 32,
    size: Annotated[int, typer.Option(help="Of the images.")] = 64,
) -> None:
    """Time, print."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = resnet50(spatial_dims=2, n_input_channels=3, num_classes=1000).train()
    batches = list((torch.randn(examples, 3, size, size) + 1).split(examples // 2))
    methods = {
        "one evaluation": lambda model: evaluate(model, batches),
        "exact": lambda model: bn.recalibrate(model, batches),
        "one-pass": lambda model: bn.recalibrate(model, batches, method="one-pass"),
        "torch, update_bn": lambda model: torch.optim.swa_utils.update_bn(batches, model),
        "fvcore, update_bn_stats": lambda model: update_bn_stats(model, batches, num_iters=len(batches)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    models = {}
    for _ in range(rounds):
        for name, method in methods.items():
            models[name] = copy.deepcopy(model)
            begun = time.perf_counter()
            method(models[name])
            seconds[name].append(time.perf_counter() - begun)
    done = bn.recalibrate(copy.deepcopy(model), batches)
    print(f"{len(done.changes)} layers, {done.n_passes} passes (the longest chain of layers), {threads} threads")
    table = Table("", "time / one evaluation (range)", "largest error of a mean (σ)", "of a variance (×)", box=None)
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["one evaluation"], strict=True)]
        row = [name, f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"]
        table.add_row(*row, *(() if name == "one evaluation" else errors(models[name], models["exact"])))
    Console(width=120).print(table)


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    model.eval()
    for batch in batches:
        model(batch)


def errors(model: torch.nn.Module, exact: torch.nn.Module) -> tuple[str, str]:
    """Return how far statistics are at most from the exact ones."""
    shift, factor = 0.0, 1.0
    for name, layer in exact.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            other = model.get_submodule(name)
            var = layer.running_var + layer.eps
            shift = max(shift, float(((other.running_mean - layer.running_mean).abs() / var.sqrt()).max()))
            ratio = (other.running_var + layer.eps) / var
            factor = max(factor, float(torch.maximum(ratio, 1 / ratio).max()))
    return f"{shift:.2g}", f"{factor:.3g}"


if __name__ == "__main__":
    typer.run(main)
