"""Figures: what is in them, in whose colours, and that no name breaks them."""

import logging
import math
import re
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest

from batchnorm.figures import (
    Series,
    align,
    draw_bars,
    draw_boxes,
    draw_confusion,
    draw_layers,
    draw_lines,
    draw_points,
    draw_ridges,
    inline_svg,
    save_figure,
)
from batchnorm.figures.silence import silent
from batchnorm.figures.style import VARIABLES

STRANGE = ["<script>&amp;", "a $x_1$ $", "_nothing", "漢字 γ", "tab\t\x00\x1b[31m", "x" * 300, "\udcff"]


def lines(names, **options):
    series = [Series(name, [0, 1, 2], [0.1, 0.2 + i, 0.4]) for i, name in enumerate(names)]
    return draw_lines(series, x_label="epoch", y_label="loss", **options)


def distribution(middle=0.0):
    return {
        "low": middle - 2,
        "high": middle + 2,
        "counts": [1, 2, 3, 1],
        "quantiles": [middle + q for q in range(-2, 3)],
    }


FIGURES = {
    "lines": lambda names: lines(names),
    "layers": lambda names: draw_layers([Series(n, [0, 1], [1, 2]) for n in names], names, y_label="norm", log=True),
    "bars": lambda names: draw_bars(names, [1.0] * len(names), [0.1] * len(names), x_label="importance"),
    "boxes": lambda names: draw_boxes({"γ": [[0, 1, 2, 3, 4]] * len(names)}, names, y_label="γ"),
    "confusion": lambda names: draw_confusion(np.eye(len(names), dtype=np.int64), names),
    "ridges": lambda names: draw_ridges({"before": [distribution()] * len(names)}, names, x_label="value"),
}


def parse(svg):
    return ElementTree.fromstring(str(svg))


def texts(svg):
    return ["".join(element.itertext()) for element in parse(svg).iter("text")]


@pytest.mark.parametrize("kind", FIGURES)
def test_any_name_is_text_in_a_figure(kind):
    shown = texts(inline_svg(FIGURES[kind](STRANGE), "A figure", "Its description"))
    for name in ("<script>&amp;", "a $x_1$ $", "_nothing", "漢字 γ", r"tab\t\x00\x1b[31m", "x" * 23 + "…", r"\udcff"):
        assert name in [text.strip() for text in shown]


def test_colours_are_the_pages_and_no_other():
    svg = inline_svg(lines("abcdefgh", reference=0.5), "t", "d")
    assert set(re.findall(r"var\((--[\w-]+),", svg)) >= {f"--series-{i}" for i in range(1, 9)} | {"--ink", "--grid"}
    assert not re.search(r"(?:fill|stroke): ?#", svg)
    assert len(VARIABLES) == 12


def test_a_figure_says_what_it_shows():
    root = parse(inline_svg(lines("a"), "Loss <1>", "It falls & rises"))
    assert root.get("role") == "img"
    by_id = {element.get("id"): element.text for element in root.iter() if element.get("id")}
    assert [by_id[name] for name in root.get("aria-labelledby").split()] == ["Loss <1>", "It falls & rises"]


def test_ids_are_a_figures_own_and_all_references_lead_somewhere():
    figures = [inline_svg(lines("ab"), title, "d") for title in ("one", "two")]
    ids = [[e.get("id") for e in parse(svg).iter() if e.get("id")] for svg in figures]
    assert not set(ids[0]) & set(ids[1])
    for svg, own in zip(figures, ids, strict=True):
        assert len(set(own)) == len(own)
        referred = set(re.findall(r"(?:href=\"#|url\(#)([\w-]+)", svg))
        assert referred
        assert referred <= set(own)
        assert "<style" not in svg  # it would be the whole page's


def test_the_same_figure_has_the_same_bytes():
    assert inline_svg(lines("ab"), "t", "d") == inline_svg(lines("ab"), "t", "d")


def test_what_the_user_has_set_is_neither_used_nor_changed():
    plain = inline_svg(lines("a"), "t", "d")
    with matplotlib.rc_context(
        {"font.size": 40, "lines.linewidth": 9, "svg.fonttype": "path", "text.parse_math": True}
    ):
        before = dict(matplotlib.rcParams)
        assert inline_svg(lines("a"), "t", "d") == plain
        assert dict(matplotlib.rcParams) == before
    assert logging.getLogger("matplotlib").level == logging.NOTSET


