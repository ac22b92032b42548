"""The page, in a browser: what is typed is predicted, and nobody's names are taken for HTML."""

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from batchnorm.serving import Limits, serve_run, server
from batchnorm.tables import train_table
from served_runs import SECONDS, Serving, ask
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
