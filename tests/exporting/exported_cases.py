"""What is exported in several test modules, and how an ONNX file is run."""

import numpy as np
import onnxruntime
import pandas as pd

from batchnorm import BatchNormClassifier

OPTIONS = {"hidden_layer_sizes": (8,), "epochs": 2, "random_state": 0}


def run(path, **inputs):
    """Return what a file computes, by the names of its outputs."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def shop(n=200, seed=0):
    """Return sales by columns of every kind, of which parts are missing."""
    rng = np.random.default_rng(seed)
    hours = pd.to_timedelta(rng.integers(0, 20_000, n) * 3601, "s")
    frame = pd.DataFrame(
        {
            "price": rng.normal(50, 10, n), "stock": pd.array(rng.integers(0, 9, n), dtype="Int64"),
            "new": rng.random(n) < 0.5, "color": rng.choice(["red", "green", "blue"], n),
            "place": rng.choice([f"place {i}" for i in range(50)], n),
            "size": pd.Categorical(rng.choice([1, 2, 3], n)),
            "at": pd.Timestamp("2024-01-01", tz="Europe/Berlin") + hours,
            "day": (pd.Timestamp("1965-01-01") + rng.integers(0, 9000, n) * pd.Timedelta(days=1)),
            "waited": hours / 7, "always": "the same",
        }
    )  # fmt: skip
    sold = 3.0 * (frame.color == "red") + 0.05 * frame.price + frame.new + rng.normal(size=n)
    frame.loc[::7, "price"], frame.loc[::5, "stock"], frame.loc[::11, "at"] = np.nan, pd.NA, pd.NaT
    frame.loc[3::13, "color"], frame.loc[::9, "place"], frame.loc[::17, "day"] = None, None, pd.NaT
    return frame, sold.to_numpy()


def new_rows():
    """Return rows of another shop: with values that no training has seen."""
    frame, _ = shop(60, seed=1)
    frame.loc[1::7, "color"], frame.loc[2::7, "place"] = "violet", "abroad"
    frame["day"] -= pd.Timedelta(days=60_000)
    return frame


def fitted(estimator_class, **options):
    frame, sold = shop()
    y = np.where(sold > np.median(sold), "many", "few") if estimator_class is BatchNormClassifier else sold
    return estimator_class(**OPTIONS | options).fit(frame, y)


def inputs_of(frame):
    """Return a shop's columns as docs/export.md says that they are given."""
    utc, day = (frame[name].dt.tz_localize(None) if name == "day" else frame[name].dt.tz_convert(None) for name in
                ("at", "day"))  # fmt: skip
    return {
        "price": frame.price.to_numpy(), "stock": frame.stock.to_numpy(float, na_value=np.nan),
        "new": frame.new.to_numpy(float), "color": frame.color.fillna("").to_numpy(object),
        "place": frame.place.fillna("").to_numpy(object), "size": frame["size"].astype(str).to_numpy(object),
        "at": utc.to_numpy("datetime64[us]").astype(np.int64), "day": day.to_numpy("datetime64[us]").astype(np.int64),
        "waited": frame.waited.dt.total_seconds().to_numpy(),
    }  # fmt: skip
