"""docs/serving.md says what is so."""

import inspect
import json
import re
import shlex

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from batchnorm.cli.serve import serve
from batchnorm.serving import Limits, serve_run
from batchnorm.serving.openapi import document
from batchnorm.tables import train_table
from conftest import REPOSITORY
from processes import run_afresh
from served_runs import fit_examples
from table_cases import write

PAGE = (REPOSITORY / "docs" / "serving.md").read_text()


def test_its_request_is_answered_as_it_says(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"name": None, "age": rng.integers(18, 65, 80), "job": rng.choice(["baker", "smith"], 80)})
    path = write(frame.assign(wage=frame["age"] * 20.5 + rng.normal(size=80)), tmp_path / "people.csv")
    train_table([path], ["wage"], parameters={"epochs": 2}, out=tmp_path / "run")
    words = shlex.split(re.search(r"^curl .*$", PAGE, re.MULTILINE)[0])
    answer = serve_run(tmp_path / "run", Limits()).answer(words[-1].encode())
    said = json.loads(re.search(r"^\{.*\}$", PAGE, re.MULTILINE)[0])
    assert answer["predictions"][0].keys() == said["predictions"][0].keys()
    assert {**answer, "predictions": 0} == {**said, "predictions": 0}


def answers_on_the_page():
    return [json.loads(line) for line in re.findall(r"^\{.*\}$", PAGE, re.MULTILINE)]


def test_its_image_is_answered_as_it_says(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 3, 4, 6)).astype(np.uint8)
    path = fit_examples(tmp_path / "run", pixels, np.arange(60) % 2, class_names=("blue", "red"))
    Image.new("RGB", (60, 40)).save(tmp_path / "rose.png")
    answer = serve_run(path, Limits()).answer((tmp_path / "rose.png").read_bytes())
    said = answers_on_the_page()[1]
    assert answer["predictions"][0].keys() == said["predictions"][0].keys()
    assert answer["notices"] == said["notices"]


def test_its_arrays_are_answered_as_it_says(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(60, 3))
    path = fit_examples(tmp_path / "run", inputs, np.arange(60) % 2)
    words = shlex.split(re.findall(r"^curl .*$", PAGE, re.MULTILINE)[2])
    answer = serve_run(path, Limits()).answer(words[-1].encode())
    said = answers_on_the_page()[2]
    assert [row.keys() for row in answer.pop("predictions")] == [row.keys() for row in said.pop("predictions")]
    assert answer == said == {}


def test_its_limits_are_those_of_the_command_and_of_the_server():
    parameters = inspect.signature(serve).parameters
    for name in ("bytes", "rows", "pixels", "seconds", "waiting"):
        default = parameters[f"max_{name}"].default
        assert default == getattr(Limits(), name)
        assert f"`--max-{name}`, {default:.10g})" in PAGE


def test_every_refusal_is_documented(weather_run):
    limits = Limits()
    refusals = document(serve_run(weather_run, limits), limits)["paths"]["/predict"]["post"]["responses"].keys() - {
        "200"
    }
    assert len(refusals) == 5
    for status in refusals:
        assert re.search(rf"^\| (\d+, )?{status} \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "jinja2", "h11"])
def test_without_its_packages_it_says_how_to_install_them(tmp_path, package):
    code = "try: import batchnorm.serving\nexcept ImportError as error: print(error)"
    printed, _ = run_afresh(code, tmp_path, missing=[package])
    assert printed == "serving needs starlette, uvicorn and jinja2: pip install 'batchnorm[serve]'\n"
