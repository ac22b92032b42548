"""Templates become pages, whatever the names in them are."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from batchnorm.printing import printable
from batchnorm.version import __version__

_TEMPLATES = Path(__file__).parent / "templates"
STYLE = _TEMPLATES / "page.css"


def render(template: str, *folders: Path, scripts: Sequence[str] = (), **content: Any) -> str:
    """Return a page: a template, filled.

    Parameters
    ----------
    template : str
        Its file's name. It extends "base.html", and fills the blocks "title", "contents" (items of a list of links),
        "main" and, as it likes, "style".
    *folders : Path
        Where it and what it includes are looked for; the base of all pages is found anyway.
    scripts : sequence of str
        Scripts of ours, at the end of the page. They are the only ones that a browser runs there.
    **content
        What the template names. Text is escaped, whatever it is.

    Raises
    ------
    ValueError
        If a script would end its own element.
    """
    if any("</script" in script.lower() or "<!--" in script for script in scripts):
        raise ValueError("a script holds what ends the element that it stands in")
    page = (
        templates_in(*folders, _TEMPLATES)
        .get_template(template)
        .render(
            content,
            style=Markup(STYLE.read_text(encoding="utf-8")),
            scripts=[Markup(script) for script in scripts],
            policy=_policy(scripts),
            version=__version__,
        )
    )
    return page if page.endswith("\n") else f"{page}\n"


def templates_in(*folders: Path) -> jinja2.Environment:
    """Return the templates of folders: they escape whatever they are given, and refuse names that are not given."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment


def _policy(scripts: Sequence[str]) -> str:
    """Return what a browser may do for the page: show it, and run these scripts."""
    sums = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{sum}'" for sum in sums) or "'none'"
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}; "
        "base-uri 'none'; form-action 'none'"
    )
