"""The pages, in a browser: what is typed or chosen is predicted, and nobody's names are taken for HTML."""

import base64
import http.server
import json
import threading
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from batchnorm.serving import Limits, serve_run, server
from batchnorm.tables import train_table
from served_runs import Serving, ask, fit_examples
from table_cases import write

HACK = "<img src=x onerror=\"document.title='hacked'\">"
TAG = "\"'></datalist></form><script>document.title='hacked'</script>"
QUOTES = """it's "quoted" & <b>bold</b> {{ 7 * 7 }}"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A run whose columns, texts and classes are meant to be taken for HTML."""
    folder, rng = tmp_path_factory.mktemp("hostile"), np.random.default_rng(0)
    n = 90
    frame = pd.DataFrame(
        {
            TAG: rng.normal(size=n),
            "__proto__": rng.normal(size=n),
            QUOTES: rng.choice([TAG, HACK, "plain"], n),
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "empty": np.nan,
            f"y {HACK}": rng.choice([HACK, TAG, "c"], n),
        }
    )
    path = write(frame, folder / "t.parquet")
    parameters = {"epochs": 2, "hidden_layer_sizes": (8,)}
    train_table([path], [f"y {HACK}"], parameters=parameters, out=folder / "run")
    return serve_run(folder / "run", Limits())


@pytest.fixture
def open_page(visit, monkeypatch):
    """Serve a run and open its page, which may ask the server alone."""
    monkeypatch.setattr(server, "_REST", 0.0)
    with ExitStack() as stack:

        def open_page(model):
            url = stack.enter_context(Serving(model)).url
            page = visit(f"{url}/", within=f"{url}/")
            stack.callback(lambda: page.title() != "hacked" or pytest.fail("a name was taken for HTML"))
            return page

        yield open_page


@pytest.fixture
def opened(open_page, hostile):
    return open_page(hostile)


def field(page, column):
    (found,) = (one for one in page.locator("input").all() if one.get_attribute("data-column") == column)
    return found


def predict(page):
    """Press the button; return the texts of the answer."""
    page.evaluate("document.getElementById('answer').replaceChildren()")
    page.locator("button[type=submit]").click()
    page.locator("#answer > *").first.wait_for()
    return page.locator("#answer").inner_text()


def refused(page):
    """Press the button; return what is said. That the server refuses, a browser reports, too."""
    said = predict(page)
    assert page.locator("#answer .error").count() == 1
    assert len(page.said) == 1
    assert "422" in page.said.pop()
    return said


def test_what_is_typed_is_predicted(opened, hostile):
    field(opened, TAG).fill(" -1.5e0 ")
    field(opened, "__proto__").fill("0.25")
    field(opened, QUOTES).fill(HACK)
    predict(opened)
    (expected,) = ask(hostile, [{TAG: -1.5, "__proto__": 0.25, QUOTES: HACK, "day": None, "empty": None}])[
        "predictions"
    ]
    assert opened.locator("output").inner_text() == expected["prediction"]
    rows = opened.locator("#answer tr").all()
    shown = {row.locator("th").inner_text(): row.locator("td").first.inner_text() for row in rows}
    assert shown == {name: f"{100 * expected[f'probability_{name}']:.1f} %" for name in (HACK, TAG, "c")}
    shares = [expected[f"probability_{name}"] for name in shown]
    assert shares == sorted(shares, reverse=True)


def test_an_example_is_filled_in_and_known_values_are_offered(opened, hostile):
    options = opened.locator("option").evaluate_all("options => options.map((option) => option.value)")
    assert sorted(options) == sorted([TAG, HACK, "plain"])
    opened.locator("#example").click()
    assert field(opened, "day").input_value().startswith("2021-")
    predict(opened)
    (expected,) = hostile.answer(hostile.example())["predictions"]
    assert opened.locator("output").inner_text() == expected["prediction"]


@pytest.mark.parametrize(
    ("column", "typed", "said"),
    [
        (TAG, "many", "is 'many', expected a number"),
        (TAG, "Infinity", "is 'Infinity', expected a number"),
        ("day", "tomorrow", "column 'day' is 'tomorrow', expected a date"),
    ],
)
def test_what_is_wrong_is_said(opened, column, typed, said):
    field(opened, column).fill(typed)
    assert said in refused(opened)


