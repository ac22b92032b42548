"""One self-contained HTML file of a template: for light and dark, print and phone; it asks nothing of any network."""

from batchnorm.errors import importing

with importing("report", "pages need jinja2"):
    from batchnorm.pages.rendering import STYLE, render, templates_in

__all__ = ["STYLE", "render", "templates_in"]
