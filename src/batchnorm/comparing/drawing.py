"""The pictures of a comparison, each with what it is and what is to be seen in it, in words."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchnorm.comparing.cells import MOMENTS
from batchnorm.comparing.variations import said
from batchnorm.comparing.words import MEASURE_NAMES, Summary, begin, figure, focus, paired
from batchnorm.figures import Series, align, draw_layers, draw_lines, draw_ridges
from batchnorm.network import layer_name
from batchnorm.printing import evenly_chosen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from batchnorm.figures import Distribution

_MOST_FOCUSED = 4  # arms that are looked into
_MOST_LINES = 8
_MOST_ROWS = 12  # layers of a figure of histograms, and of ratios
_MOST_TOGETHER = 3  # arms whose gradients at all moments go into one figure
_LONGEST_LABEL = 16  # with a moment behind it, a legend has room for it
_USUAL_RATIO = 1e-3  # of the size of a step to that of the weight, a rule of thumb
_SAID = {"start": "at the start", "middle": "in the middle", "end": "at the end"}
_SHORT = {"learning_rate": "rate", "initial_scale": "scale", "hidden_layer_sizes": "layers", "batch_size": "batch"}


@dataclass(frozen=True)
class Picture:
    """A figure, and what it says.

    Parameters
    ----------
    section : str
        Of the page, that it belongs to.
    name : str
        Of its file.
    title : str
        What it is.
    description : str
        What is to be seen in it.
    figure : Figure
    """

    section: str
    name: str
    title: str
    description: str
    figure: "Figure"


def draw(summary: Summary) -> Iterator[Picture]:
    """Draw all pictures of a comparison."""
    if any(arm["curves"] for arm in summary["arms"]):
        yield from _curves(summary)
    if summary["sweep"] is not None and any(arm["score"]["n"] for arm in summary["arms"]):
        yield _sweep(summary)
    if shown := [arm for arm in focused(summary) if arm["layers"]["end"]]:
        labels = labels_of(summary, shown)
        yield from _gradients(shown, labels)
        yield from _shares(shown, labels)
        yield from _histograms(shown, labels)
        yield from _ratios(shown, labels)


def focused(summary: Summary) -> list[dict[str, Any]]:
    """Return the arms that are looked into, as many as can be told apart."""
    return focus(summary)[:_MOST_FOCUSED]


def labels_of(summary: Summary, arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return short names of arms, or their numbers in the table where there are none.

    What is swept is not named where another difference tells them apart.
    """
    swept = summary["sweep"] and summary["sweep"]["name"]
    differing = [name for name in summary["variations"] if len({str(arm["values"][name]) for arm in arms}) > 1]
    for chosen in ([name for name in differing if name != swept], differing):
        names = [
            ", ".join(_short(name, arm["values"][name], alone=len(chosen) == 1) for name in chosen) for arm in arms
        ]
        if all(names) and len(set(names)) == len(arms) and max(map(len, names)) <= _LONGEST_LABEL:
            return names
    return [f"arm {summary['arms'].index(arm) + 1}" for arm in arms]


def _short(name: str, value: Any, *, alone: bool) -> str:
    if name == "normalization":
        return f"{'' if value == 'batch' else 'no '}{'batch norm' if alone else 'BN'}"
    if isinstance(value, str):
        return value
    return f"{_SHORT.get(name, name.replace('_', ' '))} {said(value)}"


def _curves(summary: Summary) -> Iterator[Picture]:
    """Draw the validation figure over the epochs, of arms that differ in the learning rate alone by themselves."""
    measure, arms = summary["measure"], {arm["name"]: arm for arm in summary["arms"]}
    groups = [{"label": "", "arms": list(arms)}] if summary["sweep"] is None else paired(summary["sweep"]["groups"])
    drawn = []
    for number, of_group in enumerate(groups[:_MOST_FOCUSED], 1):
        group = [arms[name] for name in of_group["arms"]][:_MOST_LINES]
        lines = _lines(summary, group, f"validation_{measure}")
        picture = draw_lines(lines, x_label="epoch", y_label=MEASURE_NAMES[measure], reference=summary["threshold"])
        title = f"{begin(MEASURE_NAMES[measure])} over the epochs{f', {label}' if (label := of_group['label']) else ''}"
        ends = dict(zip(labels_of(summary, group), map(_end, group), strict=True))
        drawn.append(Picture("curves", f"curves-{number}", title, f"At the end: {_listed(ends)}.", picture))
    align([picture.figure for picture in drawn])
    yield from drawn
    shown = focused(summary)
    lines = _lines(summary, shown, "train_loss")
    loss = draw_lines(lines, x_label="epoch", y_label="training loss", log=True)
    ends = {line.name: _size(line.y[-1] if line.y else None) for line in lines}
    best = "" if summary["sweep"] is None else f", each at its best {summary['sweep']['name'].replace('_', ' ')}"
    title = f"Training loss over the epochs{best}"
    yield Picture("curves", "loss", title, f"At the end: {_listed(ends)}.", loss)


