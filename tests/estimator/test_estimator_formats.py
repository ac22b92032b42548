"""Estimators that earlier versions saved load for good: each change of the format adds its own to samples/."""

import json

import numpy as np
import pytest

from batchnorm import BatchNormClassifier, BatchNormRegressor
from conftest import SAMPLES
from estimator_cases import outputs

KINDS = {"classifier": BatchNormClassifier, "regressor": BatchNormRegressor}
FORMATS = [1, 2]


@pytest.fixture(params=[(kind, number) for kind in KINDS for number in FORMATS], ids=lambda p: f"{p[0]}-format-{p[1]}")
def saved(request):
    """A loaded estimator, rows, and what its writer computed of them."""
    kind, number = request.param
    seen = json.loads((SAMPLES / f"format-{number}.json").read_text())
    return KINDS[kind].load(SAMPLES / f"{kind}-format-{number}.safetensors"), np.array(seen["rows"]), seen[kind]


def test_it_predicts_what_its_writer_saw(saved):
    estimator, rows, expected = saved
    # Not to the bit: other processors round differently.
    np.testing.assert_allclose(outputs(estimator, rows), expected, rtol=1e-9)
    if isinstance(estimator, BatchNormClassifier):
        assert estimator.classes_.tolist() == ["no", "yes"]
        assert estimator.predict(rows).tolist() == [("no", "yes")[int(p[1] > p[0])] for p in expected]
    else:
        assert (estimator.loss, estimator.quantile) == ("squared_error", 0.5)  # which no file of then has


def test_it_goes_on_and_is_saved_again(saved, tmp_path):
    estimator, rows, expected = saved
    losses, seen = list(estimator.loss_curve_), estimator.t_
    targets = ["yes", "no", "no", "yes"] if isinstance(estimator, BatchNormClassifier) else [2.0, 0.0, -3.0, 1.0]
    estimator.partial_fit(rows, targets)
    assert (estimator.n_iter_, estimator.t_) == (len(losses) + 1, seen + len(rows))
    assert estimator.loss_curve_[:-1] == losses
    assert np.isfinite(outputs(estimator, rows)).all()
    assert not np.allclose(outputs(estimator, rows), expected, rtol=1e-9)
    estimator.save(tmp_path / "again")
    np.testing.assert_array_equal(outputs(type(estimator).load(tmp_path / "again"), rows), outputs(estimator, rows))
