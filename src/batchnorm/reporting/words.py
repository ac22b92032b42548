"""What a run amounts to, in sentences: what was trained, how good it is, what is remarkable, and nothing beyond."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from batchnorm.dynamics import HALF_FLAT
from batchnorm.network import DenseNetwork
from batchnorm.printing import without_folders
from batchnorm.reporting.inside import Inside, moment
from batchnorm.reporting.mistakes import confusions
from batchnorm.reporting.pieces import listed, number, percent, plural
from batchnorm.reporting.predictions import Classified, Labelled, Valued
from batchnorm.reporting.subject import Subject

_RISEN = 1.05  # of the least validation loss: below that it has not risen
_DEAD, _SATURATED, _VANISHING = 0.05, 0.5, 100.0
_COUNTABLE = 1e6
_LAGGING = 1.25  # of a ratio of deviations
_SURE = 1.96  # standard errors of 95 %
_OUTPUTS = {"classification": "class", "labels": "label", "regression": "value"}


def summarize(subject: Subject, found: Classified | Labelled | Valued | None) -> list[str]:
    """Return the sentences at the top of a page."""
    return [
        *_what(subject),
        *_how_good(subject, found),
        *_lagging(subject),
        *_overfitting(subject),
        *sentences_on_layers(subject.inside),
        *_confusion(subject, found),
    ]


def notices(subject: Subject) -> list[str]:
    """Return what a reader must know before believing the rest."""
    told = []
    if not subject.is_finished:
        ended = next((session["ended"] for session in reversed(subject.sessions) if session.get("ended")), None)
        why = f" It ended with: {without_folders(ended)}" if ended else ""
        epochs = plural(subject.run.results["epochs"], "complete epoch")
        told.append(
            f"This training is not finished: the page shows it as it was saved last, after {epochs} of "
            f"{subject.run.config.epochs}. Nothing was tested.{why}"
        )
    if subject.without is not None:
        told.append(f"The data are not at hand, so that no single example can be shown: {subject.without}.")
    if (changed := subject.run.results.get("recalibrated")) is not None:
        told.append(
            "The population statistics are others than those that the run ended with: computed of "
            f"{changed['data']}, by {changed['method']}."
        )
    return told


def _what(subject: Subject) -> Iterator[str]:
    run, sizes = subject.run, subject.sizes
    outputs = _OUTPUTS[run.task]
    n = plural(len(subject.names), outputs, "classes" if outputs == "class" else None)
    trained_on = f"on {sizes['train']:,} examples of {subject.data_name}" if sizes else f"on {subject.data_name}"
    epochs = plural(run.results["epochs"], "epoch")
    stopped = ", stopped early, as the validation part got no better," if run.results["stopped_early"] else ""
    yield f"{_network(subject)} with {n} was trained{stopped} for {epochs} {trained_on}."


def _network(subject: Subject) -> str:
    network, config = subject.run.network, subject.run.config
    if not isinstance(network, DenseNetwork):
        return f"A network of class {type(network).__name__}"
    sizes = config.hidden_layer_sizes
    if not sizes:
        layers = "without hidden layers"
    elif len(sizes) == 1:
        layers = f"with one hidden layer of {sizes[0]:,} units"
    elif len(set(sizes)) == 1:
        layers = f"with {len(sizes)} hidden layers of {sizes[0]:,} units each"
    else:
        layers = f"with {len(sizes)} hidden layers of {listed(f'{size:,}' for size in sizes)} units"
    if sizes:
        layers += f" ({_activation(config.activation)})"
    places = [*(["before each activation"] if sizes else []), *(["on its outputs"] if config.normalize_logits else [])]
    if config.normalization == "none" or not places:
        return f"A dense network {layers}, without batch norm,"
    return f"A dense network {layers}, batch norm {listed(places)},"


def _activation(name: str) -> str:
    return {"relu": "ReLU", "leaky_relu": "leaky ReLU", "elu": "ELU", "gelu": "GELU", "selu": "SELU"}.get(name, name)


def _how_good(subject: Subject, found: Classified | Labelled | Valued | None) -> Iterator[str]:
    test = subject.run.results["test"]
    if test:
        running, population = test["running"], test.get("population")
        if subject.run.task == "regression":
            yield from _of_values(running, population)
        else:
            yield from _of_shares(subject, running["accuracy"], population)
    elif subject.run.history:
        last = subject.run.history[-1]
        name = "R²" if subject.run.task == "regression" else "accuracy"
        figure = last["validation_r2" if subject.run.task == "regression" else "validation_accuracy"]
        yield f"At the last evaluation, in epoch {last['epoch']}, {name} on the validation part was {number(figure)}."
    if isinstance(found, Classified) and len(found.true):
        most = float(np.bincount(found.true).max() / len(found.true))
        accuracy = float((found.true == found.predicted).mean())
        if accuracy <= most + _SURE * math.sqrt(most * (1 - most) / len(found.true)):
            yield (
                f"That is no better, within chance, than always to answer the most frequent class: {percent(most)} of "
                f"the {subject.part} part have it."
            )


def _of_shares(subject: Subject, accuracy: float, population: dict[str, Any] | None) -> Iterator[str]:
    n = subject.sizes.get("test")
    what = "are classified correctly" if subject.run.task == "classification" else "have all their labels right"
    of = f"Of {n:,} test examples" if n else "Of the test examples"
    chance = ""
    if n:
        error = _SURE * math.sqrt(max(accuracy * (1 - accuracy), 1 / n) / n)
        chance = (
            f" Another {n:,} examples of the same kind could give up to about {100 * error:.1f} points more or less."
        )
    if population is None:
        yield f"{of} {percent(accuracy, 2)} {what}.{chance}"
        return
    difference = accuracy - population["accuracy"]
    how = (
        f"{100 * abs(difference):.2f} points {'less' if difference > 0 else 'more'}" if difference else "the same share"
    )
    yield (
        f"{of} {percent(accuracy, 2)} {what} with running averages, and {how} with exact population statistics.{chance}"
    )


def _of_values(running: dict[str, Any], population: dict[str, Any] | None) -> Iterator[str]:
    r2 = "unknown" if running["r2"] is None else f"{running['r2']:.4f}"
    explained = "" if running["r2"] is None else " (1 would be perfect, 0 is what the mean alone achieves)"
    yield (
        f"On the test part R² is {r2}{explained}, with a root mean squared error of {number(running['rmse'])}, with "
        "running averages."
    )
    if population is not None and population["r2"] is not None:
        yield f"With exact population statistics R² is {population['r2']:.4f}."


def _lagging(subject: Subject) -> Iterator[str]:
    """Yield how far running averages are from the population's statistics, if that is far."""
    ratios = {name: row[2] for name, row in subject.inside.deviation_ratios.items() if row[2]}
    worst = max(ratios, key=lambda name: abs(math.log(ratios[name] or 1.0)), default=None)
    if worst is not None and not 1 / _LAGGING <= ratios[worst] <= _LAGGING:
        ratio, how = ratios[worst], "large" if ratios[worst] > 1 else "small"
        yield (
            f"The running averages are not yet at the statistics of the training part: in {worst}, half of the units "
            f"have a standard deviation that is {max(ratio, 1 / ratio):.2g} times too {how}, or more. Few steps, or a "
            "small momentum, leave them behind."
        )


