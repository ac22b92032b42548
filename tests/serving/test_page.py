"""The pages, in a browser: what is typed or chosen is predicted, and nobody's names are taken for HTML."""

import http.server
import json
import os
import shutil
import threading
from contextlib import ExitStack

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from batchnorm.serving import Limits, serve_run, server
from batchnorm.tables import train_table
from served_runs import SECONDS, Serving, ask, fit_examples
from table_cases import write

HACK = "<img src=x onerror=\"document.title='hacked'\">"
TAG = "\"'></datalist></form><script>document.title='hacked'</script>"
QUOTES = """it's "quoted" & <b>bold</b> {{ 7 * 7 }}"""


def missing(what):
    reason = f"needs a browser, and {what} is not here: apt-get install chromium chromium-driver"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        missing("Chromium" if binary is None else "its chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    folder = tmp_path_factory.mktemp("browser")
    for argument in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "disable-background-networking",
        "no-first-run", "window-size=1000,900", f"user-data-dir={folder}",
    ):  # fmt: skip
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


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
def opened(browser, hostile, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(hostile) as serving:
        browser.get(serving.url)
        yield browser
        check_that_nothing_went_elsewhere(browser, serving.url)


def check_that_nothing_went_elsewhere(browser, url):
    asked = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert asked
    assert all(name.startswith(f"{url}/") for name in asked)
    assert browser.title != "hacked"
    said = [entry for entry in browser.get_log("browser") if "422" not in entry["message"]]
    assert not said  # no violation of the page's policy, no error


def field(browser, column):
    (found,) = (
        one for one in browser.find_elements(By.CSS_SELECTOR, "input") if one.get_attribute("data-column") == column
    )
    return found


def predict(browser):
    """Press the button; return the texts of the answer."""
    browser.execute_script("document.getElementById('answer').replaceChildren()")
    browser.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
    WebDriverWait(browser, SECONDS).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#answer > *"))
    return browser.find_element(By.ID, "answer").text


def test_what_is_typed_is_predicted(opened, hostile):
    field(opened, TAG).send_keys(" -1.5e0 ")
    field(opened, "__proto__").send_keys("0.25")
    field(opened, QUOTES).send_keys(HACK)
    predict(opened)
    (expected,) = ask(hostile, [{TAG: -1.5, "__proto__": 0.25, QUOTES: HACK, "day": None, "empty": None}])[
        "predictions"
    ]
    assert opened.find_element(By.CSS_SELECTOR, "output").text == expected["prediction"]
    rows = opened.find_elements(By.CSS_SELECTOR, "#answer tr")
    shown = {row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text for row in rows}
    assert shown == {name: f"{100 * expected[f'probability_{name}']:.1f} %" for name in (HACK, TAG, "c")}
    shares = [expected[f"probability_{name}"] for name in shown]
    assert shares == sorted(shares, reverse=True)


def test_an_example_is_filled_in_and_known_values_are_offered(opened, hostile):
    options = opened.execute_script("return [...document.querySelectorAll('option')].map((option) => option.value)")
    assert sorted(options) == sorted([TAG, HACK, "plain"])
    opened.find_element(By.ID, "example").click()
    assert field(opened, "day").get_attribute("value").startswith("2021-")
    predict(opened)
    (expected,) = hostile.answer(hostile.example())["predictions"]
    assert opened.find_element(By.CSS_SELECTOR, "output").text == expected["prediction"]


@pytest.mark.parametrize(
    ("column", "typed", "said"),
    [
        (TAG, "many", "is 'many', expected a number"),
        (TAG, "Infinity", "is 'Infinity', expected a number"),
        ("day", "tomorrow", "column 'day' is 'tomorrow', expected a date"),
    ],
)
def test_what_is_wrong_is_said(opened, column, typed, said):
    field(opened, column).send_keys(typed)
    assert said in predict(opened)
    assert opened.find_element(By.CSS_SELECTOR, "#answer .error")


def test_a_value_that_is_new_is_noticed(opened):
    field(opened, QUOTES).send_keys("never seen")
    assert f"Rare, or not there, in training: {QUOTES}" in predict(opened)


def test_a_server_that_has_stopped_is_said(browser, hostile, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(hostile) as serving:
        browser.get(serving.url)
    assert "No answer: " in predict(browser)
    browser.get_log("browser")


def test_the_page_that_tells_how_to_ask(opened):
    opened.find_element(By.LINK_TEXT, "How to ask").click()
    WebDriverWait(opened, SECONDS).until(lambda b: b.find_elements(By.CSS_SELECTOR, "h2"))
    assert TAG in opened.find_element(By.TAG_NAME, "main").text
    assert QUOTES in opened.find_element(By.TAG_NAME, "main").text


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A run on images whose classes are meant to be taken for HTML."""
    pixels = np.random.default_rng(0).integers(0, 255, (120, 4, 6)).astype(np.uint8)
    path = tmp_path_factory.mktemp("pictures") / "run"
    return serve_run(fit_examples(path, pixels, np.arange(120) % 3, class_names=(HACK, TAG, "c")), Limits())


@pytest.fixture
def image_page(browser, pictures, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(pictures) as serving:
        browser.get(serving.url)
        yield browser
        check_that_nothing_went_elsewhere(browser, serving.url)


@pytest.fixture
def red(tmp_path):
    path = tmp_path / f"<b>{QUOTES.replace('/', '')}.png"
    Image.new("RGB", (60, 20), "red").save(path)
    return path


def check_that_it_is_shown(browser, expected):
    (row,) = expected["predictions"]
    assert browser.find_element(By.CSS_SELECTOR, "output").text == row["prediction"]
    bars = [float(one.get_attribute("value")) for one in browser.find_elements(By.CSS_SELECTOR, "#answer meter")]
    assert bars == pytest.approx(sorted((row[f"probability_{name}"] for name in (HACK, TAG, "c")), reverse=True))
    notices = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "#answer .notice")]
    assert notices == expected["notices"]


def middle_of_the_preview(browser):
    WebDriverWait(browser, SECONDS).until(lambda b: b.find_element(By.ID, "preview").is_displayed())
    return browser.execute_script(
        "return [...document.getElementById('preview').getContext('2d').getImageData(30, 10, 1, 1).data]"
    )


def test_an_image_that_is_chosen_is_shown_and_predicted(image_page, pictures, red):
    image_page.find_element(By.ID, "file").send_keys(str(red))
    assert middle_of_the_preview(image_page) == [255, 0, 0, 255]
    predict(image_page)
    expected = pictures.answer(red.read_bytes())
    assert len(expected["notices"]) == 2  # resized, made grey
    check_that_it_is_shown(image_page, expected)


DROP = """
const bytes = Uint8Array.from(arguments[0]);
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([bytes], "x.png", { type: "image/png" }));
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
"""


def test_an_image_that_is_dropped_takes_the_place_of_another(image_page, pictures, red, tmp_path):
    Image.new("L", (6, 4), 7).save(tmp_path / "other.png")
    image_page.find_element(By.ID, "file").send_keys(str(tmp_path / "other.png"))
    predict(image_page)
    image_page.execute_script(DROP, list(red.read_bytes()))
    assert not image_page.find_elements(By.CSS_SELECTOR, "#answer > *")  # it was the other one's
    assert middle_of_the_preview(image_page) == [255, 0, 0, 255]
    predict(image_page)
    check_that_it_is_shown(image_page, pictures.answer(red.read_bytes()))


def test_a_file_that_is_no_image_is_said(image_page, red, tmp_path):
    image_page.find_element(By.ID, "file").send_keys(str(red))
    middle_of_the_preview(image_page)
    (tmp_path / "text.png").write_text(HACK)
    image_page.find_element(By.ID, "file").send_keys(str(tmp_path / "text.png"))
    assert predict(image_page) == "the image: it is no PNG, JPEG, WebP, BMP or GIF"
    assert image_page.find_element(By.CSS_SELECTOR, "#answer .error")
    assert not image_page.find_element(By.ID, "preview").is_displayed()


ASK_FROM_ELSEWHERE = """
const [url, bytes, done] = arguments;
const body = new Blob([Uint8Array.from(bytes)], { type: "image/png" });
const headers = { "Content-Type": "image/png" };
const options = [{}, { mode: "no-cors" }, { mode: "no-cors", headers }, { body: "a text" }];
navigator.sendBeacon(url, body);
const sent = options.map((more) => fetch(url, { method: "POST", body, ...more }));
Promise.allSettled(sent).then(() => setTimeout(done, 300)); // a beacon does not tell when it is there
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
        browser.get(f"http://localhost:{elsewhere.server_port}/nothing")
        browser.execute_async_script(ASK_FROM_ELSEWHERE, f"{serving.url}/predict", list(red.read_bytes()))
        assert asked == []
        monkeypatch.setattr(pictures, "content_type", "*", raising=False)
        browser.execute_async_script(ASK_FROM_ELSEWHERE, f"{serving.url}/predict", list(red.read_bytes()))
    assert sorted(asked) == sorted(
        [red.read_bytes(), red.read_bytes(), b"a text"]
    )  # it was the type that kept them out
    browser.get_log("browser")


@pytest.fixture(scope="module")
def signals(tmp_path_factory):
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("signals") / "run"
    return serve_run(fit_examples(path, rng.normal(size=(120, 2, 3)), np.arange(120) % 3), Limits())


def test_arrays_that_are_typed_are_predicted(browser, signals, monkeypatch):
    monkeypatch.setattr(server, "_REST", 0.0)
    with Serving(signals) as serving:
        browser.get(serving.url)
        field = browser.find_element(By.ID, "inputs")
        predict(browser)
        outputs = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "output")]
        assert outputs == [row["prediction"] for row in signals.answer(signals.example())["predictions"]]
        body = json.dumps({"inputs": np.random.default_rng(1).normal(size=(22, 2, 3)).round(2).tolist()})
        browser.execute_script("arguments[0].value = arguments[1]", field, body)
        assert predict(browser).endswith("and 2 more")
        outputs = [one.text for one in browser.find_elements(By.CSS_SELECTOR, "output")]
        assert outputs == [row["prediction"] for row in signals.answer(body.encode())["predictions"]][:20]
        field.send_keys("x")
        assert "the body cannot be read as JSON" in predict(browser)
        check_that_nothing_went_elsewhere(browser, serving.url)
