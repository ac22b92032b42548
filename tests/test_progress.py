"""What a person at a terminal sees, and what nobody else has to."""

import io
import os
import pty
import re
import select
import signal
import sys

import pytest

import batchnorm as bn
from batchnorm.errors import TrainingInterrupted
from batchnorm.progress import DownloadBar, shows_bars
from processes import command_line


@pytest.fixture
def command(small_mnist, tmp_path):
    """A training, to be run in a process of its own."""
    options = ["--epochs", "30", "--threads", "1", "--data-dir", small_mnist, "--out", tmp_path / "run"]
    return ["train", "mnist", *options]


def read_terminal(command, folder):
    """Run a command with a pseudo-terminal as standard error; return what it prints, and what appears there."""
    ours, theirs = pty.openpty()
    process = command_line(command, folder, terminal=os.ttyname(theirs), TERM="xterm", COLUMNS="100")
    shown = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            shown += os.read(ours, 4096)
    os.close(ours)
    os.close(theirs)
    printed, _ = process.communicate()
    assert process.poll() == 0, shown
    return printed.decode(), shown.decode()


def test_a_terminal_gets_a_bar(command, tmp_path):
    printed, shown = read_terminal(command, tmp_path)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"epoch \d+ of 29 .* loss \d\.\d{4} [\d,]+ examples/s \d\d:\d\d", text)
    lines = printed.splitlines()  # standard output has the results alone
    assert lines[-1].startswith("Test acc: ")
    assert not any("examples/s" in line for line in lines)


def test_quiet_is_quiet_at_a_terminal_too(command, tmp_path):
    _, shown = read_terminal([*command, "--epochs", "2", "--quiet"], tmp_path)
    assert shown == ""


def test_without_a_terminal_there_is_no_bar(blobs, capsys):
    config = bn.TrainingConfig(epochs=2)
    bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, config, monitor=bn.ProgressMonitor())
    captured = capsys.readouterr()
    assert captured.err == ""
    assert [line.split(":")[0] for line in captured.out.splitlines()] == [
        "0 train acc", "1 train acc", "Test acc with population statistics", "Test acc",
    ]  # fmt: skip


def test_a_forced_terminal_is_none(command, tmp_path):
    process = command_line([*command, "--epochs", "2"], tmp_path, FORCE_COLOR="1")
    _, errors = process.communicate()
    assert (process.poll(), errors) == (0, b"")


@pytest.mark.parametrize("terminal", [False, True])
def test_a_download_bar_counts_bytes(terminal, monkeypatch, capsys):
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    bar = DownloadBar("mnist/train-images-idx3-ubyte.gz")
    bar.total = 1000
    bar.update(400)
    bar.update(1000)
    assert bar.total == 1000
    bar.close()
    assert ("mnist/train-images" in capsys.readouterr().err) == terminal


def terminal(columns, monkeypatch):
    """Put a terminal of so many columns in the place of standard error."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


@pytest.mark.parametrize("columns", [40, 100])
def test_a_bar_has_what_matters_whole(columns, blobs, monkeypatch):
    screen = terminal(columns, monkeypatch)
    monkeypatch.setattr("batchnorm.training.monitor._SECONDS_BETWEEN_UPDATES", 0)
    config = bn.TrainingConfig(epochs=12, hidden_layer_sizes=(4,))
    bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, config, monitor=bn.ProgressMonitor(lines=False))
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()))
    rate = "" if columns == 40 else r"[\d,]+ examples/s "
    bar = re.compile(rf"epoch 11 of 11 [━╸╺ ]{{4,}} loss \d\.\d+ {rate}(\d\d:\d\d|--:--)\s*")
    assert any(map(bar.fullmatch, lines)), lines
    assert all(len(line) <= columns and "…" not in line for line in lines)


@pytest.mark.parametrize("columns", [40, 100])
def test_what_a_bar_is_called_is_no_markup(columns, monkeypatch):
    screen = terminal(columns, monkeypatch)
    bar = DownloadBar("mnist/[red]x[bold]:smile:")
    bar.total = 1000
    bar.update(1000)
    bar.close()
    assert "[red]x[bold]" in screen.getvalue()


def test_ctrl_c_is_answered_beside_the_bar(blobs, monkeypatch):
    screen = terminal(100, monkeypatch)

    class Stop(bn.ProgressMonitor):
        def step(self, epoch, step, loss):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        bn.fit(bn.DenseNetwork(6, (4,), 3), blobs, bn.TrainingConfig(epochs=2), monitor=Stop(lines=False))
    assert "batchnorm: finishing this step, then saving\n" in screen.getvalue()


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_standard_error_there_is_no_bar(stream, monkeypatch):
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed if stream else None)
    assert not shows_bars()
