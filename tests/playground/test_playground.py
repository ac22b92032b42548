"""The place to play, in a browser: it computes what torch computes, and both answers can be read on the page."""

import base64
import io
import itertools
import re
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

import batchnorm as bn
from batchnorm import data
from batchnorm.config import Activation
from batchnorm.data import TargetScale, load_dataset
from batchnorm.playground import pack, piece
from conftest import REPOSITORY
from played import both_answers, network_of, some_examples, some_network, some_signature, unpacked

SHAPE = (8, 6)
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'nonce-it'"
HACK = "<img src=x onerror=\"document.title='hacked'\"></script><script>document.title='hacked'</script>"
THREE = [(0.3, 0.25), (0.42, 0.17), (0.58, 0.18), (0.66, 0.28), (0.62, 0.4), (0.48, 0.47), (0.62, 0.52), (0.7, 0.64),
         (0.63, 0.78), (0.47, 0.84), (0.3, 0.78)]  # fmt: skip


@pytest.fixture
def play(visit, tmp_path):
    """Return a function that opens a page with nothing but the piece of a document."""

    def play(document, **options):
        made = piece(document)
        path = tmp_path / "page.html"
        path.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>it</title><meta name="viewport" '
            f'content="width=device-width"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            f'<style>{made.style}</style>{made.html}<script nonce="it">{made.script}</script></html>'
        )
        return visit(path.as_uri(), **options)

    return play


@pytest.fixture(scope="module")
def documented(tmp_path_factory):
    """What the code on the documentation's page makes, with a network that knows digits, and the folder of it."""
    folder, dataset = tmp_path_factory.mktemp("documented"), load_dataset("mnist5k")
    network = bn.DenseNetwork(784, (100,), 10, activation="elu", normalize_logits=True)
    bn.fit(network, dataset, bn.TrainingConfig(epochs=2, evaluate_every=2), out=folder / "runs" / "mnist5k")
    text = (REPOSITORY / "docs" / "playground.md").read_text()
    made = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(data, "load_dataset", lambda name: dataset)
        exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], made)
    return folder, made["document"]


@pytest.fixture(scope="module")
def digits(documented):
    return documented[1]


def document_of(network, *shape, names="abc", **options):
    return pack(network, some_signature(*shape, names=names), **options)


