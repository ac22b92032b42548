"""What a run records of its network and its data, and whether those that it goes on with are the same."""

import inspect
from collections.abc import Callable, Iterable, Iterator
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
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


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
        "class": _qualified(type(network)),
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
    """Return the class of a layer, its options, and what was put in the way of its class' computation."""
    if isinstance(module, LazyModuleMixin):  # not yet what it will be
        return {}
    hooks = [kind.strip("_").replace("_", " ") for kind in _HOOKS if getattr(module, kind, None)]
    return {
        "class": _qualified(type(module)),
        "hooks": ", ".join(hooks) or "none",
        "forward": "its own" if "forward" in vars(module) else "its class'",
        **{name: text for name, value in _options(module).items() if (text := _in_text(value)) is not None},
    }


def _options(module: nn.Module) -> dict[str, Any]:
    """Return what a layer of torch's or ours was built with: others' attributes may be counters and caches."""
    if not type(module).__module__.startswith(("torch.nn.modules.", "batchnorm.")):
        return {}
    return {n: value for n, value in vars(module).items() if n[0] != "_" and n not in ("training", "forward")}


def _in_text(value: Any) -> str | None:
    """Return what tells an option from another, the same in each process, or None of an object of any other kind."""
    if inspect.isroutine(value):
        return _qualified(value)
    return repr(value) if _is_simple(value) else None


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_simple, value))
    return isinstance(value, bool | int | float | str | None)


def _qualified(named: Any) -> str:
    return f"{named.__module__}.{named.__qualname__}"


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
    layers, tensors = ((was.pop(kind, None), now.pop(kind, None)) for kind in ("layers", "tensors"))
    if None not in layers:
        yield from _differences_between("layer", layers, _layer_differences)
    if None not in tensors:
        yield from _differences_between("tensor", _without_resized(network, *tensors), _tensor_differences)
    for key, value in was.items():
        if value != now.get(key):
            yield f"{key} was {value!r}, is {now.get(key)!r}"


def _differences_between(
    kind: str, records: Iterable[dict[str, Any]], compare: Callable[[str, Any, Any], Iterator[str]]
) -> Iterator[str]:
    """Yield what layers or tensors of an old and a new record differ in."""
    old, new = records
    for name in [*old, *(name for name in new if name not in old)]:
        what = f"{kind} {name!r}" if name else "the network"
        if name not in new:
            yield f"{what} is missing"
        elif name not in old:
            yield f"{what} is new"
        else:
            yield from compare(what, old[name], new[name])


def _layer_differences(what: str, old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    """Yield what is known of both and differs: older records and other versions of torch have fewer options."""
    for key in old:
        if key in new and old[key] != new[key] and not (key == "class" and new[key].rpartition(".")[2] == old[key]):
            yield f"{key} of {what} was {old[key]}, is {new[key]}"


def _tensor_differences(what: str, old: str | None, new: str | None) -> Iterator[str]:
    if new is not None and old != new:  # None: lazy
        yield f"{what} was {old}, is {new}"


def _without_resized(network: nn.Module, old: dict[str, Any], new: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Leave out the buffers that loading gives another shape: a call may have given it to them."""
    modules = network.named_modules(remove_duplicate=False)
    buffers = {
        f"{prefix}.{name}" if prefix else name for prefix, module in modules for name, _ in module._buffers.items()
    }
    resized = {name for name in buffers & old.keys() if name not in new or _shape(old[name]) != _shape(new[name])}
    for record in (old, new):
        yield {name: text for name, text in record.items() if name not in resized}


def _shape(described: str | None) -> str:
    return (described or "").partition(" ")[2]


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
