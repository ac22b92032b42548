"""The page of a comparison: its parts and pictures, whatever was compared and however things are called."""

import re
import sys

import numpy as np
import pytest

import batchnorm as bn
from batchnorm.comparing.drawing import draw, focused, labels_of
from batchnorm.comparing.words import describe
from batchnorm.errors import BatchnormWarning
from elements import Elements

HACK = "<img src=x onerror=\"document.title='hacked'\">{{ 7 * 7 }}</title>"
CONFIG = bn.TrainingConfig(hidden_layer_sizes=(8,), epochs=1, batch_size=20, activation="sigmoid")


@pytest.fixture(scope="module")
def hostile(blobs, tmp_path_factory):
    """A comparison of everything at once: hostile names, a depth, an arm that diverges, a single epoch."""
    dataset = bn.Dataset(HACK, *blobs.parts.values(), [HACK, "b", "c"], source=HACK)
    vary = {"normalization": ["none", "batch"], "depth": [14], "learning_rate": [0.1, 1e38]}
    return bn.compare(dataset, CONFIG, vary=vary, seeds=2, out=tmp_path_factory.mktemp("page") / "it", jobs=1)


@pytest.fixture(scope="module")
def page(hostile):
    return (hostile.path / "comparison.html").read_text()


def test_names_are_text(page):
    parts = Elements(page)
    assert parts.of("img") == parts.of("script") == []
    assert parts.text.count(HACK) >= 3  # title, heading, data
    assert "<title>&lt;img" in page


def test_it_says_all_that_was_found(hostile, page):
    text = " ".join(Elements(page).text.split())
    for sentence in hostile.sentences:
        assert sentence in text
    for row in hostile.rows:
        assert " ".join(row) in text
    assert "An arm learns if most of its seeds end at" in text


def test_each_picture_has_a_title_and_a_description(hostile, page):
    parts = Elements(page)
    pictures = parts.of("svg")
    assert len(pictures) == len(list((hostile.path / "figures").iterdir())) == 13
    assert all(picture["role"] == "img" and picture["aria-labelledby"] for picture in pictures)
    ids = [attributes["id"] for _, attributes in parts.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "nan" not in page.lower().replace("infinite or nan", "")


def test_its_contents_lead_to_its_sections(page):
    parts = Elements(page)
    targets = [a["href"].removeprefix("#") for a in parts.of("a") if a["href"] != "#main"]
    assert targets == ["seen", "curves", "sweep", "gradients", "activations", "ratios", "made"]
    assert set(targets) <= {heading.get("id") for heading in parts.of("h2")}


def test_arms_are_called_by_what_tells_them_apart():
    chosen = [("batch", 1, 0.1), ("none", 1, 0.1), ("batch", 10, 0.1), ("none", 10, 0.1), ("batch", 1, 1.0)]
    names = ("normalization", "depth", "learning_rate")
    arms = [{"values": dict(zip(names, values, strict=True))} for values in chosen]
    summary = {"variations": dict.fromkeys(names), "sweep": {"name": "learning_rate"}, "arms": arms}
    assert labels_of(summary, arms[:1]) == ["arm 1"]
    assert labels_of(summary, arms[:2]) == ["batch norm", "no batch norm"]
    assert labels_of(summary, [arms[0], arms[2]]) == ["depth 1", "depth 10"]
    assert labels_of(summary, arms[1:3]) == ["no BN, depth 1", "BN, depth 10"]
    assert labels_of(summary, arms[2:4] * 2) == ["arm 3", "arm 4", "arm 3", "arm 4"]  # nothing tells them apart
    assert labels_of(summary, [arms[0], arms[4]]) == ["rate 0.1", "rate 1"]


def test_of_too_many_arms_those_looked_into_are_with_and_without_batch_norm():
    arms = [
        {"name": f"{norm} {depth}", "values": {"normalization": norm, "depth": depth}}
        for norm in ("batch", "none")
        for depth in (2, 4, 6)
    ]
    looked_into = focused({"arms": arms, "sweep": None})
    assert [arm["name"] for arm in looked_into] == ["batch 2", "none 2", "batch 4", "none 4"]


def test_values_without_batch_norm_and_a_single_arm_have_a_page(tmp_path):
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 4))
    made = bn.Dataset.from_arrays(inputs, inputs @ [1.0, 2.0, 0.5, -1.0] + 3)
    dataset = bn.Dataset("own", *made.parts.values(), made.class_names, source="/home/some body/x.npy")
    vary = {"hidden_layer_sizes": [()]}
    config = bn.TrainingConfig(epochs=1, normalization="none", learning_rate=1e-3)
    found = bn.compare(dataset, config, vary=vary, seeds=1, out=tmp_path / "one", jobs=1)
    text = Elements((tmp_path / "one" / "comparison.html").read_text()).text
    assert "always predicting the mean has" in text
    assert "with batch norm" not in text.lower()
    assert found.rows[0][0] == "none"
    assert not re.search(r"[Bb]y $", text)
    assert "own from x.npy: " in text
    assert "Gradient norm layer by layer, at the start, at the end." in text  # of one epoch: nothing in the middle


