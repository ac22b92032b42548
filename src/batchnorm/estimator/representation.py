"""How a trained estimator shows itself in a notebook: its parameters, its layers, its loss curve."""

from typing import Any

from sklearn.utils import estimator_html_repr

from batchnorm import markup

_WIDTH, _HEIGHT = 240, 48  # of the curve, in pixels


class NetworkRepresentation:
    """Adds to scikit-learn's picture of an estimator what only a trained network has."""

    def _repr_html_inner(self) -> str:
        return self._html_repr()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        bundle: dict[str, str] = super()._repr_mimebundle_(**options)  # type: ignore[misc]  # scikit-learn's
        return bundle | ({"text/html": self._html_repr()} if "text/html" in bundle else {})

    def _html_repr(self) -> str:
        picture = str(estimator_html_repr(self))
        estimator: Any = self
        if not hasattr(estimator, "network_"):
            return picture
        return picture + markup.html(_summary(estimator), *_curve(estimator.loss_curve_))


def _summary(estimator: Any) -> markup.Element:
    network = estimator.network_
    sizes = [network.in_features, *network.architecture["hidden_layer_sizes"], network.n_classes]
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    n_epochs = len(estimator.loss_curve_)
    words = [
        " → ".join(f"{size:,}" for size in sizes),
        f"{n_parameters:,} parameters",
        "1 epoch" if n_epochs == 1 else f"{n_epochs:,} epochs",
        f"loss {estimator.loss_:.4g}",
    ]
    if estimator.best_validation_score_ is not None:
        words.append(f"best validation score {estimator.best_validation_score_:.4g}")
    return markup.element("div", ", ".join(words))


def _curve(losses: list[float]) -> list[markup.Element]:
    """Draw the loss over the epochs, from the first at the left to the last at the right."""
    if len(losses) < 2:
        return []
    low, span = min(losses), (max(losses) - min(losses)) or 1.0
    points = " ".join(
        f"{i * _WIDTH / (len(losses) - 1):.1f},{_HEIGHT - (loss - low) / span * _HEIGHT:.1f}"
        for i, loss in enumerate(losses)
    )
    line = markup.element("polyline", points=points, fill="none", stroke="currentColor")
    box = f"-2 -2 {_WIDTH + 4} {_HEIGHT + 4}"
    size = {"width": str(_WIDTH), "height": str(_HEIGHT), "viewBox": box}
    return [markup.element("svg", line, role="img", aria_label="loss over the epochs", **size)]
