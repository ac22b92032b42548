"""Write this version's samples of estimators: python tests/samples/make_estimators.py FORMAT."""

import json
import sys
from pathlib import Path

import numpy as np

from batchnorm import BatchNormClassifier, BatchNormRegressor

HERE = Path(__file__).parent


def main(number: str) -> None:
    """Save a small estimator of each kind, and what it computes of some rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3))
    targets = {"classifier": np.where(X[:, 0] > 0, "yes", "no"), "regressor": X @ [1.0, -2.0, 0.5] + 3}
    options = {"hidden_layer_sizes": (6,), "epochs": 5, "random_state": 0}
    path = HERE / f"format-{number}.json"
    seen = json.loads(path.read_text()) | {"rows": X[:4].tolist()}
    for name, kind in (("classifier", BatchNormClassifier), ("regressor", BatchNormRegressor)):
        estimator = kind(**options).fit(X, targets[name])
        estimator.save(HERE / f"{name}-format-{number}.safetensors")
        seen[name] = getattr(estimator, "predict_proba" if name == "classifier" else "predict")(X[:4]).tolist()
    path.write_text(json.dumps(seen, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
