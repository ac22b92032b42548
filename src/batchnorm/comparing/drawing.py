"""The pictures of a comparison, each with what it is and what is to be seen in it, in words."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from batchnorm.comparing.records import MOMENTS
from batchnorm.comparing.variations import said
from batchnorm.comparing.words import Summary, figure, focus, name_of
from batchnorm.figures import Series, draw_layers, draw_lines, draw_ridges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from batchnorm.figures import Distribution

_MOST_FOCUSED = 4  # arms that are looked into
_MOST_LINES = 8
_MOST_ROWS = 12  # layers of a figure of histograms, and of ratios
_MOST_TOGETHER = 3  # arms whose gradients at all moments go into one figure
_LONGEST_LABEL = 24
_USUAL_RATIO = 1e-3  # of the size of a step to that of the weight, a rule of thumb
_SAID = {"start": "at the start", "middle": "in the middle", "end": "at the end"}
_MEASURES = {"accuracy": "validation accuracy", "r2": "validation R²"}
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
    shown = focused(summary)
    yield from _curves(summary)
    if summary["learning_rates"]:
        yield _rates(summary)
    if all(arm["layers"]["end"] for arm in shown):
        labels = labels_of(summary, shown)
        yield from _gradients(shown, labels)
        yield from _shares(shown, labels)
        yield from _outputs(shown, labels)
        yield from _gradient_histograms(shown, labels)
        yield from _ratios(shown, labels)


def focused(summary: Summary) -> list[dict[str, Any]]:
    """Return the arms that are looked into, as many as can be told apart."""
    return focus(summary)[:_MOST_FOCUSED]


def labels_of(summary: Summary, arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return short names of arms, or their numbers in the table where there are none."""
    differing = [name for name in summary["variations"] if len({str(arm["values"][name]) for arm in arms}) > 1]
    names = [", ".join(_short(name, arm["values"][name]) for name in differing) for arm in arms]
    if len(arms) > 1 and max(map(len, names)) <= _LONGEST_LABEL:
        return names
    return [f"arm {summary['arms'].index(arm) + 1}" for arm in arms]


def _short(name: str, value: Any) -> str:
    if name == "normalization":
        return {"batch": "batch norm", "none": "no batch norm"}[value]
    if isinstance(value, str):
        return value
    return f"{_SHORT.get(name, name.replace('_', ' '))} {said(value)}"


def _curves(summary: Summary) -> Iterator[Picture]:
    """Draw the validation figure over the epochs, of arms that differ in the learning rate alone by themselves."""
    measure, arms = summary["measure"], {arm["name"]: arm for arm in summary["arms"]}
    groups = [(sweep["values"], sweep["arms"]) for sweep in summary["learning_rates"]] or [({}, list(arms))]
    drawn = []
    for number, (values, names) in enumerate(groups[:_MOST_FOCUSED], 1):
        group = [arms[name] for name in names][:_MOST_LINES]
        lines = _lines(summary, group, f"validation_{measure}")
        picture = draw_lines(lines, x_label="epoch", y_label=_MEASURES[measure], reference=summary["threshold"])
        title = f"{_MEASURES[measure].capitalize()} over the epochs{f', {name_of(values)}' if values else ''}"
        drawn.append(Picture("curves", f"curves-{number}", title, _ends(group), picture))
    _align([picture.figure for picture in drawn])
    yield from drawn
    shown = focused(summary)
    loss = draw_lines(_lines(summary, shown, "train_loss"), x_label="epoch", y_label="training loss", log=True)
    yield Picture("curves", "loss", "Training loss over the epochs", f"Of {_names(shown)}.", loss)


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


def _ends(arms: Iterable[Mapping[str, Any]]) -> str:
    return "At the end " + "; ".join(f"{name_of(arm['values'])} {_end(arm)}" for arm in arms) + "."


def _end(arm: Mapping[str, Any]) -> str:
    if arm["score"]["mean"] is None:
        return "diverged"
    return figure(arm["score"]) + (f", but {arm['diverged']} diverged" if arm["diverged"] else "")


