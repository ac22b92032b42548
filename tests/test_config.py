"""The configuration: limits with a message, JSON round trip, recipes and schedules."""

import dataclasses
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm import InputError, TrainingConfig, recipes
from batchnorm.training.schedules import learning_rate


def test_classic_is_the_tutorial_to_the_letter():
    classic = recipes["classic"]
    assert classic.architecture == {
        "hidden_layer_sizes": (300, 100),
        "activation": "elu",
        "normalization": "batch",
        "normalize_logits": True,
        "bn_momentum": 0.1,  # 1 - 0.9
        "bn_eps": 1e-3,
        "bn_variance": "biased",
        "dropout": 0.0,
    }
    assert (classic.optimizer, classic.learning_rate, classic.momentum, classic.schedule) == (
        "sgd",
        0.01,
        0,
        "constant",
    )
    assert (classic.epochs, classic.batch_size, classic.evaluate_every) == (40, 50, 5)
    assert (classic.weight_decay, classic.label_smoothing, classic.early_stopping_patience) == (0, 0, None)


def test_goes_through_json_unchanged():
    config = TrainingConfig(hidden_layer_sizes=[7, 5], early_stopping_patience=3, learning_rate=1)
    back = TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert back == config
    assert back.hidden_layer_sizes == (7, 5)
    with pytest.raises(InputError, match="unknown fields: learning_rat"):
        TrainingConfig.from_dict({"learning_rat": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 1}, "batch_size is 1, expected at least 2 with batch normalisation: a single example"),
        ({"batch_size": 0, "normalization": "none"}, "batch_size is 0, expected a whole number at least 1"),
        ({"epochs": 2.5}, "epochs is 2.5, expected a whole number at least 1"),
        ({"epochs": True}, "epochs is True, expected a whole number"),
        ({"learning_rate": 0}, "learning_rate is 0, expected a number above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan, expected a number above 0"),
        ({"learning_rate": math.inf}, "learning_rate is inf, expected a number above 0"),
        ({"learning_rate": "0.1"}, "learning_rate is '0.1', expected a number above 0"),
        ({"momentum": 1.0}, "momentum is 1.0, expected a number from 0 below 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1, expected a number at least 0"),
        ({"learning_rate": 1e308}, r"learning_rate is 1e\+308, expected a number above 0 and at most 3.40282e\+38"),
        ({"weight_decay": 3.5e38}, r"weight_decay is 3.5e\+38, expected a number at least 0 and at most 3.40282e\+38"),
        (
            {"adam_eps": 1e-50},
            "adam_eps is 1e-50, expected a number above 0 and at least 1.4013e-45: it is 0 in float32",
        ),
        ({"bn_eps": 1e-46}, "bn_eps is 1e-46, expected a number above 0 and at least 1.4013e-45: it is 0 in float32"),
        ({"learning_rate": 1e-50}, "learning_rate is 1e-50, expected a number above 0 and at least 1.4013e-45"),
        ({"bn_momentum": 1e-50}, "bn_momentum is 1e-50, expected a number above 0 to 1 and at least 1.4013e-45"),
        ({"bn_momentum": 0}, "bn_momentum is 0, expected a number above 0 to 1$"),
        ({"early_stopping_patience": 0}, "early_stopping_patience is 0, expected a whole number at least 1"),
        ({"epochs": None}, "epochs is None, expected a whole number"),
        ({"seed": -1}, "seed is -1, expected a whole number from 0 to"),
        ({"nesterov": 1}, "nesterov is 1, expected True or False"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum above 0"),
        ({"schedule": "linear"}, "schedule is 'linear', expected one of constant, one-cycle, cosine"),
        ({"hidden_layer_sizes": 300}, "hidden_layer_sizes is 300, expected positive whole numbers"),
    ],
)
def test_says_what_is_wrong_with_a_value(values, message):
    with pytest.raises(InputError, match=message):
        TrainingConfig(**values)


@pytest.mark.parametrize("name", ["adam_eps", "bn_eps", "learning_rate", "bn_momentum"])
def test_the_smallest_number_of_float32_is_above_0(name):
    config = TrainingConfig(**{name: 1.5e-45})
    assert torch.tensor(getattr(config, name)) > 0


def test_without_batch_norm_a_batch_of_one_is_allowed():
    assert TrainingConfig(batch_size=1, normalization="none").batch_size == 1


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainingConfig().epochs = 3


@given(schedule=st.sampled_from(["constant", "one-cycle", "cosine"]), n_steps=st.integers(1, 500), data=st.data())
def test_schedules_stay_between_zero_and_their_peak(schedule, n_steps, data):
    step = data.draw(st.integers(0, n_steps - 1))
    assert 0 < learning_rate(schedule, 0.5, step, n_steps) <= 0.5


def test_schedules_have_their_shapes():
    n = 1000
    assert {learning_rate("constant", 0.5, step, n) for step in range(n)} == {0.5}
    cosine = [learning_rate("cosine", 1.0, step, n) for step in range(n)]
    assert cosine[0] == 1.0
    assert cosine[500] == pytest.approx(0.5)
    assert cosine == sorted(cosine, reverse=True)
    cycle = [learning_rate("one-cycle", 1.0, step, n) for step in range(n)]
    assert cycle[0] == pytest.approx(1 / 25)
    assert cycle[300] == max(cycle) == 1.0
    assert cycle[:301] == sorted(cycle[:301])
    assert cycle[300:] == sorted(cycle[300:], reverse=True)
    assert cycle[-1] < 1e-4
