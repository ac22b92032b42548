"""The commands of docs/tables.md do what it says."""

import re
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd

from conftest import REPOSITORY
from table_cases import write

PAGE = (REPOSITORY / "docs" / "tables.md").read_text()


def test_its_commands_and_its_python_run(command, tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": [f"p{i}" for i in range(80)], "age": rng.integers(18, 65, 80)})
    frame["job"], frame["wage"] = rng.choice(["baker", "smith"], 80), frame["age"] * 20.5 + rng.normal(size=80)
    write(frame, tmp_path / "people.csv")
    write(frame.drop(columns="wage"), tmp_path / "others.csv")
    commands, python = (re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[1] for kind in ("sh", "python"))
    for line in commands.splitlines():
        if "|" not in line:
            code, _, err = command(*shlex.split(line)[1:])
            assert code == 0, err
            continue
        script = line.replace("batchnorm ", f"{sys.executable} -m batchnorm ")
        done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    written = pd.read_parquet(tmp_path / "wages.parquet")
    assert list(written) == ["name", "prediction"]
    np.testing.assert_allclose(pd.read_csv(tmp_path / "wages.csv")["prediction"], written["prediction"], rtol=1e-5)
    exec(python, {"frame": pd.read_csv(tmp_path / "others.csv")})