@pytest.mark.parametrize("log", [False, True])
def test_what_is_no_number_leaves_a_gap(log):
    strange = [None, math.nan, math.inf, 0.0, -1.0]
    series = [Series("a", range(5), strange, strange, strange), Series("b", [0, 1], [1.0, 2.0], [0.5, -1], [1.5, 5])]
    assert texts(inline_svg(draw_lines(series, x_label="x", y_label="y", log=log), "t", "d"))
    assert texts(inline_svg(draw_layers(series[:1], list("abcde"), y_label="y", log=log), "t", "d"))
    nothing = distribution() | {"low": None}
    assert texts(inline_svg(draw_ridges({"a": [None, nothing]}, ["1", "2"], x_label="x"), "t", "d"))
    assert texts(inline_svg(draw_boxes({"a": [None, [None] * 5]}, ["1", "2"], y_label="y"), "t", "d"))
    assert texts(inline_svg(draw_points([], [], x_label="x", y_label="y"), "t", "d"))
    assert texts(inline_svg(draw_points([math.nan, 1.0], [1.0, 1.0], x_label="x", y_label="y"), "t", "d"))


def test_powers_of_ten_are_named_without_formulas():
    series = [Series("a", [0, 1], [1e-7, 1e5])]
    assert {"10⁻⁵", "10⁵"} <= set(texts(inline_svg(draw_lines(series, x_label="x", y_label="y", log=True), "t", "d")))


def test_a_confusion_of_few_classes_has_its_numbers_and_one_of_many_is_a_picture():
    counts = np.array([[90, 10], [0, 123]])
    small = inline_svg(draw_confusion(counts, ["cat", "dog"]), "t", "d")
    assert {"90", "10", "123", "cat", "dog", "predicted", "true"} <= set(texts(small))
    many = np.eye(200, dtype=np.int64) * 50
    many[3, 7] = 4
    large = inline_svg(draw_confusion(many, [f"class {i}" for i in range(200)]), "t", "d")
    assert len(large) < 60_000
    [image] = list(parse(large).iter("image"))
    assert image.get("href").startswith("data:image/png;base64,")


def test_many_points_are_drawn_as_their_density():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    svg = inline_svg(draw_points(x, x + rng.normal(size=20_000), x_label="true", y_label="predicted"), "t", "d")
    assert len(svg) < 60_000
    assert len(list(parse(svg).iter("image"))) == 1


def test_thirty_layers_scroll_and_have_some_of_their_names():
    names = [f"hidden {i}" for i in range(1, 31)]
    root = parse(inline_svg(draw_layers([Series("a", range(30), [1.0] * 30)], names, y_label="y"), "t", "d"))
    assert root.get("class") == "wide"
    assert parse(inline_svg(lines("a"), "t", "d")).get("class") is None


def test_figures_are_files_too(tmp_path):
    save_figure(lines("ab"), tmp_path / "a.svg")
    assert "var(" not in (tmp_path / "a.svg").read_text()
    assert "epoch" in texts_of_file(tmp_path / "a.svg")
    assert "fill: #ffffff" in (tmp_path / "a.svg").read_text()


def texts_of_file(path):
    return ["".join(e.itertext()) for e in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_what_matplotlib_tells_of_itself_is_not_told_to_who_reads_a_page(capfd):
    logger = logging.getLogger("matplotlib.font_manager")
    with silent():
        logger.warning("Matplotlib is building the font cache; this may take a moment.")
    assert capfd.readouterr().err == ""
    assert logger.isEnabledFor(logging.WARNING)


def test_figures_side_by_side_have_one_axis_of_values():
    small, large = (
        draw_lines([Series("a", [0, 1], [low, high])], x_label="x", y_label="y", log=True)
        for low, high in ((2e-3, 3e-3), (1e-7, 1e-1))
    )
    own = large.axes[0].get_ylim()
    align([small, large])
    assert small.axes[0].get_ylim() == large.axes[0].get_ylim() == own
    assert small.axes[0].yaxis.get_minor_formatter()(5e-4) == ""  # there is no room between powers of ten any more


def test_what_lines_are_drawn_over_can_be_logarithmic():
    for values in ([0.5, 0.1], [None, None]):
        axes = draw_lines([Series("a", [0.01, 100], values)], x_label="rate", y_label="y", log_x=True).axes[0]
        assert axes.get_xscale() == ("log" if values[0] else "linear")


def test_an_axis_of_epochs_names_whole_ones_alone():
    assert texts(inline_svg(draw_lines([Series("a", [3], [0.5])], x_label="epoch", y_label="y"), "t", "d"))[0] == "3"
    two = texts(inline_svg(draw_lines([Series("a", [0, 1], [0.5, 1])], x_label="epoch", y_label="y"), "t", "d"))
    assert two[: two.index("epoch")] == ["0", "1"]
