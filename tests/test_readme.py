"""The README does what it says. Its two commands themselves are run by .ci/run, word for word."""

import re
import runpy
import shlex
import subprocess
import sys

import pytest

import batchnorm as bn
from batchnorm import cli
from conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()


def blocks(language):
    every = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [content for kind, content in every if kind == language]


def test_its_python_runs_and_prints_two_accuracies(capsys, tmp_path):
    example, _ = blocks("python")
    assert len([line for line in example.splitlines() if line.strip()]) <= 10
    (tmp_path / "example.py").write_text(example)
    runpy.run_path(str(tmp_path / "example.py"))
    *lines, running, population = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 + 2
    assert 0.85 < float(running) <= 1
    assert 0.85 < float(population) <= 1


def test_the_toolkits_example_prints_what_it_says(capsys, tmp_path):
    _, example = blocks("python")
    (tmp_path / "example.py").write_text(example)
    runpy.run_path(str(tmp_path / "example.py"))
    printed = capsys.readouterr().out
    (said,) = (block for block in blocks("") if "never-updated" in block)
    number = r"\d+(\.\d+)?"  # the last digits depend on the processor
    assert re.sub(number, "n", printed) == re.sub(number, "n", said)


def test_its_two_commands_are_one_line_each_and_run_by_ci():
    train, test = (block.strip() for block in blocks("sh"))
    ci = (REPOSITORY / ".ci" / "run").read_text()
    for command, end in ((train, "batchnorm train"), (test, "pytest")):
        assert "\n" not in command
        pattern = re.search(r'grep -E "(.*)" README.md', ci)[1].replace("$1\\$", end + "$")
        assert [line for line in README.splitlines() if re.search(pattern, line)] == [command]
        assert re.search(rf"readme_command '?{end}'?\)", ci)
        function = re.search(r"^readme_command\(\).*$", ci, re.MULTILINE)[0]
        found = subprocess.run(
            ["bash", "-c", f"{function}; readme_command '{end}'"], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert found.stdout == f"{command}\n"


def test_ci_installs_the_linters_as_contributors_do():
    ci, contributing = ((REPOSITORY / name).read_text() for name in (".ci/run", "CONTRIBUTING.md"))
    pattern = re.search(r"grep -E '(.*)' CONTRIBUTING.md", ci)[1]
    (install,) = (line for line in contributing.splitlines() if re.search(pattern, line))
    assert "--group dev" in install
    (linters,) = re.findall(r"^(\.venv/bin/pre-commit run --all-files)\b", contributing, re.MULTILINE)
    assert f"{linters} " in ci


def test_the_citation_is_of_this_version_and_its_holder():
    citation, licence = ((REPOSITORY / name).read_text() for name in ("CITATION.cff", "LICENSE"))
    assert f"\nversion: {bn.__version__}\n" in citation
    (holder,) = re.findall(r"^Copyright \(c\) \d+ (.*)$", licence, re.MULTILINE)
    assert f"\n  - name: {holder}\n" in citation


@pytest.mark.parametrize("command", re.findall(r"`(batchnorm train [^`]*)`", README))
def test_its_other_commands_are_understood(command, monkeypatch):
    """Parsed, not run: training is replaced by taking note of what it is asked for."""
    asked = {}

    def note(data, config, out, resuming, device, monitor):
        asked.update(data=data, config=config)
        raise SystemExit(77)

    for load in ("load_data", "load_own_examples"):
        monkeypatch.setattr(cli.training, load, lambda *args, **options: bn.load_dataset("digits"))
    monkeypatch.setattr(cli.training, "_train_one", note)
    monkeypatch.setattr("batchnorm.training.fit_seeds", lambda *args, **options: note(*args[:2], *[None] * 4))
    words = shlex.split(command)
    if "--resume" in words:
        from batchnorm.training import runs

        monkeypatch.setattr(runs, "load_plan", lambda path: runs.Plan(bn.TrainingConfig(), "digits", 0))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 77
    assert asked["config"]


def test_its_table_of_commands_is_complete():
    known = {command.name or command.callback.__name__ for command in cli.app.registered_commands}
    assert set(re.findall(r"^batchnorm (\w+)", "".join(blocks("")), re.MULTILINE)) == known


def test_its_files_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (REPOSITORY / target).is_file()


def test_it_names_every_data_set_and_every_file_of_a_run(blobs, tmp_path):
    from batchnorm.data.catalogue import catalogue

    run = bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, bn.TrainingConfig(epochs=1), out=tmp_path / "run")
    for name in (*catalogue, *(path.name for path in run.path.iterdir())):
        assert f"`{name}`" in README
