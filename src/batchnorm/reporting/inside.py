"""What happens inside of the layers: pre-activations, statistics, γ and β, gradients, dead and saturated units."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from batchnorm.network import layer_name
from batchnorm.printing import evenly_chosen
from batchnorm.reporting.pieces import Drawing, Section, listed, percent

Look = Mapping[str, Any]
_RIDGES = 8  # moments that are drawn
_DRAWN_LAYERS = 4
_VISIBLE = 0.005  # the least share that is drawn
_TINY = 1e-12  # added to variances, which may be 0
_NO_LOOKS = (
    "This run has no records of its layers: an earlier version began it, or its network is not a DenseNetwork, or it "
    "ended before the first was made. Trained anew, it would have them."
)
_NO_BATCH_NORM = (
    "This network has no batch norm: it computes the same function in training and in inference, and there are no "
    "running averages that could go wrong."
)


@dataclass(frozen=True, eq=False)
class Inside:
    """What is known of the layers of a network.

    Parameters
    ----------
    state : mapping of str to Tensor
        The network's.
    records : sequence of dict
        Looks into it, as a training keeps them.
    is_dense : bool, default True
        Whether it is a `DenseNetwork`, whose layers are numbered.
    population : mapping of str to Tensor
        The population statistics by the names of the running averages; none where they are not known.
    note : str
        What a reader has to know of the statistics that it has.
    """

    state: Mapping[str, Tensor]
    records: Sequence[Look]
    is_dense: bool = True
    population: Mapping[str, Tensor] = field(default_factory=dict)
    note: str = ""

    @cached_property
    def names(self) -> dict[str, str]:
        """What the layers of a `DenseNetwork`, each with its batch norm, are called on a page."""
        n, place = sum(map(self._is_weight, self.state)), -1
        names = dict[str, str]()
        for name in self.state if self.is_dense else ():
            place += self._is_weight(name)
            names[name.rpartition(".")[0]] = layer_name(place, n)
        return names

    @cached_property
    def looks(self) -> list[dict[str, Any]]:
        """The records, with readable names of the layers."""
        return [
            {
                **look,
                "layers": [{**layer, "name": self.names.get(layer["name"], layer["name"])} for layer in look["layers"]],
            }
            for look in self.records
        ]

    @cached_property
    def normalized(self) -> dict[str, str]:
        """The names of the batch-norm layers on the page, by what the names of their tensors begin with."""
        suffix = "running_mean"
        stems = [name.removesuffix(suffix) for name in self.state if name.endswith(suffix)]
        return {stem: self.names.get(stem[:-1], stem[:-1] or "the network") for stem in stems}

    @cached_property
    def deviation_ratios(self) -> dict[str, list[float | None]]:
        """By layer the running standard deviations of its units as multiples of the population's: see `_box`."""
        ratios = dict[str, list[float | None]]()
        for stem, name in self.normalized.items():
            if f"{stem}running_var" in self.population:
                mine, exact = (of[f"{stem}running_var"].double() + _TINY for of in (self.state, self.population))
                ratios[name] = _box((mine / exact).sqrt())
        return ratios

    def _is_weight(self, name: str) -> bool:
        return name.endswith("weight") and self.state[name].dim() == 2


def sections_on_layers(inside: Inside) -> Iterator[Section]:
    """Yield the sections on what goes on in a network, of the looks that were taken at it, and of its statistics."""
    looks = inside.looks
    if looks:
        yield _distributions(looks)
    yield _statistics(inside)
    if looks:
        yield _gradients(looks)


def moment(look: Look) -> str:
    """Return when a look was taken, in words."""
    return "start" if look["epoch"] < 0 else f"epoch {look['epoch']}"


def _distributions(looks: Sequence[Look]) -> Section:
    chosen = [looks[place] for place in evenly_chosen(len(looks), _RIDGES)]
    layers = looks[-1]["layers"]
    places = evenly_chosen(len(layers), _DRAWN_LAYERS)
    is_normalized = any(layer["norm"] for layer in layers)
    lines = [
        "What a layer hands to its activation decides whether that one passes gradients on. Each row is a moment of "
        "the training; the values are those of a fixed sample of the training part, computed as in a training step."
    ]
    if is_normalized:
        lines.append("On the left what the linear layer gives; on the right the same after batch norm, with γ and β.")
    if len(places) < len(layers):
        lines.append(f"{len(places)} of {len(layers)} layers are drawn.")
    drawings = [_ridges(chosen, place) for place in places]
    return Section("activations", "What the layers see", lines, drawings=drawings)


