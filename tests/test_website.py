"""The documentation site is built without a warning, whole, and asks nothing of any server."""

import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from filelock import FileLock

import batchnorm
from batchnorm import cli
from conftest import REPOSITORY
from pages_that_run import are_same, run

LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


class Page(HTMLParser):
    """What a page of the site links to, loads, and can be linked to by."""

    def __init__(self, path):
        super().__init__()
        self.path, self.links, self.loads, self.anchors = path, [], [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors |= {attributes.get("id"), attributes.get("name")} - {None}
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        if attributes.get(LOADED.get(tag)):
            self.loads.append(attributes[LOADED[tag]])

    def targets(self, references):
        """Return path and anchor of each reference to a file of the site."""
        for reference in references:
            address, anchor = urldefrag(urljoin(self.path.as_uri(), reference))
            if urlsplit(address).scheme == "file":
                yield Path(unquote(urlsplit(address).path)), unquote(anchor)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the site. Of pytest-xdist's processes the first that asks builds it, the others wait."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            command = [sys.executable, REPOSITORY / "website" / "build.py", folder]
            built = subprocess.run(command, capture_output=True, text=True)
            assert built.returncode == 0, built.stdout + built.stderr
            assert "No issues found" in built.stdout + built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}  # a server's, from its root


def test_no_link_leads_nowhere(pages):
    broken = [
        (page.path.name, str(path), anchor)
        for page in pages.values()
        for path, anchor in page.targets(page.links + page.loads)
        if not path.is_file() or (path in pages and anchor and anchor not in pages[path].anchors)
    ]
    assert not broken


def test_every_page_is_reached_from_the_first(site, pages):
    seen, coming = set(), [site / "index.html"]
    while coming:
        page = coming.pop()
        if page in pages and page not in seen:
            seen.add(page)
            coming += [path for path, _ in pages[page].targets(pages[page].links)]
    assert pages.keys() == seen


def test_every_page_of_docs_has_its_place_in_the_navigation():
    """In website/zensical.toml."""
    docs = REPOSITORY / "docs"
    nav = tomllib.loads((REPOSITORY / "website" / "zensical.toml").read_text())["project"]["nav"]
    assert {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} <= set(files(nav))


def files(nav):
    """Return what a navigation leads to."""
    if isinstance(nav, str):
        return [nav]
    return [file for part in (nav.values() if isinstance(nav, dict) else nav) for file in files(part)]


def test_nothing_is_loaded_from_elsewhere(site, pages):
    assert not [(page.path.name, load) for page in pages.values() for load in page.loads if urlsplit(load).netloc]
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet


def test_every_public_object_has_a_page_with_its_docstring(site, pages):
    for name in batchnorm.__all__:
        page = pages[site / "reference" / f"{name}.html"]
        assert f"batchnorm.{name}" in page.anchors
        assert 'class="doc doc-contents first"' in page.path.read_text(), f"{name} has no docstring"


def test_every_command_has_a_page_with_its_options(site):
    for command in cli.app.registered_commands:
        name = command.name or command.callback.__name__
        assert "--help" in (site / "reference" / "command-line" / f"{name}.html").read_text()


def test_formulas_need_no_script(site):
    page = (site / "two-functions.html").read_text()
    assert page.count("<math ") == 9
    assert "\\frac" not in re.sub(r"<annotation.*?</annotation>", "", page)


def test_search_and_pages_work_from_the_file_system(site, visit):
    page = visit((site / "index.html").as_uri(), within=site.as_uri())
    page.get_by_role("link", name="What is wrong?").first.click()
    page.get_by_role("link", name="running_var is negative").first.click()
    assert page.title() == "running_var is negative - batchnorm"
    page.locator(".md-search__button").click()
    message = (
        "ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 256, 1, 1])"
    )
    page.get_by_role("combobox").fill(message)
    page.get_by_role("option").first.click()
    page.wait_for_url("**/expected-more-than-1-value-per-channel.html*")


PASTED = {
    "Expected more than 1 value per channel when training, got input size torch.Size([1, 37])": (
        "expected-more-than-1-value-per-channel"
    ),
    "ValueError: SyncBatchNorm expected input tensor to be on cuda or privateuseone, xyz:7": (
        "syncbatchnorm-expected-input-tensor-to-be-on-gpu"
    ),
    'Traceback (most recent call last): File "/home/me/train.py", line 42, in <module> loss = step(model, batch)'
    '  File "/usr/lib/python3/torch/nn/functional.py", line 2822, in _verify_batch_size raise ValueError('
    "ValueError: Expected more than 1 value per channel when training, got input size torch.Size([1, 512, 1])": (
        "expected-more-than-1-value-per-channel"
    ),
    "my loss is NaN at step 9137 after loading a checkpoint of yesterday": "nan-after-loading-a-checkpoint",
}


def test_a_pasted_message_is_found_whatever_numbers_are_in_it(site, visit):
    page = visit((site / "index.html").as_uri(), within=site.as_uri())
    page.locator(".md-search__button").click()
    for pasted, found in PASTED.items():
        page.get_by_role("combobox").fill(pasted)
        page.locator(f"[role=option]:first-of-type[href*='howto/{found}.html']").first.wait_for()


@pytest.mark.parametrize("name", ["index.md", "two-functions.md"])
def test_the_first_pages_print_what_they_say(name):
    outcomes = run((REPOSITORY / "docs" / name).read_text())
    assert outcomes
    for shown, printed in outcomes:
        assert are_same(shown, printed), printed
