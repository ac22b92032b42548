"""What exact population statistics and a diagnosis cost, in evaluations of the same data.

On a network of ResNet-50's size, and on one of a hundred small layers. All is timed in the same process, in turn, and
given as a ratio to one evaluation of the same batches: medians over rounds. For the first also how far the one-pass
methods end up from the exact statistics.

python benchmarks/recalibration.py --threads 2
"""

import copy
import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable
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

Method = Callable[[torch.nn.Module], object]
_SLOW = "exact, pass by pass"  # measured in the first round alone


def main(
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = os.cpu_count() or 1,
    rounds: Annotated[int, typer.Option(help="Of which medians are taken.")] = 5,
    n_batches: Annotated[int, typer.Option(help="Of 16 examples each.")] = 8,
    size: Annotated[int, typer.Option(help="Of the images that the large network is given.")] = 64,
) -> None:
    """Time, print."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    gc.freeze()  # or a collection goes through all that the packages imported above hold: as long as an evaluation
    large = resnet50(spatial_dims=2, n_input_channels=3, num_classes=1000)
    report("ResNet-50", large, images(n_batches, 3, size), rounds, peers=True)
    report(
        "a hundred small layers",
        torch.nn.Sequential(*(Residual() for _ in range(100))),
        images(n_batches, 8, 8),
        rounds,
        peers=False,
    )


def images(n_batches: int, channels: int, size: int) -> list[torch.Tensor]:
    return list((torch.randn(16 * n_batches, channels, size, size) + 1).split(16))


class Residual(torch.nn.Module):
    """One of many small layers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Conv2d(8, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to the input."""
        return x + 0.3 * self.inner(x)


def report(what: str, model: torch.nn.Module, batches: list[torch.Tensor], rounds: int, *, peers: bool) -> None:
    methods: dict[str, Method] = {
        "one evaluation": lambda model: evaluate(model, batches),
        "exact": lambda model: bn.recalibrate(model, batches, progress=False),
        _SLOW: lambda model: bn.recalibrate(model, batches, memory=0, progress=False),
        "one-pass": lambda model: bn.recalibrate(model, batches, method="one-pass", progress=False),
    }
    conditions = {"exact statistics": healthy, "running averages": averaged, "three faulty layers": faulty}
    prepared = {f"diagnose, {condition}": prepare for condition, prepare in conditions.items()}
    methods |= dict.fromkeys(prepared, lambda model: bn.diagnose(model, batches, progress=False))
    if peers:
        methods["torch, update_bn"] = lambda model: torch.optim.swa_utils.update_bn(batches, model)
        methods["fvcore, update_bn_stats"] = lambda model: update_bn_stats(model, batches, num_iters=len(batches))
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    models = {}
    for round_ in range(rounds):
        for name, method in methods.items():
            if round_ and name == _SLOW:
                continue
            models[name] = prepared.get(name, lambda model, _: model)(copy.deepcopy(model.train()), batches)
            begun = time.perf_counter()
            method(models[name])
            seconds[name].append(time.perf_counter() - begun)
    table = Table(what, "time / one evaluation (range)", "largest error of a mean (σ)", "of a variance (×)", box=None)
    for name, values in seconds.items():
        ratios = [value / base for value, base in zip(values, seconds["one evaluation"], strict=False)]
        measured = peers and not name.startswith(("one evaluation", "diagnose"))
        row = [name, f"{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})"]
        table.add_row(*row, *(errors(models[name], models["exact"]) if measured else ()))
    print(f"{len(batches)} batches of 16, {torch.get_num_threads()} threads, medians of {rounds} rounds")
    Console(width=120).print(table)


@torch.no_grad()
def evaluate(model: torch.nn.Module, batches: list[torch.Tensor]) -> None:
    model.eval()
    for batch in batches:
        model(batch)


def healthy(model: torch.nn.Module, batches: list[torch.Tensor]) -> torch.nn.Module:
    bn.recalibrate(model.eval(), batches, progress=False)
    return model


def averaged(model: torch.nn.Module, batches: list[torch.Tensor]) -> torch.nn.Module:
    """Give a model statistics as running averages leave them: by chance a little off."""
    generator = torch.Generator().manual_seed(0)
    for layer in norms(healthy(model, batches)):
        for statistic, scale in (
            (layer.running_mean, layer.running_var.sqrt()),
            (layer.running_var, layer.running_var),
        ):
            statistic += 3e-3 * scale * torch.randn(scale.shape, generator=generator)
    return model


def faulty(model: torch.nn.Module, batches: list[torch.Tensor]) -> torch.nn.Module:
    """Set back three layers of a model to what they began with."""
    layers = norms(averaged(model, batches))
    for layer in layers[:: len(layers) // 3][:3]:
        layer.reset_running_stats()
    return model


def norms(model: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    return [layer for layer in model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]


def errors(model: torch.nn.Module, exact: torch.nn.Module) -> tuple[str, str]:
    """Return how far statistics are at most from the exact ones."""
    shift, factor = 0.0, 1.0
    for layer, other in zip(norms(exact), norms(model), strict=True):
        var = layer.running_var + layer.eps
        shift = max(shift, float(((other.running_mean - layer.running_mean).abs() / var.sqrt()).max()))
        ratio = (other.running_var + layer.eps) / var
        factor = max(factor, float(torch.maximum(ratio, 1 / ratio).max()))
    return f"{shift:.2g}", f"{factor:.3g}"


if __name__ == "__main__":
    typer.run(main)