def _overfitting(subject: Subject) -> Iterator[str]:
    history = subject.run.history
    if not history:
        return
    last, n = history[-1], subject.sizes.get("validation", 0)
    if "train_accuracy" in last and n:
        train, validation = last["train_accuracy"], last["validation_accuracy"]
        error = _SURE * math.sqrt(max(validation * (1 - validation), 1 / n) / n)
        if train - validation > error:
            yield (
                f"It is right on {percent(train)} of what it was trained on, and on {percent(validation)} of the "
                f"validation part: {100 * (train - validation):.1f} points do not carry over to what it has not seen."
            )
    losses = [record["validation_loss"] for record in history]
    best = int(np.argmin(losses))
    if losses[-1] > _RISEN * losses[best]:
        yield (
            f"The validation loss was lowest in epoch {history[best]['epoch']} ({losses[best]:.4g}) and has risen "
            f"since, to {losses[-1]:.4g}: from there on it overfitted, in its probabilities at least."
        )


def sentences_on_layers(inside: Inside) -> Iterator[str]:
    """Yield what is remarkable in the last look into the layers."""
    looks = inside.looks
    if not looks:
        return
    layers, when = looks[-1]["layers"], moment(looks[-1])
    for kind, least, told in (
        ("dead", _DEAD, "of the units are dead: they pass no gradient on for any example of the sample"),
        ("saturated", _SATURATED, "of the outputs are on the flat part of the activation"),
    ):
        known = [layer for layer in layers if layer[kind] is not None]
        if kind == "saturated":
            known = [layer for layer in known if layer["activation"] not in HALF_FLAT]
        worst = max(known, key=lambda layer: layer[kind], default=None)
        if worst is not None and worst[kind] >= least:
            yield f"In {when}, {percent(worst[kind], 0)} {told}, in {worst['name']}."
    first, last = layers[0]["gradient_norm"], layers[-1]["gradient_norm"]
    if first and last and not 1 / _VANISHING <= first / last <= _VANISHING:
        ratio, how = max(first, last) / min(first, last), "smaller" if first < last else "larger"
        times = f"{ratio:,.0f}" if ratio < _COUNTABLE else f"more than {_COUNTABLE:,.0f}"
        yield f"In {when}, the gradient of the first layer is {times} times {how} than that of the last."


def _confusion(subject: Subject, found: Classified | Labelled | Valued | None) -> Iterator[str]:
    if not isinstance(found, Classified):
        return
    pairs = confusions(found, subject.names)[:3]
    if pairs and pairs[0][2] > 1:
        told = listed(f"{true} is taken for {guess} ({plural(n, 'time')})" for true, guess, n in pairs)
        yield f"The most frequent mistakes in the {subject.part} part: {told}."
