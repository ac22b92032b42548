"""The folder of several seeds: what it was begun with, in a format that has a number."""

import json

import pytest

from batchnorm import InputError, TrainingConfig
from batchnorm.training.runs import Plan, load_plan

PLAN = Plan(TrainingConfig(epochs=3, seed=5), "digits", 0, n_seeds=2, session={"threads": 1})


@pytest.fixture
def folder(tmp_path):
    PLAN.save(tmp_path / "seeds")
    return tmp_path / "seeds"


def rewrite(folder, change):
    values = json.loads((folder / "seeds.json").read_text())
    (folder / "seeds.json").write_text(json.dumps(change(values)))


def test_what_is_loaded_is_what_was_saved(folder):
    assert json.loads((folder / "seeds.json").read_text())["format"] == 1
    assert load_plan(folder) == PLAN


def test_one_without_a_format_is_of_the_first(folder):
    rewrite(folder, lambda values: {name: value for name, value in values.items() if name != "format"})
    assert load_plan(folder) == PLAN


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values | {"format": 2}, "seeds has format 2, this version of batchnorm reads 1"),
        (lambda values: values | {"format": 2, "more": 1}, "seeds has format 2, this version of batchnorm reads 1"),
        (lambda values: values | {"format": "x"}, "seeds has format x, this version of batchnorm reads 1"),
        (lambda values: values | {"more": 1}, "seeds.json is not the plan of several runs: .*more"),
        (lambda values: values | {"config": {"epochs": 0}}, "seeds.json is not the plan of several runs: epochs is 0"),
        (lambda values: [values], "seeds.json is damaged: expected a JSON object with config"),
        (lambda values: {"format": 1}, "seeds.json is damaged: expected a JSON object with config"),
    ],
)
def test_says_what_is_wrong_with_one(change, message, folder):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_plan(folder)
    (folder / "seeds.json").write_text("{")
    with pytest.raises(InputError, match=r"seeds\.json cannot be read as JSON"):
        load_plan(folder)