def draw(page, points):
    """Draw a stroke with the mouse, through points in shares of the canvas."""
    canvas = page.locator("#play-canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    for x, y in points:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
        page.mouse.down()
    page.mouse.up()


def pixels(page):
    """Return what the small canvas shows (height, width, colours)."""
    url = page.locator("#play-seen").evaluate("canvas => canvas.toDataURL()")
    return np.array(Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB"))


def seen(page):
    """Return the grey image that the network sees, as it takes it."""
    return torch.from_numpy(pixels(page)[..., 0] / 255.0)


def held(document):
    """Return the examples that a document holds, as the network takes them."""
    shape = document["inputs"]["height"], document["inputs"]["width"]
    return unpacked(document["examples"]["images"]).reshape(-1, *shape) * document["inputs"]["scale"]


def shown(page):
    """Return the figures of the page's two columns."""
    rows = [row.split("\t") for row in page.locator("#play-answers tr").evaluate_all("r => r.map(e => e.innerText)")]
    figures = [
        [float(re.sub(r"\s|%", "", text)) for text in re.findall(r"-?[\d.]+\s*%?", "\t".join(row[1:]))] for row in rows
    ]
    return np.array(figures)


def percentages(logits):
    return 100 * logits.softmax(0).numpy()


def set_range(page, name, value):
    script = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }"
    page.locator(f"#play-{name}").evaluate(script, str(value))


COMPUTE = """([document, image, company]) => {
    const network = playground.read(document.network);
    const alone = playground.logits(network, [image], false)[0];
    const together = playground.logits(network, [image, ...company], true)[0];
    return [alone, together].map((one) => [[...one], [...playground.answer(document.outputs, one)]]);
}"""


def test_it_computes_what_torch_does(play):
    """Of every activation, with and without batch norm, on the logits too; by inference, and in a batch."""
    page = play(document_of(some_network(48, 3), *SHAPE))
    inputs = torch.rand(7, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4 - 2
    norms = ({"normalization": "none"}, {"normalize_logits": False}, {"normalize_logits": True})
    for activation, options in itertools.product(get_args(Activation), norms):
        document = document_of(some_network(48, 12, 9, 3, activation=activation, **options), *SHAPE)
        computed = page.evaluate(COMPUTE, [document, inputs[0].tolist(), inputs[1:].tolist()])
        for expected, (logits, probabilities) in zip(
            both_answers(network_of(document), inputs[0], inputs[1:]), computed, strict=True
        ):
            assert np.abs(expected.numpy() - logits).max() < 1e-9, (activation, options)
            assert np.abs(expected.softmax(0).numpy() - probabilities).max() < 1e-9


def test_the_tails_of_gelu_keep_their_digits(play):
    page = play(document_of(None, *SHAPE))
    values = torch.tensor([-9.0, -8.4, -3.2, -1.0, -1e-9, 0.0, 0.3, 2.9, 6.1, 30.0], dtype=torch.float64)
    network = some_network(48, 10, 10, activation="gelu", normalization="none")
    with torch.no_grad():
        for linear in (network[0], network[2]):
            linear.weight.copy_(torch.eye(*linear.weight.shape))
    document = document_of(network, *SHAPE)
    image = torch.cat([values, torch.zeros(38)])
    found = page.evaluate(COMPUTE, [document, image.tolist(), []])[0][0]
    np.testing.assert_allclose(found, torch.nn.functional.gelu(values), rtol=1e-9, atol=1e-13)


def test_a_digit_that_is_drawn_is_recognised(play, digits):
    assert [digits["inputs"][name] for name in ("background", "ink", "extent")] == pytest.approx([0, 255, 20 / 28])
    page = play(digits)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#play-said")).to_have_text("Nothing is drawn yet.")
    draw(page, THREE)
    expect(page.locator("#play-said")).to_contain_text(re.compile(r"By inference: 3 \(\d"))
    image = seen(page)
    ink = image.sum(0).nonzero(), image.sum(1).nonzero()
    assert [int(side.max() - side.min()) + 1 for side in ink] == pytest.approx([14, 20], abs=2)
    place = torch.arange(28) + 0.5
    assert float((image.sum(1) * place).sum() / image.sum()) == pytest.approx(14, abs=0.2)
    network, examples = network_of(digits), held(digits)
    expected = [percentages(one) for one in both_answers(network, image, examples[:49])]
    np.testing.assert_allclose(shown(page), np.transpose(expected), atol=0.051)
    page.get_by_role("button", name="Clear").click()
    assert not seen(page).any()


def test_the_page_of_the_documentation_plays(visit, documented):
    page = visit((documented[0] / "play.html").as_uri())
    expect(page.locator("#play-said")).to_contain_text("In a batch with 49\xa0others:")


def test_the_answer_depends_on_the_company(play, digits):
    page = play(digits)
    page.get_by_role("button", name="Example 4: 3").focus()
    page.keyboard.press("Enter")
    torch.testing.assert_close(seen(page), held(digits)[3])
    page.get_by_label("Class of the others").select_option(label="1")
    set_range(page, "size", 2)
    network, examples = network_of(digits), held(digits)
    of_class = examples[torch.tensor(digits["examples"]["classes"]) == 1]
    expected = [percentages(one) for one in both_answers(network, examples[3], of_class[:2])]
    np.testing.assert_allclose(shown(page), np.transpose(expected), atol=0.051)
    said = page.locator("#play-said").text_content().replace("\xa0", " ")
    alone, together = expected
    assert f"By inference: {alone.argmax()} ({alone.max():.1f} %)." in said
    assert f"In a batch with 2 others: {together.argmax()} ({together.max():.1f} %)." in said
    gaps = np.abs(alone - together)
    assert said.endswith(f"The largest difference is {gaps.max():.1f} percentage points, for {gaps.argmax()}.")
    assert ("another answer" in said) == (alone.argmax() != together.argmax())
    company = page.get_by_label("The others in the batch: 2 × 1")
    assert company.bounding_box()["width"] >= 30  # of 8 × 8 pixels each, but large enough to be seen
    before = shown(page)
    page.get_by_role("button", name="Shuffle").click()
    assert (before[:, 0] == shown(page)[:, 0]).all()
    assert (before[:, 1] != shown(page)[:, 1]).any()


def test_a_finger_draws_and_the_page_stays_where_it_is(play, digits):
    page = play(digits, viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    page.locator("#play-canvas").scroll_into_view_if_needed()
    box, top = page.locator("#play-canvas").bounding_box(), page.evaluate("scrollY")
    touch = page.context.new_cdp_session(page)
    for number, (x, y) in enumerate(THREE):
        point = {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
        touch.send(
            "Input.dispatchTouchEvent", {"type": "touchMove" if number else "touchStart", "touchPoints": [point]}
        )
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#play-said")).to_contain_text(re.compile(r"By inference: 3 \(\d"))
    assert page.evaluate("scrollY") == top
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_pointer_that_is_lost_draws_no_more(play):
    page = play(document_of(some_network(48, 8, 3), *SHAPE, examples=some_examples(*SHAPE)))
    box = page.locator("#play-canvas").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 90, box["y"] + 90, steps=3)
    page.locator("#play-canvas").evaluate("canvas => canvas.releasePointerCapture(1)")  # the mouse's
    page.mouse.move(box["x"] + box["width"] + 50, box["y"])
    page.mouse.up()
    before = pixels(page)
    page.mouse.move(box["x"] + 200, box["y"] + 300, steps=3)
    page.mouse.move(box["x"] + box["width"] + 50, box["y"])
    assert (pixels(page) == before).all()
    draw(page, [(0.2, 0.8), (0.8, 0.8)])
    assert (pixels(page) != before).any()


def test_bars_and_choice_are_seen_in_forced_colours(play):
    page = play(document_of(some_network(48, 8, 3), *SHAPE, examples=some_examples(*SHAPE)), forced_colors="active")
    colour = "element => getComputedStyle(element).backgroundColor"
    assert page.locator(".play-bar").first.evaluate(colour) != page.locator("body").evaluate(colour)
    border = "element => getComputedStyle(element).borderTopColor"
    chosen, other = (page.locator("#play-examples button").nth(i).evaluate(border) for i in (0, 1))
    assert chosen != other


def test_the_keyboard_draws(play, digits):
    page = play(digits)
    page.locator("#play-canvas").focus()
    for key in ["ArrowUp"] * 14 + [" "] + ["ArrowDown"] * 28 + [" "] + ["ArrowRight"]:
        page.keyboard.press(key)
    expect(page.locator("#play-said")).to_contain_text(re.compile(r"By inference: 1 \(\d"))
    image = seen(page)
    assert int((image.sum(0) > 0).sum()) <= 5
    assert int((image.sum(1) > 0).sum()) == pytest.approx(20, abs=2)


def test_names_are_never_taken_for_html(play):
    names = (HACK, "'\"&", "c")
    page = play(document_of(some_network(48, 8, 3), *SHAPE, names=names, examples=some_examples(*SHAPE)))
    assert page.locator("#play-answers th").all_text_contents() == list(names)
    assert page.locator("#play-kind option").all_text_contents() == ["all classes", *names]
    assert page.title() == "it"


def test_without_batch_norm_there_is_one_answer(play):
    network = some_network(48, 8, 3, normalization="none")
    page = play(document_of(network, *SHAPE, examples=some_examples(*SHAPE)))
    assert shown(page).shape == (3, 1)
    assert page.get_by_text("its answer does not depend on other images").is_visible()
    assert page.locator("#play-size").count() == 0


def test_without_examples_drawings_are_the_company(play):
    document = document_of(
        some_network(48, 8, 3, dropout=0.1), *SHAPE, hold_examples=False, examples=some_examples(*SHAPE)
    )
    page = play(document)
    expect(page.locator("#play-said")).to_have_text("Nothing is drawn yet.")
    draw(page, [(0.5, 0.2), (0.5, 0.8)])
    expect(page.locator("#play-said")).to_contain_text("A batch needs at least one other image.")
    kept = seen(page)
    page.get_by_role("button", name="Put this drawing into the batch").click()
    draw(page, [(0.2, 0.5), (0.8, 0.5)])
    expect(page.locator("#play-said")).to_contain_text("In a batch with 1\xa0other:")
    assert (
        page.get_by_text("Try few others. The training also dropped units, which is left out here. The page").count()
        == 1
    )
    low, high = document["inputs"]["background"], document["inputs"]["ink"]
    image, kept = (((one * (high - low)).round() + low) / 255 for one in (seen(page), kept))
    expected = [percentages(one) for one in both_answers(network_of(document), image, kept[None])]
    np.testing.assert_allclose(shown(page), np.transpose(expected), atol=0.3)  # pixels were rounded twice


def test_of_many_classes_the_highest_are_shown(play):
    names = [f"class {i}" for i in range(200)]
    document = document_of(
        some_network(48, 8, 200), *SHAPE, names=names, examples=some_examples(*SHAPE, n=200, classes=200)
    )
    page = play(document)
    alone, together = both_answers(network_of(document), held(document)[0], held(document)[1:50])
    highest = torch.maximum(alone.softmax(0), together.softmax(0)).argsort(descending=True)[:12]
    assert page.locator("#play-answers th").all_text_contents() == [names[i] for i in highest]
    assert page.get_by_text("and 188 more").is_visible()


@pytest.mark.parametrize("task", ["labels", "regression"])
def test_labels_and_values_have_both_answers(play, task):
    scale = TargetScale((5.0, 0.0, 1.0), (2.0, 1.0, 10.0)) if task == "regression" else None
    document = document_of(
        some_network(48, 8, 3), *SHAPE, task=task, target_scale=scale, examples=some_examples(*SHAPE)
    )
    page = play(document)
    both = both_answers(network_of(document), held(document)[0], held(document)[1:30])
    expected = [scale.in_unit(one[None])[0] if scale else 100 * one.sigmoid() for one in both]
    np.testing.assert_allclose(shown(page), np.transpose([one.numpy() for one in expected]), rtol=1e-4, atol=0.051)
    said = page.locator("#play-said").text_content()
    assert said.startswith("The same image, by inference and in a batch with 29\xa0others. The largest difference is ")


def test_a_drawing_is_the_same_in_all_colours(play):
    document = document_of(some_network(3 * 48, 8, 3), 3, *SHAPE, examples=some_examples(3, *SHAPE))
    page = play(document)
    draw(page, [(0.5, 0.2), (0.5, 0.8)])
    image = pixels(page)
    assert (image[..., 0] == image[..., 1]).all()
    assert (image[..., 0] == image[..., 2]).all()
    assert image[..., 0].max() > 150


def test_ink_may_be_dark(play):
    examples = some_examples(*SHAPE)
    dark = type(examples)(255 - examples.inputs, examples.labels, 1 / 255)
    page = play(document_of(some_network(48, 8, 3), *SHAPE, examples=dark))
    draw(page, [(0.5, 0.2), (0.5, 0.8)])
    assert seen(page)[0, 0] == 1
    page.get_by_label("Dark on light").uncheck()
    assert seen(page)[0, 0] == 0


PICTURE = "([inputs, strokes]) => [...playground.picture(inputs, strokes, 0.13)]"


@pytest.mark.parametrize("extent", [20 / 28, 1.0])
def test_where_it_is_drawn_and_how_large_makes_no_difference(play, extent):
    page = play(document_of(None, 28, 28))
    inputs = {"width": 28, "height": 28, "extent": extent}
    moved = [(0.05 + 0.4 * x, 0.5 + 0.4 * y) for x, y in THREE]
    one, other = (np.array(page.evaluate(PICTURE, [inputs, [points]])) for points in (THREE, moved))
    np.testing.assert_allclose(one, other, atol=1e-6)
    rows = one.reshape(28, 28).any(1).nonzero()[0]
    assert len(rows) == pytest.approx(28 * extent, abs=1.1)
    dot = np.array(page.evaluate(PICTURE, [inputs, [[(0.9, 0.1)]]])).reshape(28, 28)
    assert dot[13:15, 13:15].all()
    assert dot.sum() < 16


def test_the_centre_of_mass_is_in_the_middle(play):
    page = play(document_of(None, 28, 28))
    gallows = [[(0.2, 0.2), (0.8, 0.2)], [(0.2, 0.2), (0.2, 0.8)]]
    image = np.array(page.evaluate(PICTURE, [{"width": 28, "height": 28, "extent": 20 / 28}, gallows])).reshape(28, 28)
    centre = [(image.sum(axis) * (np.arange(28) + 0.5)).sum() / image.sum() for axis in (0, 1)]
    assert centre == pytest.approx([14, 14], abs=0.1)
    assert np.argmax(image.sum(1)) > 7  # its box would begin at 4
    assert [len(image.any(axis).nonzero()[0]) for axis in (0, 1)] == pytest.approx([20, 20], abs=1.1)