def test_a_value_that_is_new_is_noticed(opened):
    field(opened, QUOTES).fill("never seen")
    assert f"Rare, or not there, in training: {QUOTES}" in predict(opened)


def test_a_server_that_has_stopped_is_said(visit, hostile, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(hostile) as serving:
        page = visit(f"{serving.url}/", within=f"{serving.url}/")
    assert "No answer: " in predict(page)
    page.said.clear()


def test_the_page_that_tells_how_to_ask(opened):
    opened.get_by_role("link", name="How to ask").click()
    opened.locator("h2").first.wait_for()
    assert TAG in opened.locator("main").inner_text()
    assert QUOTES in opened.locator("main").inner_text()


def test_a_page_is_dark_where_all_is(opened):
    background = "getComputedStyle(document.body).backgroundColor"
    assert opened.evaluate(background) == "rgb(255, 255, 255)"
    opened.emulate_media(color_scheme="dark")
    assert opened.evaluate(background) == "rgb(20, 24, 28)"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on images whose classes are meant to be taken for HTML."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 4, 6)).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "run"
    return serve_run(fit_examples(path, pixels, np.arange(120) % 3, class_names=(HACK, TAG, "c")), Limits())


@pytest.fixture
def image_page(open_page, pictures):
    return open_page(pictures)


@pytest.fixture
def red(tmp_path):
    path = tmp_path / f"<b>{QUOTES.replace('/', '')}.png"
    Image.new("RGB", (60, 20), "red").save(path)
    return path


def check_that_it_is_shown(page, expected):
    (row,) = expected["predictions"]
    assert page.locator("output").inner_text() == row["prediction"]
    bars = [float(one.get_attribute("value")) for one in page.locator("#answer meter").all()]
    assert bars == pytest.approx(sorted((row[f"probability_{name}"] for name in (HACK, TAG, "c")), reverse=True))
    assert page.locator("#answer .notice").all_inner_texts() == expected["notices"]


def middle_of_the_preview(page):
    page.locator("#preview").wait_for()
    return page.evaluate("[...document.getElementById('preview').getContext('2d').getImageData(30, 10, 1, 1).data]")


def test_an_image_that_is_chosen_is_shown_and_predicted(image_page, pictures, red):
    image_page.locator("#file").set_input_files(red)
    assert middle_of_the_preview(image_page) == [255, 0, 0, 255]
    predict(image_page)
    expected = pictures.answer(red.read_bytes())
    assert len(expected["notices"]) == 2  # resized, made grey
    check_that_it_is_shown(image_page, expected)


DROP = """
(sent) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([Uint8Array.from(sent)], "x.png", { type: "image/png" }));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}
"""


def test_an_image_that_is_dropped_takes_the_place_of_another(image_page, pictures, red, tmp_path):
    Image.new("L", (6, 4), 7).save(tmp_path / "other.png")
    image_page.locator("#file").set_input_files(tmp_path / "other.png")
    predict(image_page)
    image_page.evaluate(DROP, list(red.read_bytes()))
    assert not image_page.locator("#answer > *").count()  # it was the other one's
    image_page.wait_for_function("document.getElementById('preview').width === 60")
    assert middle_of_the_preview(image_page) == [255, 0, 0, 255]
    predict(image_page)
    check_that_it_is_shown(image_page, pictures.answer(red.read_bytes()))


def test_a_file_that_is_no_image_is_said(image_page, red, tmp_path):
    image_page.locator("#file").set_input_files(red)
    middle_of_the_preview(image_page)
    (tmp_path / "text.png").write_text(HACK)
    image_page.locator("#file").set_input_files(tmp_path / "text.png")
    assert refused(image_page) == "the image: it is no PNG, JPEG, WebP, BMP or GIF"
    assert not image_page.locator("#preview").is_visible()


@pytest.fixture(scope="module")
def sketches(tmp_path_factory):
    """A run on images that are large enough to be drawn."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 9, 8)).astype(np.uint8)
    path = tmp_path_factory.mktemp("sketches") / "run"
    return fit_examples(path, pixels, np.arange(120) % 3, class_names=(HACK, TAG, "c"))


@pytest.mark.parametrize("weights", [False, True])
def test_a_drawing_is_predicted_by_the_server_and_with_weights_by_the_page(open_page, sketches, weights):
    model = serve_run(sketches, Limits(), weights)
    page = open_page(model)
    box = page.locator("#play-canvas").bounding_box()
    page.mouse.move(box["x"] + 50, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 200, steps=4)
    page.mouse.up()
    page.get_by_role("button", name="Predict the drawing").click()
    page.locator("#answer output").wait_for()
    shown = page.locator("#play-seen").evaluate("canvas => canvas.toDataURL()").partition(",")[2]
    expected = model.answer(base64.b64decode(shown))
    assert expected["notices"] == []
    check_that_it_is_shown(page, expected)
    (row,) = expected["predictions"]
    names, figures = (page.locator(f"#play-answers {cells}").all_inner_texts() for cells in ("th", "td:nth-child(2)"))
    found = {name: figure.strip() for name, figure in zip(names, figures, strict=True)}
    by_page = {name: f"{100 * row[f'probability_{name}']:.1f}\xa0%" for name in (HACK, TAG, "c")}
    assert found == (by_page if weights else {})


def test_what_is_too_small_to_be_drawn_has_no_canvas(image_page):
    assert image_page.locator("#playground").count() == 0


ASK_FROM_ELSEWHERE = """
async ([url, bytes]) => {
  const body = new Blob([Uint8Array.from(bytes)], { type: "image/png" });
  const headers = { "Content-Type": "image/png" };
  const options = [{}, { mode: "no-cors" }, { mode: "no-cors", headers }, { body: "a text" }];
  navigator.sendBeacon(url, body);
  await Promise.allSettled(options.map((more) => fetch(url, { method: "POST", body, ...more })));
  await new Promise((done) => setTimeout(done, 300)); // a beacon does not tell when it is there
}
"""


def test_a_page_of_another_site_cannot_ask_with_an_image(browser, pictures, red, monkeypatch):
    """Such a page may send what has no type; of what has that of an image the browser asks first, and in vain."""
    monkeypatch.setattr(server, "_REST", 0.0)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    asked = []
    monkeypatch.setattr(pictures, "answer", lambda body: asked.append(body) or {})
    elsewhere = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    with elsewhere, Serving(pictures) as serving, ExitStack() as stack:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        stack.callback(elsewhere.shutdown)
        page = stack.enter_context(browser.new_page())  # with `visit`, which listens in, it would not ask first
        page.goto(f"http://localhost:{elsewhere.server_port}/nothing")
        sent = [f"{serving.url}/predict", list(red.read_bytes())]
        page.evaluate(ASK_FROM_ELSEWHERE, sent)
        assert asked == []
        monkeypatch.setattr(pictures, "content_type", "*", raising=False)
        page.evaluate(ASK_FROM_ELSEWHERE, sent)
    assert sorted(asked) == sorted(
        [red.read_bytes(), red.read_bytes(), b"a text"]
    )  # it was the type that kept them out


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("signals") / "run"
    return serve_run(fit_examples(path, rng.normal(size=(120, 2, 3)), np.arange(120) % 3), Limits())


def test_arrays_that_are_typed_are_predicted(open_page, signals):
    page = open_page(signals)
    predict(page)
    outputs = page.locator("output").all_inner_texts()
    assert outputs == [row["prediction"] for row in signals.answer(signals.example())["predictions"]]
    body = json.dumps({"inputs": np.random.default_rng(1).normal(size=(22, 2, 3)).round(2).tolist()})
    page.locator("#inputs").fill(body)
    assert predict(page).endswith("and 2 more")
    outputs = page.locator("output").all_inner_texts()
    assert outputs == [row["prediction"] for row in signals.answer(body.encode())["predictions"]][:20]
    page.locator("#inputs").fill(f"{body}x")
    assert "the body cannot be read as JSON" in refused(page)
