"""A figure as a part of a page, whose colours are the page's, or as a file."""

import hashlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from batchnorm.figures.style import PAGE, VARIABLES, styled
from batchnorm.files import write_atomically

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_WIDE = 450  # of a figure that scrolls on a phone
_REFERENCE = re.compile(r"#([\w-]+)")
_FRACTION = re.compile(r"-?\d+\.\d+")


def inline_svg(figure: Figure, title: str, description: str) -> Markup:
    """Return a figure as an SVG element of a page.

    Its colours are variables of the page, so that one element serves light, dark and print; its text is text; its ids
    are its own. The same figure, drawn anew, has the same bytes.

    Parameters
    ----------
    figure : Figure
        Drawn by a function of this room.
    title, description : str
        What it is, and what is to be seen in it: for who does not see it.
    """
    root = ElementTree.fromstring(_written(figure))
    for unwanted in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):  # that style would be all of the page's
        _remove(root, unwanted)
    _use_variables(root)
    _shorten(root)
    digest = hashlib.sha256(ElementTree.tostring(root) + title.encode() + description.encode()).hexdigest()[:10]
    _rename_ids(root, f"f{digest}")
    _describe(root, title, description, f"f{digest}")
    _strip_namespaces(root)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to an SVG file, on a light ground.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    figure.set_facecolor(PAGE)
    try:
        write_atomically(path, _written(figure))
    finally:
        figure.set_facecolor("none")


def _written(figure: Figure) -> bytes:
    """Return the bytes of an SVG file, without what differs between machines."""
    file = io.BytesIO()
    with styled():
        canvas: Any = FigureCanvasSVG(figure)  # savefig would draw it twice
        canvas.print_svg(file, metadata={"Date": None, "Creator": None})
    return file.getvalue()


def _remove(root: ElementTree.Element, tag: str) -> None:
    for parent in list(root.iter()):
        for child in parent.findall(tag):
            parent.remove(child)


def _use_variables(root: ElementTree.Element) -> None:
    for element in root.iter():
        if "style" in element.attrib:
            element.set("style", "; ".join(_declarations(element.get("style", ""))))


def _declarations(style: str) -> Iterator[str]:
    for declaration in style.split(";"):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if name == "font":  # its size, and the page's family
            yield f"font: {value.partition('px')[0]}px var(--font, sans-serif)"
        elif value.lower() in VARIABLES:
            yield f"{name}: var({VARIABLES[value.lower()]}, {value})"
        elif name:
            yield f"{name}: {value}"


def _shorten(root: ElementTree.Element) -> None:
    """Leave two decimals of coordinates, a fortieth of a millimetre."""
    for element in root.iter():
        for name in ("d", "x", "y"):
            if value := element.get(name):
                shorter = _FRACTION.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
                element.set(name, " ".join(shorter.split()))


def _rename_ids(root: ElementTree.Element, prefix: str) -> None:
    """Give those ids numbers that are referred to, and remove the others."""
    used = [found for element in root.iter() for value in _referring(element) for found in _REFERENCE.findall(value)]
    names = {old: f"{prefix}-{i}" for i, old in enumerate(dict.fromkeys(used))}
    for element in root.iter():
        if element.attrib.get("id") not in names:
            element.attrib.pop("id", None)
        else:
            element.set("id", names[element.attrib["id"]])
        for name in (f"{{{_XLINK}}}href", "clip-path", "style"):
            value = element.get(name)
            if value is not None and (name != "style" or "url(" in value):
                element.set(name, _REFERENCE.sub(lambda match: f"#{names.get(match[1], match[1])}", value))


def _referring(element: ElementTree.Element) -> Iterator[str]:
    for name, value in element.attrib.items():
        if (name.endswith("href") and value.startswith("#")) or "url(#" in value:
            yield value


def _describe(root: ElementTree.Element, title: str, description: str, prefix: str) -> None:
    width = float(root.get("viewBox", "0 0 0 0").split()[2])
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-desc")
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    if width > _WIDE:
        root.set("class", "wide")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{prefix}-{tag}"})
        element.text = text
        root.insert(place, element)


def _strip_namespaces(root: ElementTree.Element) -> None:
    """Name elements and attributes as HTML does, which needs no namespaces."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for name in [name for name in element.attrib if "}" in name]:
            element.set(name.rpartition("}")[2], element.attrib.pop(name))
