"""Run folders that earlier versions wrote load for good: each change of the format adds its own to samples/.

Numbers are compared to what their writer saw, with room for another processor's rounding.
"""

import json
import shutil
from contextlib import nullcontext

import pytest

import batchnorm as bn
from batchnorm.errors import UncheckedRunWarning
from batchnorm.training import evaluate_run
from batchnorm.training.runs import RunFolder, load_plan
from batchnorm.training.seeds import fit_seeds
from conftest import SAMPLES

FORMATS = [1, 2]


def seen_by_its_writer(number):
    return json.loads((SAMPLES / f"format-{number}.json").read_text())


def noticed(number):
    """Expect the notice of a folder without checksums, if it has none."""
    return pytest.warns(UncheckedRunWarning, match="without checksums") if number == 1 else nullcontext()


@pytest.fixture(scope="module")
def digits():
    return bn.load_dataset("digits")


@pytest.fixture
def sample(tmp_path):
    """Return a copy of a folder in samples/, whose files stay what they are."""
    return lambda name: shutil.copytree(SAMPLES / name, tmp_path / name)


class Warned(bn.Monitor):
    """Keeps what it is warned of."""

    def __init__(self):
        self.warnings = []

    def warn(self, message):
        self.warnings.append(message)


def assert_same_results(results, expected):
    assert {name: results[name] for name in ("epochs", "stopped_early")} == {
        name: expected[name] for name in ("epochs", "stopped_early")
    }
    assert results["test"].keys() == expected["test"].keys() == {"running", "population"}
    for kind, measured in expected["test"].items():
        assert_same_evaluation(results["test"][kind], measured)


def assert_same_evaluation(found, expected):
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found["accuracy"] == pytest.approx(expected["accuracy"], abs=1.5 / 180)  # an example may change sides


@pytest.mark.parametrize("number", FORMATS)
def test_a_finished_run_is_loaded_and_evaluated(number, digits, sample):
    path = sample(f"run-format-{number}")
    expected = seen_by_its_writer(number)["run"]
    with noticed(number):
        run = bn.load_run(path)
    assert run.results == expected
    assert [record["epoch"] for record in run.history] == [0, 1]
    assert (run.config.hidden_layer_sizes, run.config.dropout, run.config.schedule) == ((8,), 0.1, "one-cycle")
    assert set(run.population) == {f"{layer}.running_{what}" for layer in (1, 5) for what in ("mean", "var")}
    with noticed(number):
        evaluated = evaluate_run(path, digits)
    assert evaluated.keys() == expected["test"].keys()
    for kind, measured in expected["test"].items():
        assert_same_evaluation({"accuracy": evaluated[kind].accuracy, "loss": evaluated[kind].loss}, measured)


@pytest.mark.parametrize("number", FORMATS)
def test_a_finished_run_resumes_to_itself_and_stays_as_it_was_written(number, digits, sample):
    path = sample(f"run-format-{number}")
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with noticed(number):
        assert bn.resume(path, digits).results == seen_by_its_writer(number)["run"]
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


@pytest.mark.parametrize("number", FORMATS)
def test_a_stopped_run_goes_on_to_what_its_writer_would_have_ended_with(number, digits, sample):
    path, monitor = sample(f"stopped-run-format-{number}"), Warned()
    (begun,) = json.loads((path / "environment.json").read_text())["sessions"]
    with noticed(number):
        run = bn.resume(path, digits, monitor=monitor)
    assert_same_results(run.results, seen_by_its_writer(number)["stopped"])
    assert [record["epoch"] for record in run.history] == [0, 1]
    with noticed(number):
        assert bn.load_run(path).results == run.results
    # It was begun on another machine, or with other packages or threads, and says so; nothing else.
    changes = [warning.split(" was ")[0] for warning in monitor.warnings]
    assert set(changes) <= {*begun, *begun["packages"]}
    assert all(" when the run was begun and is " in warning for warning in monitor.warnings)
    sessions = json.loads((path / "environment.json").read_text())["sessions"]
    assert sessions[0] == begun
    assert len(sessions) == 2


@pytest.mark.parametrize("number", FORMATS)
def test_runs_from_several_seeds_go_on_where_they_were(number, digits, sample):
    """One seed had been stopped, the other had not been begun."""
    path = sample(f"seeds-format-{number}")
    shutil.copytree(SAMPLES / f"stopped-run-format-{number}", path / "seed-0")
    with noticed(number):
        plan = load_plan(path)
    assert (plan.dataset, plan.split_seed, plan.n_seeds) == ("digits", 0, 2)
    with noticed(number):
        assert plan.config == load_plan(path / "seed-0").config
    assert plan.session["packages"]["batchnorm"] == "0.1.0"
    with noticed(number):
        runs = fit_seeds(digits, plan.config, plan.n_seeds, out=path, resuming=True, monitor=Warned())
    assert [run.config.seed for run in runs] == [0, 1]
    assert_same_results(runs[0].results, seen_by_its_writer(number)["stopped"])
    assert runs[1].results["epochs"] == 2
    assert json.loads((path / "summary.json").read_text())["seeds"] == [0, 1]


def test_one_of_the_first_format_is_given_checksums(digits, sample):
    path = sample("run-format-1")
    RunFolder.open(path, trusting=True).reseal()
    assert bn.load_run(path).results == seen_by_its_writer(1)["run"]
    content = (path / "weights.safetensors").read_bytes()
    (path / "weights.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(bn.InputError, match=r"weights.safetensors is damaged"):
        bn.load_run(path)
