"""The notebooks run from top to bottom without a warning, and show what they are stored with."""

import itertools
import math
import re

import nbformat
import pytest

from conftest import REPOSITORY
from notebooks import EXAMPLES, executed

(PATH,) = EXAMPLES.glob("*.ipynb")
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
TEXTS = ("text/plain", "text/html")


@pytest.fixture(scope="module")
def stored():
    return nbformat.read(PATH, as_version=4)


@pytest.fixture(scope="module")
def run_now():
    return executed(PATH)


def codes(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def contents(cell):
    """Return each output of a cell as its kind, its texts, and its pictures' alternative texts."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.name, output.text, None
        else:
            texts = "".join(output.data[kind] for kind in TEXTS if kind in output.data)
            pictures = re.sub(r"base64,[^\"]*", "", texts)
            yield sorted(output.data), pictures, output.metadata.get("image/png")


def same(text, other):
    """Tell whether two texts say the same, but for digits that depend on the processor."""
    (numbers, others) = ([float(n.replace(",", "")) for n in NUMBER.findall(t)] for t in (text, other))
    return NUMBER.sub("n", text) == NUMBER.sub("n", other) and all(
        math.isclose(a, b, rel_tol=0.05, abs_tol=0.02) for a, b in zip(numbers, others, strict=True)
    )


def test_it_shows_what_it_is_stored_with(stored, run_now):
    assert len(codes(stored)) > 15
    for cell, now in zip(codes(stored), codes(run_now), strict=True):
        for (kind, text, alt), (kind_now, text_now, alt_now) in itertools.zip_longest(contents(cell), contents(now)):
            assert (kind, alt) == (kind_now, alt_now), cell.source
            assert same(text, text_now), f"{cell.source}\n{text}\n{text_now}\npython tests/notebooks.py stores it anew"


def test_last_digits_may_differ_and_nothing_else():
    assert same("accuracy 0.930, 1,067 steps", "accuracy 0.928, 1,068 steps")
    assert not same("accuracy 0.930", "accuracy 0.870")
    assert not same("accuracy 0.930", "error 0.930")


def test_it_is_stored_without_traces_of_where_it_was_run(stored):
    text = PATH.read_text()
    assert len(text) < 600_000
    assert not re.search(r"/home|/tmp|/root|/work|/usr|site-packages|\\u001b\[", text)
    assert stored.metadata.keys() == {"kernelspec", "language_info"}
    assert [cell.execution_count for cell in codes(stored)] == list(range(1, len(codes(stored)) + 1))
    assert not [cell for cell in stored.cells if cell.metadata]
    assert text == nbformat.writes(stored) + "\n"


def test_every_picture_says_in_words_what_is_on_it(stored):
    outputs = [output for cell in codes(stored) for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(outputs) >= 5
    assert all(len(output.metadata["image/png"]["alt"]) > 40 for output in outputs)


def test_its_links_lead_to_files(stored):
    for cell in stored.cells:
        for target in re.findall(r"\]\((?!http)([^)]+)\)", cell.source):
            assert (EXAMPLES / target).is_file(), target


def test_it_is_named_in_the_readme():
    assert f"(examples/{PATH.name})" in (REPOSITORY / "README.md").read_text()