def _lines(summary: Summary, arms: Sequence[Mapping[str, Any]], name: str) -> list[Series]:
    lines = []
    for arm, label in zip(arms, labels_of(summary, arms), strict=True):
        spreads = [record[name] for record in arm["curves"]]
        lines.append(_banded(label, [record["epoch"] for record in arm["curves"]], spreads))
    return lines


def _banded(label: str, x: Sequence[float], spreads: Sequence[Mapping[str, Any]], **style: Any) -> Series:
    mean = [spread["mean"] for spread in spreads]
    low = [None if s["mean"] is None else s["mean"] - (s["sd"] or 0) for s in spreads]
    high = [None if s["mean"] is None else s["mean"] + (s["sd"] or 0) for s in spreads]
    return Series(label, x, mean, low, high, **style)


def _end(arm: Mapping[str, Any]) -> str:
    if arm["score"]["mean"] is None:
        return "diverged"
    return figure(arm["score"]) + (f", but {arm['diverged']} diverged" if arm["diverged"] else "")


def _sweep(summary: Summary) -> Picture:
    arms, measure, swept = {arm["name"]: arm for arm in summary["arms"]}, summary["measure"], summary["sweep"]["name"]
    groups = summary["sweep"]["groups"][:_MOST_LINES]
    first = groups[0]["values"]
    differing = [name for name in first if any(group["values"][name] != first[name] for group in groups)]
    lines, learns = [], {}
    for group in groups:
        of_group = [arms[arm] for arm in group["arms"]]
        values = [arm["values"][swept] for arm in of_group]
        label = ", ".join(_short(name, group["values"][name], alone=len(differing) == 1) for name in differing)
        lines.append(_banded(label, values, [arm["score"] for arm in of_group]))
        learns[label] = f"at {', '.join(map(said, group['learns_at'])) or 'none'}"
    what = swept.replace("_", " ")
    picture = draw_lines(
        lines,
        x_label=what,
        y_label=MEASURE_NAMES[measure],
        log_x=all(x > 0 for line in lines for x in line.x),
        reference=summary["threshold"],
    )
    description = f"Learns: {_listed(learns)}. What diverged has no point."
    return Picture(
        "sweep", f"{what.replace(' ', '-')}s", f"{begin(MEASURE_NAMES[measure])} by {what}", description, picture
    )


