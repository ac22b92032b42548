"""What a page holds of the playground."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from markupsafe import Markup

_FOLDER = Path(__file__).parent
STYLE = _FOLDER / "playground.css"
SCRIPTS = (_FOLDER / "playground.js", _FOLDER / "play.js")  # the arithmetic, and the page that uses it


class Piece(NamedTuple):
    """Parts of a page, which a template takes as they are.

    Parameters
    ----------
    html : Markup
        A ``<section id="playground">`` with headings from level 2, in which the document stands as JSON.
    style : Markup
        What `STYLE` holds, to stand in a ``<style>``.
    script : Markup
        What `SCRIPTS` hold, to stand in a ``<script>`` behind the section, or in one that is deferred.
    """

    html: "Markup"
    style: "Markup"
    script: "Markup"


def piece(document: Mapping[str, Any]) -> Piece:
    """Return what a page holds to draw on, of what `pack` returns.

    Nothing in it is loaded from anywhere, no script stands in an attribute, and nothing is evaluated: it works under a
    ``Content-Security-Policy`` that allows the style and the script.

    Raises
    ------
    MissingPackageError
        Without Jinja2.
    """
    from markupsafe import Markup  # what Jinja2 itself is made with

    from batchnorm.pages import templates_in

    html = templates_in(_FOLDER).get_template("playground.html").render(document=document)
    script = "\n".join(path.read_text("utf-8") for path in SCRIPTS)
    return Piece(Markup(html), Markup(STYLE.read_text("utf-8")), Markup(script))
