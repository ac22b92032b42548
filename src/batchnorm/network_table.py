"""How a dense network shows itself in a notebook: a row per linear layer, with its batch norm and its activation."""

from collections.abc import Sequence

from torch import nn

from batchnorm.markup import captioned_table


def network_html(network: nn.Sequential, sizes: Sequence[int]) -> str:
    """Return a network of layers of these sizes as a piece of HTML."""
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    statistics = "the batch's own" if network.training else "the running"
    caption = (
        f"{type(network).__name__} {_arrows(sizes)}, {n_parameters:,} parameters\n"
        f"in {'training' if network.training else 'inference'} mode: normalises with {statistics} statistics"
    )
    columns = ("layers", "linear", "batch norm", "then", "parameters")
    rows = [_cells(stage) for stage in _in_stages(network)]
    return captioned_table(caption, columns, rows, words=("linear", "batch norm", "then"))


def _arrows(sizes: Sequence[int]) -> str:
    """Return sizes in the order of the layers; of many the first and the last."""
    words = [f"{size:,}" for size in sizes]
    return " → ".join(words if len(words) <= 12 else [*words[:8], "…", *words[-3:]])


def _in_stages(network: nn.Sequential) -> list[list[tuple[str, nn.Module]]]:
    """Return a network's layers by name, in lists that begin with a linear layer each."""
    stages: list[list[tuple[str, nn.Module]]] = []
    for name, layer in network.named_children():
        if isinstance(layer, nn.Linear) or not stages:
            stages.append([])
        stages[-1].append((name, layer))
    return stages


def _cells(stage: list[tuple[str, nn.Module]]) -> list[str]:
    """Return how some layers stand in a table: names, linear layer, batch norm, the others, number of parameters."""
    names, layers = zip(*stage, strict=True)
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
    others = [layer for layer in layers if not isinstance(layer, nn.Linear | nn.BatchNorm1d | nn.Identity)]
    return [
        names[0] if len(names) == 1 else f"{names[0]} – {names[-1]}",
        ", ".join(f"{layer.in_features:,} → {layer.out_features:,}" for layer in linear),
        ", ".join(_normalised(norm) for norm in norms) or "–",
        ", ".join(type(layer).__name__ for layer in others) or "–",
        f"{sum(parameter.numel() for layer in layers for parameter in layer.parameters()):,}",
    ]


def _normalised(norm: nn.BatchNorm1d) -> str:
    momentum = "all batches alike" if norm.momentum is None else f"momentum {norm.momentum:g}"
    stored = getattr(norm, "stored_variance", "unbiased")  # as torch's own do
    return f"{momentum}, ε {norm.eps:g}, stores the {stored} variance"
