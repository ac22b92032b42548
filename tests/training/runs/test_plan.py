"""The folder of several seeds: what it was begun with, in a format that has a number."""

import dataclasses
import json
import shutil

import pytest

from batchnorm import InputError, TrainingConfig
from batchnorm.errors import UncheckedRunWarning
from batchnorm.training.runs import Plan, load_plan, load_summary, save_summary
from batchnorm.training.runs.sealing import Seal
from helpers import edit, unsealed

PLAN = Plan(TrainingConfig(epochs=3, seed=5), "digits", 0, n_seeds=2, session={"threads": 1})


@pytest.fixture
def folder(tmp_path):
    PLAN.save(tmp_path / "seeds")
    return tmp_path / "seeds"


def rewrite(folder, change):
    """Change what its file holds, and give it the checksum of that."""
    values = change(unsealed(folder / "seeds.json"))
    content = Seal(2).to_json("seeds.json", values) if isinstance(values, dict) else json.dumps(values).encode()
    (folder / "seeds.json").write_bytes(content)


def test_what_is_loaded_is_what_was_saved(folder):
    assert json.loads((folder / "seeds.json").read_text())["format"] == 2
    assert load_plan(folder) == PLAN


def test_one_without_a_format_is_of_the_first(folder):
    values = unsealed(folder / "seeds.json")
    del values["format"]
    (folder / "seeds.json").write_text(json.dumps(values))
    with pytest.warns(UncheckedRunWarning, match="written by an earlier version, without checksums"):
        assert load_plan(folder) == PLAN


def test_a_change_is_noticed(folder):
    edit(folder / "seeds.json", split_seed=1)
    with pytest.raises(InputError, match=r"seeds.json is damaged: its content does not have the checksum"):
        load_plan(folder)
    assert load_plan(folder, trusting=True).split_seed == 1


def test_the_summary_has_a_checksum_too(folder):
    assert load_summary(folder) is None
    save_summary(folder, {"seeds": [5, 6]})
    assert load_summary(folder) == {"seeds": [5, 6]}
    edit(folder / "summary.json", seeds=[5, 7])
    with pytest.raises(InputError, match=r"summary.json is damaged: its content does not have the checksum"):
        load_summary(folder)


def test_a_summary_of_other_runs_is_noticed(folder, tmp_path):
    others, same = tmp_path / "others", tmp_path / "same"
    dataclasses.replace(PLAN, n_seeds=3).save(others)
    dataclasses.replace(PLAN, session={"threads": 7}).save(same)
    save_summary(folder, {"seeds": [5, 6]})
    for other in (others, same):
        shutil.copy(folder / "summary.json", other)
    assert load_summary(same) == {"seeds": [5, 6]}
    with pytest.raises(InputError, match=r"summary.json is damaged: its content does not have the checksum"):
        load_summary(others)


def test_a_summary_from_before_it_was_bound_to_its_runs_is_read(folder):
    (folder / "summary.json").write_bytes(Seal(2).to_json("summary.json", {"seeds": [5, 6]}))
    assert load_summary(folder) == {"seeds": [5, 6]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values | {"format": 3}, "seeds has format 3, this version of batchnorm reads 1 and 2"),
        (lambda values: values | {"format": 3, "more": 1}, "seeds has format 3, this version of batchnorm reads 1 and"),
        (lambda values: values | {"format": "x"}, "seeds has format x, this version of batchnorm reads 1 and 2"),
        (lambda values: values | {"more": 1}, "seeds.json has unknown fields: more"),
        (lambda values: values | {"config": {"epochs": 0}}, "seeds.json.config: epochs is 0, expected"),
        (lambda values: values | {"n_seeds": 10**8}, "seeds.json.n_seeds is 100000000, expected a whole number from 2"),
        (lambda values: values | {"n_seeds": "2"}, "seeds.json.n_seeds is '2', expected a whole number"),
        (lambda values: values | {"split_seed": 2**32}, "seeds.json.split_seed is 4294967296, expected"),
        (lambda values: values | {"session": {"threads": 10**5}}, "seeds.json.session.threads is 100000, expected"),
        (lambda values: [values], "seeds.json is damaged: expected a JSON object"),
        (lambda values: {"format": 2}, "seeds.json has no config, dataset"),
    ],
)
def test_says_what_is_wrong_with_one(change, message, folder):
    rewrite(folder, change)
    with pytest.raises(InputError, match=message):
        load_plan(folder)
    (folder / "seeds.json").write_text("{")
    with pytest.raises(InputError, match=r"seeds\.json cannot be read as JSON"):
        load_plan(folder)
