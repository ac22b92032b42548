"""Whether a network or data fit into memory, told before it is taken: whoever takes more than there is gets killed."""

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from batchnorm.config import TrainingConfig
from batchnorm.errors import InputError

_CGROUPS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # versions 2 and 1
_STATES = {"adamw": 2, "sgd": 1}  # of the optimiser, as large as the weights; without momentum SGD has none
_BYTES = 4  # of a float32


def check_memory(sizes: Sequence[int], copies: int = 1) -> None:
    """Check that so many copies of a dense network's weights fit into the memory that there is.

    Parameters
    ----------
    sizes : sequence of int
        Units of each layer, from the inputs to the outputs.
    copies : int, default 1

    Raises
    ------
    InputError
        If they do not.
    """
    need, have = _bytes_of(sizes, copies), available_memory()
    if have is not None and need > have:
        units = f"a network of {'-'.join(map(str, sizes))} units"
        raise InputError(
            f"{units} takes at least {bytes_in_words(need)} of memory, but there are {bytes_in_words(have)}: use "
            "smaller hidden_layer_sizes"
        )


def check_training_memory(config: TrainingConfig, n_features: int, n_classes: int) -> None:
    """Check that weights, gradient and the optimiser's state fit into the memory that there is.

    Raises
    ------
    InputError
        If they do not.
    """
    check_memory((n_features, *config.hidden_layer_sizes, n_classes), _copies(config))


def training_bytes(config: TrainingConfig, n_features: int, n_classes: int) -> int:
    """Return how many bytes weights, gradient and the optimiser's state take."""
    return _bytes_of((n_features, *config.hidden_layer_sizes, n_classes), _copies(config))


def _copies(config: TrainingConfig) -> int:
    return 2 + (_STATES[config.optimizer] if config.optimizer == "adamw" or config.momentum else 0)


def _bytes_of(sizes: Sequence[int], copies: int) -> int:
    return _BYTES * copies * sum(a * b for a, b in pairwise(sizes))


def check_data_memory(what: str, n_bytes: int, remedy: str) -> None:
    """Check that data of so many bytes fit into the memory that there is.

    Raises
    ------
    InputError
        If they do not.
    """
    have = available_memory()
    if have is not None and n_bytes > have:
        raise InputError(
            f"{what} take {bytes_in_words(n_bytes)} of memory, but there are {bytes_in_words(have)}: {remedy}"
        )


def fits_into_memory(n_bytes: int) -> bool:
    """Tell whether there is memory for so many bytes, as far as that is known."""
    have = available_memory()
    return have is None or n_bytes <= have


def available_memory() -> int | None:
    """Return how many bytes a process can have now, or None where that is not known."""
    return min(_limits(), default=None)


def _limits() -> Iterator[int]:
    yield from _free()
    for path in map(Path, _CGROUPS):
        if path.is_file() and (limit := path.read_text().strip()).isdigit():
            yield int(limit)
    try:
        import resource
    except ImportError:  # Windows
        return
    limit_of_process, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit_of_process != resource.RLIM_INFINITY:
        yield limit_of_process


def _free() -> Iterator[int]:
    """Yield what is free, if Linux tells it, or else what the machine has."""
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        kilobytes = {name: int(rest.split()[0]) for name, _, rest in map(_parts, meminfo.read_text().splitlines())}
        yield 1024 * (kilobytes["MemAvailable"] + kilobytes["SwapFree"])
    elif hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= set(os.sysconf_names):
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _parts(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def bytes_in_words(n_bytes: int) -> str:
    """Return a number of bytes in GiB."""
    return f"{n_bytes / 2**30:,.1f} GiB"
