"""The command line where its output is not a terminal of UTF-8: other encodings, closed, full, read in part."""

import io
import os
import sys
import warnings
from pathlib import Path

import pytest

from batchnorm import cli
from batchnorm.cli import streams
from batchnorm.data import catalogue
from batchnorm.errors import BatchnormWarning
from processes import Copied, run_command_line

SHORT = ("--epochs", "6", "--hidden-layer-sizes", "8")


def run_into(stream, monkeypatch, *words, name="stdout"):
    """Run a command with a stream in the place of standard output; return its exit code."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, name, stream)
        patch.setattr(sys, "argv", ["batchnorm", *words])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    return caught.value.code or 0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8"])
def test_every_encoding_takes_what_is_printed(encoding, here, monkeypatch):
    for words in (
        ("train", "digits", *SHORT, "--seeds", "2", "--out", "数[bold]"),
        ("evaluate", "数[bold]/seed-0"),
        ("datasets",),
    ):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        assert run_into(stream, monkeypatch, *words) == 0
        shown = stream.buffer.getvalue().decode(encoding)
        stream.detach()
        if "--seeds" in words:
            assert ("±" if encoding != "ascii" else "+-") in shown
            assert ("run folder 数[bold]" if encoding == "utf-8" else r"run folder \u6570[bold]") in shown
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert run_into(stream, monkeypatch, "evaluate", "数\udcff", name="stderr") == 2
    assert stream.buffer.getvalue().startswith(b"batchnorm: ")
    stream.detach()


def run_without_streams(words):
    """Run the command line as Python starts where all three are closed."""
    os.closerange(0, 3)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
    run_command_line(words)


def test_closed_streams_stop_no_work(here, small_mnist):
    """In a process of its own: what is opened next must not be taken for standard error."""
    words = ["batchnorm", "train", "mnist", "--data-dir", str(small_mnist)]
    words += ["--epochs", "1", "--out", str(here / "run"), "--engine", "autograd"]  # which starts at once
    process = Copied(run_without_streams, words, folder=here)
    process.communicate()
    assert process.poll() == 0
    assert (here / "run" / "results.json").exists()


def test_an_error_does_not_go_to_standard_output_where_standard_error_is_closed(here, monkeypatch, capsys):
    monkeypatch.setattr(streams, "open", lambda *args: io.StringIO(), raising=False)
    assert run_into(None, monkeypatch, "train", "nothing", name="stderr") == 2
    assert capsys.readouterr().out == ""


def broken_pipe():
    ours, theirs = os.pipe()
    os.close(ours)
    return os.fdopen(theirs, "w")


def test_a_reader_that_has_enough_ends_a_training_that_can_be_gone_on_with(here, monkeypatch, capsys):
    class Reader(io.TextIOWrapper):
        def write(self, text):
            if "0 train acc" in text:
                raise BrokenPipeError
            return super().write(text)

    with Reader(io.BytesIO()) as stream:
        assert run_into(stream, monkeypatch, "train", "digits", *SHORT, "--out", "my run") == 141
    assert capsys.readouterr().err == (
        "batchnorm: nobody reads standard output any more; what came before is saved: "
        "go on with batchnorm train --resume 'my run'\n"
    )
    assert run_into(sys.stdout, monkeypatch, "train", "--resume", "my run") == 0


@pytest.mark.parametrize("words", [("train", "digits", *SHORT), ("datasets",), ("train", "--help"), ("--help",)])
def test_nobody_reads_from_the_beginning(words, here, monkeypatch, capsys):
    with broken_pipe() as stream:
        assert run_into(stream, monkeypatch, *words) == 141
    assert capsys.readouterr().err == "batchnorm: nobody reads standard output any more\n"
    assert list(here.iterdir()) == []  # the folder that was reserved is given back


def test_a_full_disk_under_standard_output(here, monkeypatch, capsys):
    with Path("/dev/full").open("w") as stream:
        assert run_into(stream, monkeypatch, "datasets") == 1
    assert capsys.readouterr().err == "batchnorm: standard output: No space left on device\n"


def test_standard_error_that_nobody_reads_changes_no_exit_code(here, monkeypatch):
    with broken_pipe() as stream:
        assert run_into(stream, monkeypatch, "train", "nothing", name="stderr") == 2


@pytest.mark.parametrize("name", ["[red]zero[/red]", "\x1b[2Jzero", "ze\nro", "\u202eorez", ":smile:", "[/]"])
def test_names_of_classes_are_shown_as_they_are(name, command, entry, published, tmp_path, monkeypatch):
    published.rename(tmp_path / "tiny")
    strange = catalogue.catalogue["tiny"].__class__(**{**vars(entry), "class_names": (name, "b", "c")})
    monkeypatch.setitem(catalogue.catalogue, "tiny", strange)
    command("train", "tiny", *SHORT, "--batch-size", 20, "--data-dir", ".", "--out", "run")
    code, out, err = command("evaluate", "run")
    assert (code, err) == (0, "")
    assert all(line.isprintable() for line in out.splitlines())
    assert name.encode("unicode_escape").decode() in out


@pytest.mark.parametrize("word", ["\x1b[31mx", "x\x9bm", "x\u202ey", "[red]x"])
def test_what_was_typed_is_shown_as_it_is(word, command):
    for words in (("train", word), ("evaluate", word), (word,), ("train", "digits", "--recipe", word)):
        code, _, err = command(*words)
        assert code == 2
        assert err.rstrip("\n").isprintable()
        assert word.encode("unicode_escape").decode() in err


def test_libraries_do_not_warn_the_user_and_we_do(command, monkeypatch):
    def warn(*args, **options):
        warnings.warn("set weights_only to False", FutureWarning, stacklevel=1)
        warnings.warn("read this\x1b[31m", BatchnormWarning, stacklevel=1)
        raise KeyboardInterrupt

    monkeypatch.setattr("batchnorm.data.load_dataset", warn)
    assert command("train", "digits")[2] == "batchnorm: warning: read this\\x1b[31m\nbatchnorm: interrupted\n"