def _ridges(looks: Sequence[Look], place: int) -> Drawing:
    layer = looks[-1]["layers"][place]
    columns = {"before": [look["layers"][place]["before"] for look in looks]}
    if layer["after"] is not None:
        columns = {"before batch norm": columns["before"], "after": [look["layers"][place]["after"] for look in looks]}

    def draw() -> Any:
        from batchnorm.figures import draw_ridges

        titled = columns if len(columns) > 1 else {"": columns["before"]}
        return draw_ridges(titled, [moment(look) for look in looks], x_label="pre-activation")

    told = [f"{title}: {_told(rows[0])} at first, {_told(rows[-1])} at last" for title, rows in columns.items()]
    return Drawing(
        f"pre-activations-{place}", f"Pre-activations of {layer['name']}", f"{'; '.join(told)}.", draw, layer["name"]
    )


def _told(found: Mapping[str, Any] | None) -> str:
    if found is None or found["mean"] is None or found["sd"] is None:
        return "not finite"
    return f"mean {found['mean']:.3g}, standard deviation {found['sd']:.3g}"


def _statistics(inside: Inside) -> Section:
    lines = [] if inside.looks else [_NO_LOOKS]
    if not inside.normalized:
        return Section("statistics", "Batch norm", [*lines, _NO_BATCH_NORM])
    drawings = list[Drawing]()
    if inside.population:
        lines.append(
            "In inference, batch norm computes with fixed statistics. The running averages that a training leaves are "
            "an estimate of the population's, which are computed of the whole training part. Where the estimate is "
            "good, the boxes lie close to the dotted line."
        )
        drawings += [_means(inside), _variances(inside)]
    lines += [inside.note] if inside.note else []
    drawings += _gammas(inside.state, inside.normalized)
    drawings += _courses(inside.looks)
    return Section("statistics", "Batch norm", lines, drawings=drawings)


def _box(values: Tensor) -> list[float | None]:
    numbers = values.detach().double().cpu().flatten().numpy()
    if not np.isfinite(numbers).all():
        return [None] * 5
    return [float(q) for q in np.quantile(numbers, [0, 0.25, 0.5, 0.75, 1])]


def _boxes(name: str, title: str, groups: Mapping[str, Any], names: Sequence[str], **options: Any) -> Drawing:
    def draw() -> Any:
        from batchnorm.figures import draw_boxes

        return draw_boxes(groups, names, **options)

    told = [
        f"{group}, {layer}: median {row[2]:.3g}, from {row[0]:.3g} to {row[4]:.3g}"
        for group, rows in groups.items()
        for layer, row in zip(names, rows, strict=True)
        if row is not None and row[0] is not None
    ]
    return Drawing(
        name, title, f"{'; '.join(told[:12])}.", draw, f"{title}. Lines reach to the extremes, boxes to the quartiles."
    )


def _means(inside: Inside) -> Drawing:
    rows = []
    for stem in inside.normalized:
        mean, var = (inside.population[f"{stem}running_{kind}"].double() for kind in ("mean", "var"))
        rows.append(_box((inside.state[f"{stem}running_mean"].double() - mean) / (var + _TINY).sqrt()))
    title = "How far the running means of a layer's units are from the population's, in standard deviations"
    names = list(inside.normalized.values())
    return _boxes("running-means", title, {"mean": rows}, names, y_label="difference of means", reference=0)


def _variances(inside: Inside) -> Drawing:
    ratios = inside.deviation_ratios
    title = "The running standard deviations of a layer's units, as multiples of the population's"
    rows, names = list(ratios.values()), list(ratios)
    return _boxes("running-deviations", title, {"sd": rows}, names, y_label="ratio of deviations", reference=1)


def _gammas(state: Any, layers: Mapping[str, str]) -> list[Drawing]:
    kinds = {"γ": "weight", "β": "bias"}
    groups = {
        symbol: [_box(state[f"{layer}{kind}"]) if f"{layer}{kind}" in state else None for layer in layers]
        for symbol, kind in kinds.items()
    }
    known = {symbol: rows for symbol, rows in groups.items() if any(row is not None for row in rows)}
    if not known:
        return []
    title = f"{listed(known)}, which scale and shift what was normalised"
    return [_boxes("gamma-beta", title, known, list(layers.values()), y_label=" and ".join(known), reference=0)]


def _courses(looks: Sequence[Look]) -> list[Drawing]:
    """Return how running variances of the first layer that has some came to those of the sample."""
    if len(looks) < 2:
        return []
    normalized = [i for i, layer in enumerate(looks[-1]["layers"]) if layer["running_var"] and layer["sample_var"]]
    return [_course(looks, place) for place in normalized[:1]]


