"""Records of what happens in the layers of a network, as a training makes them, of made-up numbers."""

import numpy as np


def distribution(rng, mean, sd):
    values = rng.normal(mean, sd, 2000)
    counts, edges = np.histogram(values, 40)
    quantiles = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])
    ends = {"low": float(edges[0]), "high": float(edges[-1])}
    return {**ends, "counts": counts.tolist(), "mean": mean, "sd": sd, "quantiles": quantiles.tolist()}


def quartiles(rng, low, high):
    return sorted(rng.uniform(low, high, 5).tolist())


def look(epoch, names, *, normalized=True, activation="ELU", **fields):
    """Return a record of layers; `fields` are those of each that are others than usual."""
    rng = np.random.default_rng(epoch + 1)
    layers = []
    for place, name in enumerate(names):
        layers.append(
            {
                "name": name,
                "norm": f"{name}.norm" if normalized else None,
                "activation": activation,
                "units": 10,
                "before": distribution(rng, 0.2 * place, 1.0 + 0.3 * (epoch + 1)),
                "after": distribution(rng, 0.0, 1.0) if normalized else None,
                "outputs": distribution(rng, 0.3, 0.5),
                "dead": 0.01 * place,
                "saturated": 0.1,
                "weight_norm": 3.0,
                "gradient_norm": 0.1 / (place + 1),
                "gradient": distribution(rng, 0.0, 0.01),
                "update_ratio": None if epoch < 0 else 1e-3 / (epoch + 1),
                **{name: quartiles(rng, 0.5, 1.5) if normalized else None for name in ("gamma", "running_var")},
                **{name: quartiles(rng, -0.5, 0.5) if normalized else None for name in ("beta", "running_mean")},
                "sample_mean": quartiles(rng, -0.5, 0.5),
                "sample_var": quartiles(rng, 0.5, 1.5),
                **fields,
            }
        )
    return {"epoch": epoch, "step": 10 * (epoch + 1), "layers": layers}
