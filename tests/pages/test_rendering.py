"""Pages: whatever stands in them is text, and nothing in them asks anything of a network."""

import base64
import hashlib
import re

import pytest

from batchnorm.figures.style import VARIABLES
from batchnorm.pages import STYLE, render
from elements import Elements

HACK = "<img src=x onerror=\"document.title='hacked'\"></script><script>alert(1)</script>{{ 7 * 7 }}&amp;"
TEMPLATE = """{% extends "base.html" %}
{% block title %}{{ name }}{% endblock %}
{% block contents %}<li><a href="#a">{{ name }}</a></li>{% endblock %}
{% block main %}<p title="{{ name }}">{{ name }}</p>{% endblock %}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "page.html").write_text(TEMPLATE)
    return tmp_path


def test_names_are_text_everywhere(folder):
    page = Elements(render("page.html", folder, name=HACK))
    assert page.text.count(HACK) == 4  # title, heading, contents, paragraph
    assert page.of("p") == [{"title": HACK}]
    assert not page.of("img")
    assert not page.of("script")


def test_a_browser_runs_the_given_scripts_alone_and_asks_nothing_of_a_network(folder):
    script = "document.body.dataset.ran = '<b>&amp;';\n"
    text = render("page.html", folder, name="x", scripts=[script])
    page = Elements(text)
    policy = next(a["content"] for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    [written] = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert written == script
    assert rules["script-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "script-src 'none'" in Elements(render("page.html", folder, name="x")).of("meta")[1]["content"]
    assert not re.search(r"(?:src|href)=\"?(?:https?:)?//", text)
    assert "url(" not in text


@pytest.mark.parametrize("script", ["'</SCRIPT>'", "x <!-- y"])
def test_a_script_cannot_end_its_element(folder, script):
    with pytest.raises(ValueError, match="ends the element"):
        render("page.html", folder, name="x", scripts=[script])


def test_a_page_has_a_language_and_fits_a_phone(folder):
    page = Elements(render("page.html", folder, name="x"))
    assert page.of("html") == [{"lang": "en"}]
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")


def test_a_page_has_the_colours_that_figures_ask_for_light_and_dark():
    blocks = re.findall(r":root \{(.*?)\}", STYLE.read_text(), re.DOTALL)
    light, dark = (dict(re.findall(r"(--[\w-]+): (#\w+)", block)) for block in blocks[:2])
    assert {colour: light[name] for colour, name in VARIABLES.items()} == {colour: colour for colour in VARIABLES}
    assert dark.keys() == light.keys()
