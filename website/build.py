"""Builds the documentation site: ``python website/build.py [FOLDER]``, by default ``build/site``; open its index.html.

What is in docs/ and what the repository says at its root are put beside each other, with a page for the notebook,
for each public object and for each command; Zensical makes the site of them, and fails on a link that leads nowhere.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

import zensical

from notebook import as_page
from reference import write_reference

WEBSITE = Path(__file__).parent
REPOSITORY = WEBSITE.parent
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
NOTEBOOK = REPOSITORY / "examples" / "batch_normalization_on_mnist.ipynb"
LINK = re.compile(r"\]\((?:\.\./)*(?:docs/)?(?=(?!https?:)[^)#]+)")


def stage(folder: Path) -> None:
    """Write to a folder what the site is made of; what stands above docs/ moves into it, and links follow."""
    docs = folder / "docs"
    shutil.copytree(REPOSITORY / "docs", docs)
    shutil.copytree(WEBSITE / "assets", docs / "assets")
    shutil.copytree(REPOSITORY / "examples", docs / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ROOT_PAGES:
        shutil.copy(REPOSITORY / name, docs / name.lower())
    for page in docs.glob("*.md"):
        text = _below_docs(page.read_text())
        page.write_text(text.replace(f"](examples/{NOTEBOOK.name})", "](notebook.md)"))
    (docs / "notebook.md").write_text(_below_docs(as_page(NOTEBOOK)))
    write_reference(docs / "reference")
    (folder / "src").symlink_to(REPOSITORY / "src")  # whose docstrings are read
    shutil.copy(WEBSITE / "zensical.toml", folder)


def _below_docs(text: str) -> str:
    """Return a page of docs/ or of the root with links as they are where all these are pages of one folder."""
    text = LINK.sub("](", text)
    for name in ROOT_PAGES:
        text = text.replace(f"]({name}", f"]({name.lower()}")
    return text


def build(folder: Path) -> None:
    """Build the site in a folder, which is replaced."""
    with tempfile.TemporaryDirectory() as scratch:
        stage(Path(scratch))
        zensical.build(str(Path(scratch, "zensical.toml")), {"strict": True, "clean": True})
        shutil.rmtree(folder, ignore_errors=True)
        shutil.move(Path(scratch, "site"), folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "build" / "site")
