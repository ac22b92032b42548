"""From a data set's name to a `Dataset`: look on this machine, then download, then check and split."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from batchnorm.data.catalogue import IdxEntry, PackageEntry, catalogue, entry_named
from batchnorm.data.dataset import Dataset
from batchnorm.data.download import MakeProgress, can_download, download
from batchnorm.data.examples import Examples
from batchnorm.data.idx import read_idx
from batchnorm.errors import DatasetUnavailableError, InputError, install_command

DATA_DIR_VARIABLE = "BATCHNORM_DATA"


def load_dataset(
    name: str,
    *,
    data_dir: str | Path | None = None,
    split_seed: int = 0,
    progress: MakeProgress | None = None,
    within_seconds: float | None = None,
) -> Dataset:
    """Load a data set by name.

    Sets of IDX files are looked for in `data_dir` (or else the folder that the environment variable
    ``BATCHNORM_DATA`` names), a folder with a sub-folder per set; in the user's cache; where the operating system
    keeps them; and then downloaded into the cache. Their first 5,000 training images validate. Sets that ship in
    a package are split by class, 80 % / 10 % / 10 %.

    Parameters
    ----------
    name : str
        "mnist", "fashion-mnist", "kmnist", "digits" or "mnist5k".
    data_dir : str or Path, optional
    split_seed : int, default 0
        For sets that do not come with a test part.
    progress : callable, optional
        Called with a file's name before its download; returns what shows the progress.
    within_seconds : float, optional
        Give a download up after so long.

    Returns
    -------
    Dataset

    Raises
    ------
    InputError
        If the name is unknown, a given folder does not exist, or files in it are missing or damaged.
    DatasetUnavailableError
        If it is not on this machine and cannot be downloaded.
    """
    entry = entry_named(name)
    if isinstance(entry, PackageEntry):
        return _from_package(entry, split_seed)
    folder = locate(entry, data_dir)
    if folder is None or folder == cache_folder(entry):  # in the cache, files are checked, and replaced if damaged
        folder = cache_folder(entry)
        download(entry, folder, progress=progress, within_seconds=within_seconds)
    return _from_folder(entry, folder)


def load_default_dataset(
    *,
    data_dir: str | Path | None = None,
    split_seed: int = 0,
    progress: MakeProgress | None = None,
    within_seconds: float = 10.0,
) -> tuple[Dataset, str | None]:
    """Load MNIST if it is here or can be downloaded within a few seconds, and `mnist5k` otherwise.

    Returns
    -------
    dataset : Dataset
    why_not_mnist : str or None
        The reason in one line, if it is not MNIST.
    """
    try:
        mnist = load_dataset("mnist", data_dir=data_dir, progress=progress, within_seconds=within_seconds)
        return mnist, None
    except DatasetUnavailableError as error:
        why_not_mnist = error.why
    try:
        return load_dataset("mnist5k", split_seed=split_seed), why_not_mnist
    except DatasetUnavailableError as error:
        raise DatasetUnavailableError(f"{why_not_mnist}, and {error.why}", error.remedy) from error


def locate(entry: IdxEntry, data_dir: str | Path | None = None) -> Path | None:
    """Return the folder on this machine that holds the entry's files, or None."""
    given, origin = (data_dir, "--data-dir") if data_dir else (os.environ.get(DATA_DIR_VARIABLE), DATA_DIR_VARIABLE)
    if given:
        if not Path(given).is_dir():
            raise InputError(f"{given}, given as {origin}, is not a folder")
        folder = Path(given).resolve() / entry.name
        if folder.is_dir():
            for file in entry.files:
                if _find_file(folder, file) is None:
                    raise InputError(f"{folder} lacks {file}: put it there, or remove the folder to look elsewhere")
            return folder
    if all((cache_folder(entry) / file).is_file() for file in entry.files):
        return cache_folder(entry)
    if entry.system_folder and all(_find_file(Path(entry.system_folder), file) for file in entry.files):
        return Path(entry.system_folder)
    return None


