"""The files of a run, found again by name and fingerprint, wherever they are now."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchnorm.errors import InputError
from batchnorm.tables.files import open_table


def fingerprints(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return by what files are found again."""
    return [open_table(path).fingerprint() for path in paths]


def find_files(
    settings: Mapping[str, Any],
    session: Mapping[str, Any],
    data_dir: Path | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[list[Path], list[Path]]:
    """Return where the files are that were trained on, and those that were tested on, each the same to the byte.

    Parameters
    ----------
    settings, session : mapping
        Of the run: what its files are, and where they were.
    data_dir : Path, optional
        The folder that they are in now, files of one name in the sub-folders that they were in; by default they are
        where they were.
    tell : callable
        Is told which have moved.

    Raises
    ------
    InputError
        If one is not there, or is another one now.
    """
    kinds = "files", "test_files"
    places = {kind: [Path(place) for place in session[kind]] for kind in kinds}
    above = _common_folder([place for kind in kinds for place in places[kind]])
    found = {
        kind: [
            _find(described, place, [place] if data_dir is None else _places_in(data_dir, place, above))
            for described, place in zip(settings[kind], places[kind], strict=True)
        ]
        for kind in kinds
    }
    for kind in kinds:
        for place, now in zip(places[kind], found[kind], strict=True):
            if now.absolute() != place:
                tell(f"{place.name} is read from {now.parent}, it was in {place.parent}")
    return found["files"], found["test_files"]


def _common_folder(places: Sequence[Path]) -> str | None:
    """Return the folder that all files are in, if there is one: drives have none in common."""
    try:
        return os.path.commonpath([place.parent for place in places])
    except ValueError:
        return None


def _places_in(folder: Path, place: Path, above: str | None) -> list[Path]:
    """Return where a file may be in another folder: as it was below the one that all were in, or by its name alone."""
    below = [] if above is None else [folder / place.relative_to(above)]
    return list(dict.fromkeys([*below, folder / place.name]))


def _find(described: Mapping[str, Any], place: Path, candidates: Sequence[Path]) -> Path:
    there = [path for path in candidates if os.path.exists(path)]  # noqa: PTH110  # whatever it may be called
    if not there:
        what = f"the run was trained on {place}, which is not there now"
        missing = "" if place in candidates else f", nor is {candidates[0]}"
        raise InputError(f"{what}{missing}: say by --data-dir where it is")
    for path in there:
        if fingerprints([path]) == [described]:
            return path
    raise InputError(
        f"{there[0]} has changed since the run was trained on it: its sum is another one; if the one that was trained "
        "on is elsewhere, say by --data-dir where"
    )
