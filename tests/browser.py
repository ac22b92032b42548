"""A browser for tests: Playwright drives the system's Chromium, and what a page must not do fails the test."""

import os
import shutil
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

SECONDS = 20.0  # that anything on a page may take, on a machine that does much else


def missing(what):
    reason = f"needs a browser, and {what} is not here: apt-get install chromium"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")  # longer, and its event loop would be in the way of others'
def browser():
    binary = shutil.which("chromium") or shutil.which("google-chrome")
    if binary is None:
        missing("Chromium")
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Return a function that opens an address; the page may ask for nothing outside, and say no error.

    `within` is what the addresses that it may ask for begin with: by default it is on its own. Options of
    `new_context` say what the browser is (`viewport`, `color_scheme`, `has_touch`).
    """
    with ExitStack() as stack:

        def visit(address, *, within=None, **options):
            asked = []

            def is_allowed(url):
                return url.startswith(within) if within else url == address

            def answer(route):
                url = route.request.url
                if urlsplit(url).scheme in ("data", "blob") or is_allowed(url.partition("#")[0]):
                    route.continue_()
                else:
                    asked.append(url)
                    route.abort()

            def check():
                assert (asked, page.said) == ([], [])

            context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
            stack.callback(context.close)
            context.set_default_timeout(1000 * SECONDS)
            context.route("**/*", answer)
            page = context.new_page()
            page.said = []  # errors and warnings; what a test expects it takes out
            page.on("pageerror", lambda error: page.said.append(str(error)))
            page.on("console", lambda line: page.said.append(line.text) if line.type in ("error", "warning") else None)
            page.goto(address)
            stack.callback(check)
            return page

        yield visit