def test_runs_without_looks_have_a_page_that_says_so(hostile):
    nothing = {moment: [] for moment in ("start", "middle", "end")}
    arms = [
        arm | {"layers": nothing, "updates": [], "looks": dict.fromkeys(nothing)} for arm in hostile.summary["arms"]
    ]
    summary = {**hostile.summary, "arms": arms}
    assert {picture.section for picture in draw(summary)} == {"curves", "sweep"}
    assert len(describe(summary)) < len(describe(hostile.summary))


def test_when_all_diverge_at_once_the_page_has_what_was_seen_before(blobs, tmp_path):
    vary = {"learning_rate": [1e37, 1e38]}
    config = bn.TrainingConfig(hidden_layer_sizes=(8, 8), normalization="none", momentum=0, nesterov=False)
    found = bn.compare(blobs, config, vary=vary, seeds=1, out=tmp_path / "all", jobs=1)
    parts = Elements((tmp_path / "all" / "comparison.html").read_text())
    assert found.sentences[0] == "Every training diverged."
    assert found.best_row is None
    assert [a["href"] for a in parts.of("a")][1:] == ["#seen", "#gradients", "#activations", "#made"]
    assert {file.stem for file in (tmp_path / "all" / "figures").iterdir()} == {
        "activations-start-1", "activations-end-1", "gradients-start-1", "gradients-end-1", "gradient-norms", "dead",
        "saturated",
    }  # fmt: skip


def test_without_matplotlib_there_is_no_page_and_it_says_how_to_get_one(blobs, tmp_path, monkeypatch):
    for name in list(sys.modules):
        if name.startswith(("batchnorm.figures", "batchnorm.comparing.page", "batchnorm.comparing.drawing")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(BatchnormWarning, match=r"no page: figures need matplotlib: pip install 'batchnorm\["):
        found = bn.compare(blobs, CONFIG, vary={"depth": [1]}, seeds=1, out=tmp_path / "plain", jobs=1)
    assert found.rows
    assert not (tmp_path / "plain" / "comparison.html").exists()


@pytest.mark.parametrize("options", [{}, {"viewport": {"width": 375, "height": 700}, "color_scheme": "dark"}])
def test_it_reads_well_in_a_browser(hostile, visit, options):
    opened = visit((hostile.path / "comparison.html").as_uri(), **options)
    assert opened.title().startswith(HACK[:20])
    assert opened.locator("main svg").count() == 13
    assert opened.locator("table").first.locator("tbody tr").count() == 4
    width = opened.evaluate("document.documentElement.scrollWidth")
    assert width <= (options or {"viewport": {"width": 1280}})["viewport"]["width"]
