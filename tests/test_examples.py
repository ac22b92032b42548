"""The examples run as they stand, without a warning, and what they print is so."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from safetensors.torch import load_file

from conftest import REPOSITORY

EXAMPLES = REPOSITORY / "examples"


@pytest.fixture
def example(tmp_path, monkeypatch, capsys):
    """Run an example in a folder of its own; return what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(name):
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        printed, said = capsys.readouterr()
        assert said == ""
        return printed

    return run


@pytest.fixture
def example_alone(tmp_path):
    """Run an example in a process of its own: one suffices to see that they need no more than they import."""

    def run(name):
        torch_s = "ignore:Implicitly cleaning up:ResourceWarning"  # as older torch.distributed leaves a folder behind
        command = [sys.executable, "-W", "error", "-W", torch_s, str(EXAMPLES / name)]
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=one_thread, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    return run


def test_train_learns_the_digits(example):
    sizes, running, population = example("train.py").splitlines()
    assert sizes == "1437 digits trained, 180 digits tested"
    for line, kind in ((running, "running averages"), (population, "population statistics")):
        accuracy = re.fullmatch(rf"accuracy with {kind}: (.*)", line)[1]
        assert 0.9 < float(accuracy) <= 1


def test_diagnose_and_fix_finds_the_planted_fault_and_cures_it(example):
    printed = example("diagnose_and_fix.py")
    before, after = map(float, re.findall(r"^(?:before|after): accuracy (.*)$", printed, re.MULTILINE))
    assert before < 0.85
    assert after > 0.95
    assert re.search(r"^(?:warning|error): 1: momentum: ", printed, re.MULTILINE)
    assert printed.endswith("findings left: 0\n")


def test_fold_and_export_writes_weights_that_compute_the_same(example_alone, tmp_path):
    folding, written = example_alone("fold_and_export.py").splitlines()
    assert folding.startswith("1 of 1 batch norms folded")
    difference = re.fullmatch(r"folded.safetensors: 4 tensors; largest difference of an output: (.*)", written)[1]
    assert float(difference) < 1e-5
    assert set(load_file(tmp_path / "folded.safetensors")) == {"0.weight", "0.bias", "4.weight", "4.bias"}


def test_residual_gradients_grow_by_batch_norm_alone_and_not_with_residual_connections(example, tmp_path):
    _, _, *rows = example("residual_gradients.py").splitlines()
    plain, normalized, both, residual = (tuple(map(float, row.replace(",", "").split()[-2:])) for row in rows)
    for at_30, at_50 in (plain, both):
        assert at_50 < 3 * at_30 < 150
    for at_30, at_50 in (normalized, residual):
        assert at_50 > 20 * at_30 > 1000
    assert "residual, batch norm" in (tmp_path / "residual-gradients.svg").read_text()


def test_every_example_is_named_in_the_readme_and_tested_here():
    names = {path.name for path in EXAMPLES.glob("*.py")}
    assert names == set(re.findall(r"examples/(\w+\.py)", (REPOSITORY / "README.md").read_text()))
    assert names == {"train.py", "diagnose_and_fix.py", "fold_and_export.py", "residual_gradients.py"}
