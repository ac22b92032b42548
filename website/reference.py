"""A page for each public name of the package and for each command: what the site's reference consists of.

A page only names its object. mkdocstrings puts the docstring there, which it reads from the source without running it.
"""

from pathlib import Path
from typing import NamedTuple

import griffe
import typer

import batchnorm
from batchnorm import cli

SOURCE = Path(batchnorm.__file__).parent.parent

# By the room that a name comes from: the first heading that names it, or one it begins with.
HEADINGS = {
    "The formula": ("batchnorm",),
    "Networks and training": (
        "batchnorm.network",
        "batchnorm.config",
        "batchnorm.training",
        "batchnorm.evaluation",
    ),
    "Looking inside, and comparing": ("batchnorm.dynamics", "batchnorm.reporting", "batchnorm.comparing"),
    "Data, and runs that are kept": ("batchnorm.data", "batchnorm.tables"),
    "Estimators": ("batchnorm.estimator",),
    "Batch norm in any model": ("batchnorm.toolkit",),
    "Files for other programs": ("batchnorm.exporting",),
    "Errors": ("batchnorm.errors",),
}
COMMANDS = "The command line"


class Entry(NamedTuple):
    """A page of the reference."""

    heading: str
    name: str
    file: str
    summary: str
    text: str


def write_reference(folder: Path) -> None:
    """Write all pages to a folder, with their overview ``index.md`` and their order ``.order.md``."""
    entries = [*_objects(), *_commands()]
    headings = list(dict.fromkeys(entry.heading for entry in entries))
    by_heading = {heading: [entry for entry in entries if entry.heading == heading] for heading in headings}
    for entry in entries:
        _write(folder / entry.file, entry.text)
    _write(folder / "index.md", _overview(by_heading))
    _write(folder / ".order.md", _order(by_heading))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _objects() -> list[Entry]:
    """Return a page for each name in ``batchnorm.__all__``, in the order of the headings, verbs before types."""
    package = griffe.load("batchnorm", search_paths=[SOURCE])
    entries = []
    for name in sorted(batchnorm.__all__, key=lambda name: (not name[0].islower(), name.lower())):
        docstring = package[name].docstring
        summary = docstring.value.partition("\n\n")[0].replace("\n", " ") if docstring else ""
        heading = _heading(package[name].canonical_path.rpartition(".")[0])
        entries.append(Entry(heading, name, f"{name}.md", summary, f"::: batchnorm.{name}\n"))
    return sorted(entries, key=lambda entry: list(HEADINGS).index(entry.heading))


def _heading(module: str) -> str:
    for heading, rooms in HEADINGS.items():
        if any(module == room or (room != "batchnorm" and module.startswith(f"{room}.")) for room in rooms):
            return heading
    raise ValueError(f"names of {module} are public: give the room a heading in {__file__}")


def _commands() -> list[Entry]:
    """Return a page for each command, with what its ``--help`` says."""
    entries = []
    for name, command in typer.main.get_command(cli.app).commands.items():
        context = command.make_context(f"batchnorm {name}", [], resilient_parsing=True)
        records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
        parts = [
            f"# batchnorm {name}",
            f"```text\n{' '.join(['batchnorm', name, *command.collect_usage_pieces(context)])}\n```",
            command.help,
            *(f"`{option}`\n:   {said}" for option, said in filter(None, records)),
        ]
        summary = command.help.partition("\n\n")[0].replace("\n", " ")
        entries.append(Entry(COMMANDS, f"batchnorm {name}", f"command-line/{name}.md", summary, "\n\n".join(parts)))
    return entries


def _overview(by_heading: dict[str, list[Entry]]) -> str:
    parts = ["# Reference", "`import batchnorm as bn` brings all of it; what is heavy is imported when it is used."]
    for heading, entries in by_heading.items():
        parts.append(f"## {heading}")
        parts.append("\n".join(f"- [`{entry.name}`]({entry.file}): {entry.summary}" for entry in entries))
    return "\n\n".join(parts) + "\n"


def _order(by_heading: dict[str, list[Entry]]) -> str:
    lines = ["- [Overview](index.md)"]
    for heading, entries in by_heading.items():
        lines.append(f"- {heading}")
        lines += [f"    - [{entry.name}]({entry.file})" for entry in entries]
    return "\n".join(lines) + "\n"
