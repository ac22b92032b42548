"""What a run records of its network and its data, and whether those that it goes on with are the same."""

import dis
import functools
import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
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
_SIMPLE = bool | int | float | complex | str | bytes | None | np.generic | torch.dtype
_FILLING = {"append", "extend", "insert", "pop", "clear"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_ANY_MODULE = set(vars(nn.Module()))
_OF_LAYERS = {"training", "forward"}
_LONGEST = 300


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return, as JSON values, what a `DenseNetwork` is rebuilt from, or what another network is told by."""
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    alteration = _alteration(network)
    if alteration is None:
        assert isinstance(network, DenseNetwork)
        described = {"class": _PLAIN, "in_features": network.in_features, "n_classes": network.n_classes}
        dtype = _name_of(next(network.parameters()).dtype)
        return described | ({"dtype": dtype} if dtype in _DTYPES else {}) | ({"frozen": frozen} if frozen else {})
    state = {name for kind in {type(module) for module in network.modules()} for name in _set_in_use(kind)}
    return {
        "class": _qualified(type(network)),
        **({"alteration": alteration} if isinstance(network, DenseNetwork) else {}),
        "layers": {name: _describe_layer(module, state) for name, module in network.named_modules()},
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


def _describe_layer(module: nn.Module, state: set[str]) -> dict[str, str]:
    """Return the class of a layer, its options, and what was put in the way of its class' computation."""
    if isinstance(module, LazyModuleMixin):  # not yet what it will be
        return {}
    hooks = [kind.strip("_").replace("_", " ") for kind in _HOOKS if getattr(module, kind, None)]
    return {
        "class": _qualified(type(module)),
        "hooks": ", ".join(hooks) or "none",
        "forward": "its own" if "forward" in vars(module) else "its class'",
        **{name: text for name, value in _attributes(module, state).items() if (text := _in_text(value)) is not None},
    }


def _attributes(module: nn.Module, state: set[str]) -> dict[str, Any]:
    """Return what may be options of a layer: what is set when it is built, not in use."""
    home, attributes = type(module).__module__, vars(module).items()
    if home.startswith(("torch.nn.modules.", "batchnorm.")):
        return {name: value for name, value in attributes if not name.startswith("_") and name not in _OF_LAYERS}
    if home.startswith("torch."):  # wrappers, of what a machine has: DataParallel, compiled modules
        return {}
    return {name: value for name, value in attributes if name not in state | _OF_ANY_MODULE | _OF_LAYERS}


def _set_in_use(kind: type) -> set[str]:
    """Return the attributes that a class' methods set or fill once it is built: counters, caches."""
    classes = (base for base in kind.__mro__ if not base.__module__.startswith(("torch.", "builtins", "batchnorm.")))
    methods = [m for base in classes for n, m in vars(base).items() if inspect.isfunction(m) and n[:2] != "__"]
    pairs = [pair for method in methods for pair in itertools.pairwise(dis.get_instructions(method))]
    stored = {second.argval for _, second in pairs if second.opname == "STORE_ATTR"}
    return stored | {first.argval for first, second in pairs if _fills(first, second)}


def _fills(first: dis.Instruction, second: dis.Instruction) -> bool:
    return first.opname == "LOAD_ATTR" and second.opname in ("LOAD_ATTR", "LOAD_METHOD") and second.argval in _FILLING


def _in_text(value: Any) -> str | None:
    """Return what tells an option from another, the same in each process, or None of an object of any other kind."""
    if isinstance(value, _SIMPLE):
        return _shortened(repr(value))
    if isinstance(value, type) or inspect.isroutine(value):
        return _qualified(value)
    if isinstance(value, functools.partial):
        return _in_text([value.func, value.args, sorted(value.keywords.items())])
    if not isinstance(value, tuple | list):
        return None
    texts = [_in_text(part) for part in value]
    if None in texts:
        return None
    simple = all(isinstance(part, _SIMPLE) for part in value)
    return _shortened(repr(value) if simple else f"[{', '.join(map(str, texts))}]")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:50]}… (sha256 {hashlib.sha256(text.encode()).hexdigest()})"


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
