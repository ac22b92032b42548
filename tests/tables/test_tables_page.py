"""The commands of docs/tables.md do what it says."""

import os
import re
import shlex
import sys

import numpy as np
import pandas as pd

from conftest import REPOSITORY
from processes import Copied, run_command_line
from table_cases import write

PAGE = (REPOSITORY / "docs" / "tables.md").read_text()
PIPED = re.compile(r"cat (?P<source>\S+) \| (?P<command>.+) > (?P<target>\S+)")


def run_piped(words, content):
    """Run the command line on what comes through a pipe."""
    ours, theirs = os.pipe()
    os.write(theirs, content)  # a pipe holds 64 kB
    os.close(theirs)
    os.dup2(ours, 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    run_command_line(words)


def test_its_commands_and_its_python_run(command, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": [f"p{i}" for i in range(80)], "age": rng.integers(18, 65, 80)})
    frame["job"], frame["wage"] = rng.choice(["baker", "smith"], 80), frame["age"] * 20.5 + rng.normal(size=80)
    write(frame, tmp_path / "people.csv")
    write(frame.drop(columns="wage"), tmp_path / "others.csv")
    commands, python = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("sh", "python"))
    for line in commands.splitlines():
        if not (piped := PIPED.fullmatch(line)):
            code, _, err = command(*shlex.split(line)[1:])
            assert code == 0, err
            continue
        content = (tmp_path / piped["source"]).read_bytes()
        process = Copied(run_piped, shlex.split(piped["command"]), content, folder=tmp_path)
        output, errors = process.communicate()
        assert process.poll() == 0, errors
        (tmp_path / piped["target"]).write_bytes(output)
    written = pd.read_parquet(tmp_path / "wages.parquet")
    assert list(written) == ["name", "prediction"]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "wages.csv")["prediction"], written["prediction"], rtol=1e-5)
    exec(python, {"frame": pd.read_csv(tmp_path / "others.csv")})
