"""How a run was made: its configuration, what it ran on, and the command that makes it again."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from batchnorm.config import TrainingConfig, as_option, recipes
from batchnorm.data import is_known
from batchnorm.reporting.pieces import Section, Table, number
from batchnorm.reporting.subject import Subject

PRIVATE = (
    "Full paths are left out of this page: folders tell who you are. They stand in environment.json of the run folder, "
    "so look at that file too before you hand on the folder itself."
)
_ONLY_IN_PYTHON = "This run was begun by a program, with a network or with arrays of its own: run that program again."


def section_on_making(subject: Subject) -> Section:
    """Return the section on a run's configuration and surroundings."""
    command = command_of(subject)
    lines = [_ONLY_IN_PYTHON] if command is None else [
        "This command trains it anew. On the same machine, with the same versions and threads, the numbers are the "
        "same to the last bit, if it was begun from the command line; a program may have drawn other first weights."
    ]  # fmt: skip
    tables = [configuration_table(subject.run.config.to_dict())]
    if subject.sessions:
        tables.append(environment_table(subject.sessions))
    return Section("making", "How it was made", lines, command=command, tables=tables, after=[PRIVATE])


def configuration_table(values: Mapping[str, Any]) -> Table:
    """Return a table of a configuration, or of an estimator's parameters."""
    return Table("Configuration", ["option", "value"], [[name, _shown(value)] for name, value in values.items()])


def environment_table(sessions: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of what a run ran on, without the places of anything."""
    last = sessions[-1]
    seconds = [session.get("seconds") for session in sessions]
    known = [s for s in seconds if s is not None]
    rows = [
        ["begun", str(sessions[0].get("started", "–"))],
        ["seconds", f"{sum(known):,.1f}" if known else "–"],
        ["sessions", str(len(sessions))],
        ["processor", f"{last.get('cpu', '–')}, {number(last.get('cpu_count'))} cores"],
        ["threads", number(last.get("threads"))],
        ["device", str(last.get("device_name") or last.get("device", "–"))],
        ["platform", str(last.get("platform", "–"))],
        ["Python", str(last.get("python", "–"))],
        *([name, version or "not installed"] for name, version in last.get("packages", {}).items()),
    ]
    return Table("Environment", ["what", "value"], rows)


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def command_of(subject: Subject) -> str | None:
    """Return the command that trains a run anew, or None of one that only a program can."""
    if not subject.sessions or subject.settings["network"]["class"] != "DenseNetwork":
        return None
    what = _data_in_words(subject)
    if what is None:
        return None
    begun = subject.sessions[0]
    options = _overrides(subject.run.config)
    if (seed := subject.settings["dataset"]["split_seed"]) not in (None, 0):
        options += ["--split-seed", str(seed)]
    if begun.get("threads") is not None:
        options += ["--threads", str(begun["threads"])]
    if begun.get("device", "cpu") != "cpu":
        options += ["--device", str(begun["device"])]
    return shlex.join(["batchnorm", "train", *what, *options])


def _data_in_words(subject: Subject) -> list[str] | None:
    """Return how a command names the data: those of the user's own by the last part of their paths."""
    origin = subject.sessions[0].get("origin")
    if origin is None:
        name = str(subject.settings["dataset"]["name"])
        return [name] if is_known(name) else None
    size = origin["image_size"]
    task = origin.get("task")
    return [
        *(Path(path).name for path in origin["paths"]),
        *(["--image-size", str(size[0])] if size and size[0] == size[1] else []),
        *(["--task", task] if task else []),
    ]


def _overrides(config: TrainingConfig) -> list[str]:
    """Return the options that make a recipe this configuration, of the recipe that needs fewest."""
    found = []
    for name, recipe in recipes.items():
        differing = {
            field.name: getattr(config, field.name)
            for field in fields(config)
            if getattr(config, field.name) != getattr(recipe, field.name)
        }
        if None not in differing.values():  # no option takes a recipe's value away
            found.append((name, differing))
    name, differing = min(found, key=lambda pair: len(pair[1]))
    chosen = [] if name == next(iter(recipes)) else ["--recipe", name]
    return [*chosen, *(text for option in differing.items() for text in as_option(*option))]