def availability(data_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Return for each known data set its name, title and licence, whether it is here, and where or how to get it."""
    rows = []
    for entry in catalogue.values():
        if isinstance(entry, PackageEntry):
            here = is_installed(entry)
            where = f"the package {entry.package}" if here else install_command("datasets")
        else:
            here, where = _whereabouts(entry, data_dir)
        rows.append(
            {"name": entry.name, "title": entry.title, "licence": entry.licence, "available": here, "where": where}
        )
    return rows


def _whereabouts(entry: IdxEntry, data_dir: str | Path | None) -> tuple[bool, str]:
    try:
        folder = locate(entry, data_dir)
    except InputError as error:
        return False, str(error)
    if folder is not None:
        return True, str(folder)
    site = urlsplit(entry.mirrors[0]).netloc
    return False, f"downloaded on first use from {site}" if can_download() else install_command("datasets")


def data_dir_of(name: str, source: str | None) -> Path | None:
    """Return the data folder from which a data set came: the one above its own, unless that was the user's cache."""
    entry = entry_named(name)
    if source is None or isinstance(entry, PackageEntry) or Path(source) == cache_folder(entry):
        return None
    return Path(source).parent if Path(source).is_dir() else None


def is_installed(entry: PackageEntry) -> bool:
    """Tell whether the package that ships the entry is there."""
    return importlib.util.find_spec(entry.module) is not None


def cache_folder(entry: IdxEntry) -> Path:
    """Return the folder in the user's cache where the entry's files are kept: where pooch's `os_cache` has it."""
    if sys.platform == "win32":
        return Path(os.environ["LOCALAPPDATA"], "batchnorm", "batchnorm", "Cache", entry.name)
    caches = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not caches.is_absolute():
        caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return caches / "batchnorm" / entry.name


def _from_package(entry: PackageEntry, split_seed: int) -> Dataset:
    if not is_installed(entry):
        raise DatasetUnavailableError(
            f"{entry.name} ships with the package {entry.package}, which is not installed",
            install_command("datasets"),
        )
    inputs, labels = entry.load()
    return Dataset.from_arrays(
        inputs,
        labels,
        name=entry.name,
        class_names=entry.class_names,
        scale=entry.scale,
        split_seed=split_seed,
        source=f"the package {entry.package}",
    )


def _from_folder(entry: IdxEntry, folder: Path) -> Dataset:
    train_images, train_labels, test_images, test_labels = entry.files
    train = _read_part(folder, train_images, train_labels)
    n = entry.n_validation
    if len(train) <= n:
        raise InputError(
            f"{folder}: {len(train)} training images, expected more than the {n} that are kept for validation"
        )
    return Dataset(
        name=entry.name,
        train=Examples(train.inputs[n:], train.labels[n:], train.scale),
        validation=Examples(train.inputs[:n], train.labels[:n], train.scale),
        test=_read_part(folder, test_images, test_labels),
        class_names=entry.class_names,
        source=str(folder),
    )


def _read_part(folder: Path, images_file: str, labels_file: str) -> Examples:
    images, labels = (read_idx(_find_file(folder, file) or folder / file) for file in (images_file, labels_file))
    if images.ndim != 3 or images.dtype != "uint8":
        raise InputError(
            f"{folder / images_file} holds {images.dtype} of shape {images.shape}, expected uint8 (image, row, column)"
        )
    if labels.ndim != 1 or labels.dtype != "uint8":
        raise InputError(
            f"{folder / labels_file} holds {labels.dtype} of shape {labels.shape}, expected uint8 (images,)"
        )
    if len(images) != len(labels):
        raise InputError(f"{folder}: {images_file} has {len(images)} images, {labels_file} {len(labels)} labels")
    return Examples(torch.from_numpy(images), torch.from_numpy(labels).long(), scale=1 / 255)


def _find_file(folder: Path, file: str) -> Path | None:
    """Find a file compressed or unpacked."""
    candidates = (folder / file, folder / file.removesuffix(".gz"))
    return next((path for path in candidates if path.is_file()), None)
