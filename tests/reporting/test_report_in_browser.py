"""The page of a run in a browser: offline, wide and narrow, light, dark and printed."""

import pytest
import torch

import batchnorm as bn

HACK = "<img src=x onerror=\"document.title='hacked'\">"
PARTS = ("summary", "mistakes", "playground", "learning", "activations", "statistics", "gradients", "making")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    digits = bn.load_dataset("digits")
    named = bn.Dataset(
        "digits & <b>more</b>", digits.train, digits.validation, digits.test, [HACK, *digits.class_names[1:]]
    )
    torch.manual_seed(0)
    network = bn.DenseNetwork(64, (8,), 10)
    run = bn.fit(network, named, bn.TrainingConfig(epochs=2), observe=True)
    return bn.write_report(run, named, output=folder / "report.html").path.as_uri()


def colour_of(page, selector, name="color"):
    return page.locator(selector).first.evaluate(f"element => getComputedStyle(element)['{name}']")


def test_all_parts_are_there_and_names_are_text(visit, address):
    page = visit(address)
    for part in PARTS:
        assert page.locator(f"section#{part}").is_visible()
    assert page.title() == "A training on digits & <b>more</b>"
    assert page.locator("nav a").count() == len(PARTS)
    page.locator("nav a", has_text="How it learned").click()
    assert page.evaluate("location.hash") == "#learning"
    assert page.locator("img[src='x']").count() == 0
    assert page.get_by_text(HACK).count() > 0


@pytest.mark.parametrize("width", [375, 768, 1280])
def test_nothing_reaches_beyond_the_side_of_a_screen(visit, address, width):
    page = visit(address, viewport={"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_figures_have_the_colours_of_their_surroundings(visit, address):
    line = "section#learning svg path[style*='--series-1']"
    light, dark = (visit(address, color_scheme=scheme) for scheme in ("light", "dark"))
    assert colour_of(light, "body", "background-color") == "rgb(255, 255, 255)"
    assert colour_of(dark, "body", "background-color") == "rgb(20, 24, 28)"
    assert colour_of(light, line, "stroke") == "rgb(0, 114, 178)"
    assert colour_of(dark, line, "stroke") == "rgb(86, 180, 233)"
    assert colour_of(dark, "section#learning svg text", "fill") == "rgb(232, 236, 240)"


def test_a_page_is_printed_light_and_without_what_is_of_use_on_a_screen_alone(visit, address):
    page = visit(address, color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert colour_of(page, "section#learning svg text", "fill") == "rgb(28, 33, 38)"
    assert not page.locator("nav").is_visible()
    assert not page.locator("section#playground").is_visible()
    assert page.pdf().startswith(b"%PDF")


def test_a_figure_has_a_name_and_a_description(visit, address):
    page = visit(address)
    figure = page.get_by_role("img", name="Confusion matrix")
    assert figure.count() == 1
    assert "are on the diagonal" in figure.locator("desc").text_content()


def test_folded_numbers_open(visit, address):
    page = visit(address)
    numbers = page.locator("section#learning details")
    assert not numbers.locator("table").is_visible()
    numbers.locator("summary").click()
    assert numbers.locator("table").is_visible()
    assert numbers.locator("tbody tr").count() == 2