def _rates(summary: Summary) -> Picture:
    arms, measure = {arm["name"]: arm for arm in summary["arms"]}, summary["measure"]
    lines, said_of = [], []
    for sweep in summary["learning_rates"][:_MOST_LINES]:
        group = [arms[name] for name in sweep["arms"]]
        rates = [arm["learning_rate"] for arm in group]
        label = ", ".join(_short(name, value) for name, value in sweep["values"].items()) or "all"
        lines.append(_banded(label, rates, [arm["score"] for arm in group]))
        highest = sweep["highest"]
        learns = "learns at none" if highest is None else f"learns up to {said(highest)}"
        said_of.append(f"{name_of(sweep['values'])} {learns}")
    picture = draw_lines(
        lines,
        x_label="learning rate",
        y_label=_MEASURES[measure],
        log_x=True,
        reference=summary["threshold"],
    )
    description = f"{'; '.join(said_of)}. What diverged has no point.".capitalize()
    return Picture(
        "rates", "learning-rates", f"{_MEASURES[measure].capitalize()} by learning rate", description, picture
    )


def _gradients(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    """Draw the gradient norm layer by layer: all moments on one axis, or of many arms each on its own."""
    groups = [MOMENTS] if len(arms) <= _MOST_TOGETHER else [(moment,) for moment in MOMENTS]
    for moments in groups:
        lines = [
            _over_layers(f"{label}, {moment}" if len(moments) > 1 else label, arm, moment, "gradient_norm", i, dash)
            for i, (arm, label) in enumerate(zip(arms, labels, strict=True))
            for dash, moment in enumerate(moments)
        ]
        when = ", ".join(_SAID[moment] for moment in moments)
        picture = draw_layers(lines, _layer_names(arms), y_label="gradient norm of the weights", log=True)
        sizes = "; ".join(
            f"{name_of(arm['values'])} {_SAID[moment]} from {_size(norms[0])} in the first layer to "
            f"{_size(norms[-1])} in the last"
            for arm in arms
            for moment in moments
            if (norms := [layer["gradient_norm"] for layer in arm["layers"][moment]])
        )
        name = "gradient-norms" if len(moments) > 1 else f"gradient-norms-{moments[0]}"
        yield Picture("gradients", name, f"Gradient norm layer by layer, {when}", f"{sizes}.".capitalize(), picture)


def _shares(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    kinds = {"saturated": "activations on their flat part", "dead": "units without a gradient for any example"}
    for kind, what in kinds.items():
        lines = [
            _over_layers(f"{label}, {moment}", arm, moment, kind, i, 1 - dash)
            for i, (arm, label) in enumerate(zip(arms, labels, strict=True))
            for dash, moment in enumerate(("start", "end"))
        ]
        picture = draw_layers(lines, _layer_names(arms), y_label=what, percent=True)
        most = (f"{name_of(arm['values'])} {_most(arm, kind)}" for arm in arms)
        title = f"{kind.capitalize()}: {what}, layer by layer"
        yield Picture("shares", kind, title, f"At the end at most {'; '.join(most)}.", picture)


def _over_layers(label: str, arm: Mapping[str, Any], moment: str, what: str, color: int, dash: int) -> Series:
    values = [layer[what] for layer in arm["layers"][moment]]
    return Series(label, list(range(len(values))), values, color=color, dash=dash)


def _most(arm: Mapping[str, Any], kind: str) -> str:
    known = [layer[kind] for layer in arm["layers"]["end"] if layer[kind] is not None]
    return f"{max(known):.1%}" if known else "unknown"


def _outputs(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    for number, (arm, label) in enumerate(zip(arms, labels, strict=True), 1):
        ends = list(arm["looks"]["end"]["layers"][:-1] or arm["looks"]["end"]["layers"])
        places = _chosen(len(ends))
        columns = {
            _SAID[moment]: [_activations(arm["looks"][moment]["layers"][place]) for place in places]
            for moment in ("start", "end")
        }
        rows = [_with_share(place, ends[place]) for place in places]
        title = f"Activations layer by layer, {label}"
        description = (
            f"Of the first seed, {name_of(arm['values'])}. In brackets how much of a layer is saturated at the end: "
            f"at most {_most(arm, 'saturated')}."
        )
        picture = draw_ridges(columns, rows, x_label="activation", color=2 * (number - 1))
        yield Picture("activations", f"activations-{number}", title, description, picture)


def _activations(layer: Mapping[str, Any]) -> "Distribution | None":
    found: Distribution | None = layer["outputs"] or layer["after"] or layer["before"]
    return found


def _with_share(place: int, layer: Mapping[str, Any]) -> str:
    return f"{place + 1}" if layer["saturated"] is None else f"{place + 1} ({layer['saturated']:.0%})"


def _gradient_histograms(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    for number, (arm, label) in enumerate(zip(arms, labels, strict=True), 1):
        places = _chosen(len(arm["looks"]["start"]["layers"]))
        columns = {
            _SAID[moment]: [arm["looks"][moment]["layers"][place]["gradient"] for place in places]
            for moment in ("start", "end")
        }
        title = f"Gradients layer by layer, {label}"
        spreads = [arm["looks"]["start"]["layers"][place]["gradient"] for place in (places[0], places[-1])]
        sizes = " and ".join("unknown" if s is None else _size(s["sd"]) for s in spreads)
        description = (
            f"Of the first seed, {name_of(arm['values'])}: the entries of each weight's gradient. At the start their "
            f"standard deviation is {sizes} in the first and the last layer."
        )
        picture = draw_ridges(columns, [str(place + 1) for place in places], x_label="gradient", color=2 * (number - 1))
        yield Picture("histograms", f"gradients-{number}", title, description, picture)


def _ratios(arms: Sequence[dict[str, Any]], labels: Sequence[str]) -> Iterator[Picture]:
    drawn = []
    for number, (arm, label) in enumerate(zip(arms, labels, strict=True), 1):
        if not arm["updates"]:
            continue
        steps = [record["step"] for record in arm["updates"]]
        places = _chosen(len(arm["updates"][0]["ratios"]), _MOST_LINES)
        lines = [Series(f"layer {i + 1}", steps, [record["ratios"][i] for record in arm["updates"]]) for i in places]
        picture = draw_lines(lines, x_label="step", y_label="update / weight", log=True, reference=_USUAL_RATIO)
        last = [ratio for ratio in arm["updates"][-1]["ratios"] if ratio is not None]
        ends = f"At the last step from {_size(min(last))} to {_size(max(last))}, by layer" if last else "Unknown"
        title = f"Size of a step relative to the weight, {label}"
        drawn.append(Picture("ratios", f"ratios-{number}", title, f"{ends}; {name_of(arm['values'])}.", picture))
    _align([picture.figure for picture in drawn])
    yield from drawn


def _layer_names(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the layers' numbers; the last one is the output, where all networks are as deep."""
    depths = {len(arm["layers"]["end"]) for arm in arms}
    numbers = [str(number + 1) for number in range(max(depths))]
    return [*numbers[:-1], "output"] if len(depths) == 1 else numbers


def _chosen(n: int, most: int = _MOST_ROWS) -> list[int]:
    """Return places among `n`, evenly, the first and the last among them."""
    return sorted({round(i * (n - 1) / (most - 1)) for i in range(most)}) if n > most else list(range(n))


def _align(figures: Sequence["Figure"]) -> None:
    """Give figures that stand side by side the same vertical axis."""
    ends = [end for figure in figures for axes in figure.axes for end in axes.get_ylim()]
    for one in figures:
        for axes in one.axes:
            axes.set_ylim(min(ends), max(ends))


def _names(arms: Iterable[Mapping[str, Any]]) -> str:
    return "; ".join(name_of(arm["values"]) for arm in arms)


def _size(number: float | None) -> str:
    return "unknown" if number is None or not math.isfinite(number) else f"{number:.2g}"
