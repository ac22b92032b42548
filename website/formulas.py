"""Formulas of the site: LaTeX becomes MathML while the site is built, which browsers show without any script."""

from typing import Any

from latex2mathml.converter import convert


def display(source: str, *_: Any, **__: Any) -> str:
    """Return a formula as superfences, which calls this for a block of ``math``, puts it on the page."""
    return convert(source, display="block")
