"""Which files of a folder are whose class's, and in which part."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from batchnorm.errors import InputError

_PARTS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "val": "validation",
    "valid": "validation", "validation": "validation",
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """The images of a folder.

    Parameters
    ----------
    folder : Path
    parts : dict
        Of each part that came the paths by class; "train" alone, if the folder has no parts.
    places : dict of str to str
        The folder of each part in `folder`; "" if that is itself.
    passed_over : list of str
        Files that lie beside the folders of the classes.
    """

    folder: Path
    parts: dict[str, dict[str, list[Path]]]
    places: dict[str, str]
    passed_over: list[str]

    @property
    def class_names(self) -> list[str]:
        """The classes that are trained on, in order of their names."""
        return sorted(self.parts["train"])

    @property
    def n_images(self) -> int:
        """Number of files that should be images."""
        return sum(1 for _ in self.all_images())

    def all_images(self) -> Iterator[Path]:
        """Yield all files that should be images."""
        for classes in self.parts.values():
            for paths in classes.values():
                yield from paths

    def key(self, part: str, class_name: str) -> str:
        """Return the path of a class in the folder."""
        return f"{self.places[part]}/{class_name}" if self.places[part] else class_name


def list_images(folder: Path) -> Files:
    """Find the images of each class. Hidden files are passed over, links that lead out of the folder refused.

    Raises
    ------
    InputError
        If the folder is none, or is not laid out so.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is {'no folder' if folder.exists() else 'missing'}, expected a folder of images")
    root, passed_over = Path(os.path.realpath(folder)), list[str]()
    places = _places(folder, root)
    parts = {part: _classes(folder / place, root, passed_over) for part, place in places.items()}
    if places != {"train": ""}:
        passed_over += [str(path) for path in _entries(folder, root) if not path.is_dir()]
    files = Files(folder, parts, places, passed_over)
    for part, classes in parts.items():
        if strange := sorted(set(classes) - set(files.class_names)):
            raise InputError(
                f"{folder / files.key(part, strange[0])} is a class that the training part has not: it has "
                f"{', '.join(files.class_names)}"
            )
    return files


def list_files(folder: Path) -> list[Path]:
    """Return all files of a folder and those in it, in order, but hidden ones; links that lead out of it are refused.

    Raises
    ------
    InputError
        If there are none.
    """
    found = list(_files_below(folder, Path(os.path.realpath(folder))))
    if not found:
        raise InputError(f"{folder} holds no files: expected images")
    return found


def _places(folder: Path, root: Path) -> dict[str, str]:
    """Return which sub-folder is which part: there are parts where one is named train and holds folders of its own."""
    inside = [path for path in _entries(folder, root) if path.is_dir()]
    if not any(_part_of(path) == "train" and _has_folders(path, root) for path in inside):
        return {"train": ""}
    places: dict[str, str] = {}
    for path in inside:
        part = _part_of(path)
        if part is None:
            raise InputError(f"{path} lies beside train, expected no folders there but train, validation and test")
        if part in places:
            raise InputError(f"{folder} has {places[part]} and {path.name}, expected one {part} part")
        if not _has_folders(path, root):
            raise InputError(f"{path} has no sub-folder per class, as train has")
        places[part] = path.name
    return {part: places[part] for part in ("train", "validation", "test") if part in places}


def _part_of(path: Path) -> str | None:
    """Return the part that a folder's name says; capitals do not count."""
    return _PARTS.get(path.name.lower())


def _has_folders(path: Path, root: Path) -> bool:
    return any(inner.is_dir() for inner in _entries(path, root))


def _classes(folder: Path, root: Path, passed_over: list[str]) -> dict[str, list[Path]]:
    classes = {}
    for path in _entries(folder, root):
        if not path.is_dir():
            passed_over.append(str(path))
            continue
        classes[path.name] = list(_files_below(path, root))
        if not classes[path.name]:
            raise InputError(f"{path} holds no image: fill it or remove it")
    if not classes:
        what = "holds files, but no sub-folder per class" if passed_over else "is empty"
        raise InputError(
            f"{folder} {what}: expected folders named as the classes, with images in them; of tables name the column "
            "to predict by --target"
        )
    return classes


def _files_below(folder: Path, root: Path) -> Iterator[Path]:
    for path in _entries(folder, root):
        if path.is_dir():
            yield from _files_below(path, root)
        else:
            yield path


def _entries(folder: Path, root: Path) -> list[Path]:
    """Return what is in a folder and not hidden, by name; a link may lead to a file in the whole alone."""
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path in found:
        if not path.is_symlink():
            continue
        if not Path(os.path.realpath(path)).is_relative_to(root):
            raise InputError(f"{path} is a link out of {root}: put what it leads to there, or remove it")
        if path.is_dir():
            raise InputError(f"{path} is a link to another folder: put the folder itself there, or remove it")
    return found
