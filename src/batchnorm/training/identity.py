"""What a run records of its network and its data, and whether those that it goes on with are the same."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import InputError
from batchnorm.network import DenseNetwork
from batchnorm.training.runs import RunFolder

_PLAIN = "DenseNetwork"  # one that its own constructor builds; every other class is recorded with its module
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.bfloat16, torch.float16)}
_SHOWN = 5


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return, as JSON values, what a `DenseNetwork` is rebuilt from, or what another network is told by."""
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    alteration = _alteration(network)
    if alteration is None:
        assert isinstance(network, DenseNetwork)
        described = {"class": _PLAIN, "in_features": network.in_features, "n_classes": network.n_classes}
        dtype = _name_of(next(network.parameters()).dtype)
        return described | ({"dtype": dtype} if dtype in _DTYPES else {}) | ({"frozen": frozen} if frozen else {})
    return {
        "class": f"{type(network).__module__}.{type(network).__qualname__}",
        **({"alteration": alteration} if isinstance(network, DenseNetwork) else {}),
        "layers": {name: _describe_layer(module) for name, module in network.named_modules()},
        "tensors": {name: _describe_tensor(tensor) for name, tensor in network.state_dict().items()},
        "frozen": frozen,
    }


def _alteration(network: nn.Module) -> str | None:
    """Say why a network cannot be rebuilt from its configuration, or return None if it can be."""
    if not isinstance(network, DenseNetwork):
        return f"it is a {type(network).__name__}, not a DenseNetwork"
    if (alteration := network.alteration()) is not None:
        return alteration
    several = len({parameter.dtype for parameter in network.parameters()}) > 1
    return "its parameters are of several dtypes" if several else None


def _describe_layer(module: nn.Module) -> dict[str, str]:
    """Return the class of a layer and, if it is torch's or ours, its options: others' attributes may be anything."""
    if isinstance(module, LazyModuleMixin):  # not yet what it will be
        return {}
    described = {"class": type(module).__name__}
    if type(module).__module__.startswith(("torch.nn.modules.", "batchnorm.")):
        options = {name: value for name, value in vars(module).items() if not name.startswith("_")}
        described |= {name: repr(value) for name, value in options.items() if _is_option(name, value)}
    return described


def _is_option(name: str, value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_option(name, part) for part in value)
    return isinstance(value, bool | int | float | str) and name != "training"


def _describe_tensor(tensor: Any) -> str | None:
    if is_lazy(tensor):
        return None
    if not isinstance(tensor, Tensor):
        return type(tensor).__name__
    return f"{_name_of(tensor.dtype)} {tuple(tensor.shape)}"


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def rebuild(folder: RunFolder, network: nn.Module | None, *, to_train: bool) -> tuple[nn.Module, TrainingConfig]:
    """Return the network that a run trains, with some weights or other, and the configuration.

    Parameters
    ----------
    folder : RunFolder
    network : torch.nn.Module or None
        What the caller gives as this network.
    to_train : bool
        Whether training goes on, so that it matters what is frozen.

    Raises
    ------
    InputError
        If a network must be given, or another one was.
    """
    config, begun = folder.config, folder.settings["network"]
    if network is None:
        return _build(folder, begun, config), config
    try:
        differences = list(_differences(begun, config, network, to_train))
    except (AttributeError, TypeError) as error:
        raise _damaged(folder) from error
    if differences:
        shown = ", ".join(differences[:_SHOWN])
        rest = f" and {len(differences) - _SHOWN} more differences" if len(differences) > _SHOWN else ""
        raise InputError(f"{folder.path} trains another network than was given: {shown}{rest}")
    return network, config


def _build(folder: RunFolder, begun: dict[str, Any], config: TrainingConfig) -> DenseNetwork:
    if begun["class"] != _PLAIN:
        changed = f" that was changed ({begun['alteration']})" if "alteration" in begun else ""
        raise InputError(
            f"{folder.path} trains a {begun['class']}{changed}, which must be given as network= to batchnorm.load_run "
            "or batchnorm.resume"
        )
    try:
        network = DenseNetwork.from_config(config, begun["in_features"], begun["n_classes"])
        for name in begun.get("frozen", []):
            network.get_parameter(name).requires_grad_(False)
        return network.to(_dtype_of(begun))
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(folder) from error


def expected_state(folder: RunFolder) -> dict[str, Tensor] | None:
    """Return names, shapes and types of the tensors of a run's `DenseNetwork`, without the memory that it would take.

    None of any other network: its buffers may have grown in training.
    """
    begun = folder.settings["network"]
    if begun["class"] != _PLAIN:
        return None
    try:
        with torch.device("meta"):
            network = DenseNetwork(begun["in_features"], n_classes=begun["n_classes"], **folder.config.architecture)
        return network.to(_dtype_of(begun)).state_dict()
    except (KeyError, RuntimeError) as error:  # no sizes, or more than any memory
        raise _damaged(folder) from error


def _dtype_of(begun: dict[str, Any]) -> torch.dtype:
    return _DTYPES[begun["dtype"]] if "dtype" in begun else torch.float32


def _damaged(folder: RunFolder) -> InputError:
    return InputError(f"{folder.path / 'config.json'} is damaged: the network is {folder.settings['network']}")


def _differences(begun: dict[str, Any], config: TrainingConfig, network: nn.Module, to_train: bool) -> Iterator[str]:
    """Yield in words what a given network differs in from that of a run; an older record says less of it."""
    given = describe_network(network)
    was, now = dict(begun), dict(given)
    if isinstance(network, DenseNetwork):
        was, now = was | config.architecture, now | network.architecture
    for record in (was, now):
        if record["class"] == _PLAIN:
            record.setdefault("frozen", [])
            record.setdefault("dtype", "float32")
        if not to_train:
            record.pop("frozen", None)
    for kind in ("layers", "tensors"):
        old, new = was.pop(kind, None), now.pop(kind, None)
        if old is not None and new is not None:
            yield from _differences_between(kind[:-1], old, new)
    for key, value in was.items():
        if value != now.get(key):
            yield f"{key} was {value!r}, is {now.get(key)!r}"


def _differences_between(kind: str, old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """Yield what layers or tensors differ in; nothing is known yet of those that are lazy."""
    for name in [*old, *(name for name in new if name not in old)]:
        what = f"{kind} {name!r}" if name else "the network"
        if name not in new:
            yield f"{what} is missing"
        elif name not in old:
            yield f"{what} is new"
        elif isinstance(old[name], dict):
            for key in old[name]:
                if key in new[name] and old[name][key] != new[name][key]:
                    yield f"{key} of {what} was {old[name][key]}, is {new[name][key]}"
        elif new[name] is not None and old[name] != new[name]:
            yield f"{what} was {old[name]}, is {new[name]}"


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Return, as JSON values, what a data set is told by."""
    return {
        "name": dataset.name,
        "split_seed": dataset.split_seed,
        "examples": {name: len(part) for name, part in dataset.parts.items()},
        "feature_shape": list(dataset.feature_shape),
        "n_classes": dataset.n_classes,
        "fingerprint": dataset.fingerprint,
    }


def check_dataset(folder: RunFolder, dataset: Dataset) -> None:
    """Check that a run was begun with this data set, to the bit."""
    begun, given = folder.settings["dataset"], describe_dataset(dataset)
    changed = [f"{key} was {begun.get(key)}, is {given[key]}" for key in given if given[key] != begun.get(key)]
    if changed:
        raise InputError(f"{folder.path} was begun with other data: {', '.join(changed)}")