def _gradients(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    """Draw the gradient norm layer by layer: all moments on one axis, or of many arms each on its own."""
    distinct = [moment for moment in MOMENTS if moment != "middle" or any(map(_has_middle, arms))]
    groups = [distinct] if len(arms) <= _MOST_TOGETHER else [[moment] for moment in distinct]
    for moments in groups:
        lines = [
            _over_layers(f"{label}, {moment}" if len(moments) > 1 else label, arm, moment, "gradient_norm", i, dash)
            for i, (arm, label) in enumerate(zip(arms, labels, strict=True))
            for dash, moment in enumerate(moments)
        ]
        when = ", ".join(_SAID[moment] for moment in moments)
        picture = draw_layers(lines, _layer_names(arms), y_label="gradient norm of the weights", log=True)
        sizes = {
            f"{label} {_SAID[moment]}": " to ".join(_size(arm["layers"][moment][i]["gradient_norm"]) for i in (0, -1))
            for arm, label in zip(arms, labels, strict=True)
            for moment in moments
        }
        said_sizes = f"From the first layer to the last: {_listed(sizes)}."
        name = "gradient-norms" if len(moments) > 1 else f"gradient-norms-{moments[0]}"
        yield Picture("gradients", name, f"Gradient norm layer by layer, {when}", said_sizes, picture)


def _has_middle(arm: Mapping[str, Any]) -> bool:
    """Tell whether there was a look between the first and the last."""
    step = {moment: look["step"] for moment, look in arm["looks"].items() if look is not None}
    return len({*step.values()}) == len(MOMENTS)


def _shares(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    titles = {"saturated": "Saturated activations", "dead": "Dead units"}
    for kind, title in titles.items():
        lines = [
            _over_layers(f"{label}, {moment}", arm, moment, kind, i, 1 - dash)
            for i, (arm, label) in enumerate(zip(arms, labels, strict=True))
            for dash, moment in enumerate(("start", "end"))
        ]
        picture = draw_layers(lines, _layer_names(arms), y_label=title.lower(), percent=True)
        for axes in picture.axes:
            axes.set_ylim(-0.02 * max(0.1, axes.get_ylim()[1]), max(0.1, axes.get_ylim()[1]))
        most = {label: _most(arm, kind) for arm, label in zip(arms, labels, strict=True)}
        yield Picture("shares", kind, f"{title} layer by layer", f"At the end at most: {_listed(most)}.", picture)


def _over_layers(label: str, arm: Mapping[str, Any], moment: str, what: str, color: int, dash: int) -> Series:
    values = [layer[what] for layer in arm["layers"][moment]]
    return Series(label, list(range(len(values))), values, color=color, dash=dash)


def _most(arm: Mapping[str, Any], kind: str) -> str:
    known = [layer[kind] for layer in arm["layers"]["end"] if layer[kind] is not None]
    return f"{max(known):.1%}" if known else "unknown"


def _histograms(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    """Draw what the layers give on, and the entries of their gradients: arms side by side, from the first seed."""
    pairs = [range(i, min(i + 2, len(arms))) for i in range(0, len(arms), 2)]
    for moment, (number, pair) in itertools.product(("start", "end"), enumerate(pairs, 1)):
        layers = {labels[i]: arms[i]["looks"][moment]["layers"] for i in pair}
        names = _layer_names([arms[i] for i in pair])
        numbers = [str(place + 1) for place in range(len(names))]
        flat = {label: _overall(of_arm, "saturated") for label, of_arm in layers.items()}
        titles = {label: f"{label}: {share} flat" for label, share in flat.items()}
        yield Picture(
            "activations",
            f"activations-{moment}-{number}",
            f"Activations {_SAID[moment]}",
            f"From the first layer down. Saturated: {_listed(flat)}.",
            _ridges({titles[label]: _activations(some) for label, some in layers.items()}, numbers, pair[0]),
        )
        spreads = {label: " to ".join(_deviation(some[i]) for i in (0, -1)) for label, some in layers.items()}
        yield Picture(
            "histograms",
            f"gradients-{moment}-{number}",
            f"Entries of the gradients {_SAID[moment]}",
            f"From the first layer down. Standard deviation from the first to the last: {_listed(spreads)}.",
            _ridges({label: [one["gradient"] for one in some] for label, some in layers.items()}, names, pair[0]),
        )


def _ridges(columns: Mapping[str, Sequence["Distribution | None"]], layers: Sequence[str], color: int) -> "Figure":
    depth = max(map(len, columns.values()))
    places = evenly_chosen(depth, _MOST_ROWS)
    chosen = {
        title: [found[place] if place < len(found) else None for place in places] for title, found in columns.items()
    }
    return draw_ridges(chosen, [layers[place] for place in places], x_label="", color=color)


def _activations(layers: Sequence[Mapping[str, Any]]) -> "list[Distribution | None]":
    """Return how the activations of hidden layers are distributed; the only layer has outputs, at least."""
    return [layer["outputs"] for layer in layers if layer["activation"]] or [layers[0]["after"] or layers[0]["before"]]


def _overall(layers: Sequence[Mapping[str, Any]], kind: str) -> str:
    """Return a share over all layers that have one, by their units."""
    known = [layer for layer in layers if layer[kind] is not None]
    units = sum(layer["units"] for layer in known)
    return f"{sum(layer[kind] * layer['units'] for layer in known) / units:.0%}" if units else "none"


def _deviation(layer: Mapping[str, Any]) -> str:
    return "unknown" if layer["gradient"] is None else _size(layer["gradient"]["sd"])


def _listed(words: Mapping[str, str]) -> str:
    return ", ".join(f"{label} {word}" for label, word in words.items())


def _ratios(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    drawn = []
    for number, (arm, label) in enumerate(zip(arms, labels, strict=True), 1):
        if not arm["updates"]:
            continue
        steps = [record["step"] for record in arm["updates"]]
        n_layers = len(arm["updates"][0]["ratios"])
        lines = [
            Series(layer_name(i, n_layers), steps, [record["ratios"][i] for record in arm["updates"]])
            for i in evenly_chosen(n_layers, _MOST_LINES)
        ]
        picture = draw_lines(lines, x_label="step", y_label="update / weight", log=True, reference=_USUAL_RATIO)
        last = [ratio for ratio in arm["updates"][-1]["ratios"] if ratio is not None]
        ends = f"At the end from {_size(min(last))} to {_size(max(last))}, by layer." if last else "Unknown at the end."
        title = f"Size of a step relative to the weight, {label}"
        drawn.append(Picture("ratios", f"ratios-{number}", title, ends, picture))
    align([picture.figure for picture in drawn])
    yield from drawn


def _layer_names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the layers' numbers; the last one is the output, where all networks are as deep."""
    depths = {len(arm["layers"]["end"]) for arm in arms}
    numbers = [str(number + 1) for number in range(max(depths))]
    return [*numbers[:-1], "out"] if len(depths) == 1 else numbers


def _size(number: float | None) -> str:
    return "unknown" if number is None or not math.isfinite(number) else f"{number:.2g}"
