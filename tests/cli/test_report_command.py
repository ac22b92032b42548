"""The command that reports, and what `train` says of it."""

import json
import shlex
import sys

import pytest

from processes import run_afresh

TINY = ("--epochs", 1, "--hidden-layer-sizes", "8", "--quiet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reports")


@pytest.fixture
def run(folder, command):
    """Return a run folder, trained once for all tests of this file."""
    path = folder / "run"
    if not path.exists():
        assert command("train", "digits", "--out", path, *TINY)[0] == 0
    return path


def test_a_page_is_written_and_its_summary_printed(run, command):
    code, out, err = command("report", run)
    assert (code, err) == (0, "")
    assert "test examples" in out
    assert out.splitlines()[-1] == f"wrote {run / 'report.html'}"
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert command("runs", run)[0] == 0
    code, out, _ = command("report", run, "--json", "--no-weights", "--no-examples")
    assert json.loads(out)["report"] == str(run / "report.html")
    assert "<img" not in (run / "report.html").read_text()


def test_figures_go_into_a_folder(run, command, tmp_path):
    code, out, _ = command("report", run, "-o", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert code == 0
    assert f"figures into {tmp_path / 'figures'}" in out
    assert (tmp_path / "figures" / "confusion.svg").is_file()


def test_what_cannot_be_written_is_refused(run, command, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    for option, path, why in (
        ("-o", run / "other.html", "lies in the run folder"),
        ("-o", tmp_path / "mine.html", "is no page that batchnorm has written"),
        ("--figures", run / "figures", "lies in the run folder"),
    ):
        code, _, err = command("report", run, option, path)
        assert code == 2
        assert why in err
    code, _, err = command("report", tmp_path / "nothing")
    assert code == 2
    assert "is not a folder" in err


def test_a_training_writes_its_page_where_that_is_asked_for(command, tmp_path):
    code, out, _ = command("train", "digits", "--out", tmp_path / "run", "--report", *TINY[:-1])
    assert code == 0
    assert out.splitlines()[-1] == f"wrote {tmp_path / 'run' / 'report.html'}"


def test_a_training_that_diverges_names_the_command_that_shows_it(command, tmp_path):
    words = ("--learning-rate", "1e30", "--normalization", "none", "--report", *TINY)
    for path, more in ((tmp_path / "a run", ()), (tmp_path / "seeds", ("--seeds", 2))):
        code, _, err = command("train", "digits", "--out", path, *more, *words)
        shown = shlex.quote(str(path / "seed-0" if more else path))
        assert code == 1
        assert err.endswith(f"is kept: batchnorm report {shown} shows it\n")
    assert command("report", tmp_path / "a run")[0] == 0


def test_the_page_of_a_table_names_the_extra_for_tables(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "table.json").write_text("{}")
    code = (
        "import sys\n"
        "from batchnorm.cli import main\n"
        "sys.argv = ['batchnorm', 'report', 'run']\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code)\n"
    )
    printed, err = run_afresh(code, tmp_path, missing=["sklearn", "pyarrow"])
    assert printed == "1\n"
    assert err.endswith("need pyarrow, charset-normalizer and scikit-learn: pip install 'batchnorm[tables]'\n")


def test_each_of_several_seeds_has_its_page(command, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr("batchnorm.reporting.write_report", lambda run, dataset: written.append(run))
    code, _, _ = command("train", "digits", "--out", tmp_path / "seeds", "--seeds", 2, "--report", *TINY)
    assert code == 0
    assert written == [tmp_path / "seeds" / f"seed-{seed}" for seed in (0, 1)]
    code, _, err = command("report", tmp_path / "seeds")
    assert code == 2
    assert "name one of them" in err


def test_without_matplotlib_a_training_with_a_page_does_not_begin(command, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("batchnorm.figures")]:
        monkeypatch.delitem(sys.modules, name)
    import batchnorm

    monkeypatch.delattr(batchnorm, "figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = command("train", "digits", "--out", tmp_path / "run", "--report", *TINY)
    assert code == 1
    assert "figures need matplotlib: pip install 'batchnorm[report]'" in err
    assert not (tmp_path / "run").exists()


def test_the_page_is_offered_at_a_terminal_alone(run, command, monkeypatch):
    assert "batchnorm report" not in command("train", "--resume", run)[1]
    monkeypatch.setattr("batchnorm.cli.report.is_terminal", lambda stream: True)
    assert command("train", "--resume", run)[1].splitlines()[-1] == f"batchnorm report {run} shows it"
