"""How a trained estimator shows itself in a notebook: its parameters, its layers, its loss curve."""

from html import escape
from typing import Any

from sklearn.utils import estimator_html_repr

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
        return f'{picture}<div style="margin: 0.5em 0">{_summary(estimator)}{_curve(estimator.loss_curve_)}</div>'


def _summary(estimator: Any) -> str:
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
    return f"<div>{escape(', '.join(words))}</div>"


def _curve(losses: list[float]) -> str:
    """Draw the loss over the epochs, from the first at the left to the last at the right."""
    if len(losses) < 2:
        return ""
    low, span = min(losses), (max(losses) - min(losses)) or 1.0
    points = " ".join(
        f"{i * _WIDTH / (len(losses) - 1):.1f},{_HEIGHT - (loss - low) / span * _HEIGHT:.1f}"
        for i, loss in enumerate(losses)
    )
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="-2 -2 {_WIDTH + 4} {_HEIGHT + 4}" role="img" '
        f'aria-label="loss over the epochs"><polyline points="{points}" fill="none" stroke="currentColor"/></svg>'
    )
