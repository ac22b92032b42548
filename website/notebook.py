"""The tutorial's notebook as a page of the site, with the outputs that it is stored with."""

import json
import re
from html import escape
from pathlib import Path
from typing import Any

from formulas import convert

FORMULA = re.compile(r"\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$\n]+)\$", re.DOTALL)


def as_page(path: Path) -> str:
    """Return a notebook as Markdown."""
    title, *cells = json.loads(path.read_text())["cells"]
    parts = [_prose(title), f"[The notebook itself]({path.parent.name}/{path.name}), to run and to change."]
    for cell in cells:
        if cell["cell_type"] == "markdown":
            parts.append(_prose(cell))
        else:
            parts.append(f"```python\n{''.join(cell['source'])}\n```")
            parts += map(_output, cell["outputs"])
    return "\n\n".join(parts) + "\n"


def _prose(cell: dict[str, Any]) -> str:
    return FORMULA.sub(_formula, "".join(cell["source"]))


def _formula(match: re.Match[str]) -> str:
    if match["display"]:
        return convert(match["display"], display="block")
    return f"<span>{convert(match['inline'])}</span>"  # without it, one at the start of a line would be a paragraph


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {})
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    if "image/png" in data:
        image = "".join(data["image/png"]).replace("\n", "")
        alt = escape(output["metadata"]["image/png"]["alt"])
        return f'<img class="output" alt="{alt}" src="data:image/png;base64,{image}">'
    return f"```text\n{''.join(output['text'])}\n```"