def _course(looks: Sequence[Look], place: int) -> Drawing:
    name = looks[-1]["layers"][place]["name"]
    kinds = {"running averages": "running_var", "the sample's own": "sample_var"}

    def draw() -> Any:
        from batchnorm.figures import Series, draw_lines

        epochs = [look["epoch"] for look in looks]
        series = []
        for title, kind in kinds.items():
            quarts = [look["layers"][place][kind] or [None] * 5 for look in looks]
            low, middle, high = ([row[i] for row in quarts] for i in (1, 2, 3))
            series.append(Series(title, epochs, middle, low, high))
        return draw_lines(series, x_label="epoch (−1: before the first step)", y_label="variance of a unit", log=True)

    title = f"Variances that {name} is normalised with, over the epochs"
    told = "Median of the units, with a band from quartile to quartile, of the running averages and of the sample."
    return Drawing(f"variances-{place}", title, told, draw, title)


def _gradients(looks: Sequence[Look]) -> Section:
    layers = [layer["name"] for layer in looks[-1]["layers"]]
    chosen = [looks[place] for place in evenly_chosen(len(looks), 3)]
    lines = [
        "Gradients that shrink, or grow, from the last layer to the first by orders of magnitude are what is called "
        "vanishing and exploding. The ratio of a step to the weights that it changes tells whether the learning rate "
        "suits a layer: a thousandth is a common rule of thumb, no law."
    ]
    drawings = [_norms(chosen, layers)]
    if len(looks) > 1 and any(layer["update_ratio"] for look in looks for layer in look["layers"]):
        drawings.append(_ratios(looks, layers))
    for kind, told in (("dead", "Units that pass no gradient on for any example of the sample"),
                       ("saturated", "Outputs on the flat part of their activation")):  # fmt: skip
        known = [layer[kind] for look in looks for layer in look["layers"] if layer[kind] is not None]
        if max(known, default=0.0) >= _VISIBLE:
            drawings.append(_shares(chosen, layers, kind, told))
        elif known:
            most = f"less than {percent(_VISIBLE)}" if any(known) else "none"
            lines.append(f"{told}: {most} in any layer, at any moment that was looked at.")
    return Section("gradients", "Gradients and steps", lines, drawings=drawings)


def _over_layers(
    name: str, title: str, looks: Sequence[Look], layers: Sequence[str], kind: str, **options: Any
) -> Drawing:
    def draw() -> Any:
        from batchnorm.figures import Series, draw_layers

        places = range(len(layers))
        series = [
            Series(moment(look), places, [layer[kind] for layer in look["layers"]], dash=i)
            for i, look in enumerate(looks)
        ]
        return draw_layers(series, layers, **options)

    told = []
    for look in looks:
        known = [(layer["name"], layer[kind]) for layer in look["layers"] if layer[kind] is not None]
        if known:
            (first, low), (last, high) = min(known, key=lambda p: p[1]), max(known, key=lambda p: p[1])
            told.append(f"{moment(look)}: from {low:.3g} ({first}) to {high:.3g} ({last})")
    return Drawing(name, title, f"{'; '.join(told)}.", draw, title)


def _norms(looks: Sequence[Look], layers: Sequence[str]) -> Drawing:
    title = "Norm of the gradient of each layer's weights, from the first layer to the last"
    return _over_layers("gradient-norms", title, looks, layers, "gradient_norm", y_label="gradient norm", log=True)


def _shares(looks: Sequence[Look], layers: Sequence[str], kind: str, title: str) -> Drawing:
    return _over_layers(kind, title, looks, layers, kind, y_label=kind, percent=True)


def _ratios(looks: Sequence[Look], layers: Sequence[str]) -> Drawing:
    places = evenly_chosen(len(layers), 6)

    def draw() -> Any:
        from batchnorm.figures import Series, draw_lines

        later = [look for look in looks if look["epoch"] >= 0]
        epochs = [look["epoch"] for look in later]
        series = [
            Series(layers[i], epochs, [look["layers"][i]["update_ratio"] for look in later], dash=n % 4)
            for n, i in enumerate(places)
        ]
        return draw_lines(series, x_label="epoch", y_label="step / weights", log=True, reference=1e-3)

    title = "Size of the last step of an epoch, as a share of the weights that it changes"
    last = [(layer["name"], layer["update_ratio"]) for layer in looks[-1]["layers"] if layer["update_ratio"]]
    told = ", ".join(f"{name} {ratio:.2g}" for name, ratio in last[:12])
    return Drawing("update-ratios", title, f"At last: {told}." if told else title, draw, f"{title}. Dotted: 0.001.")
