"""What a run records of its network and its data, and whether those that it goes on with are the same."""

import hashlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset, Signature, TargetScale, changes_of_files
from batchnorm.errors import InputError
from batchnorm.network import DenseNetwork
from batchnorm.training.runs import RunFolder

_PLAIN = "DenseNetwork"  # one that its own constructor builds; every other class is recorded with its module
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.bfloat16, torch.float16)}
_SHOWN = 5
_LONGEST = 200  # of what stands in a record of an attribute
_NOT_COMPARED = "not compared"
_OWN = "attribute "  # before the name of one of a class that is neither torch's nor ours
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def describe_network(network: nn.Module, uncalled: dict[str, dict[str, str]] | None = None) -> dict[str, Any]:
    """Return, as JSON values, what a `DenseNetwork` is rebuilt from, or what another network is told by.

    Parameters
    ----------
    network : torch.nn.Module
    uncalled : dict, optional
        What `describe_layers` said before it was called: what is another one now is no setting, and not compared.
    """
    frozen = [name for name, parameter in network.named_parameters() if not parameter.requires_grad]
    alteration = _alteration(network)
    if alteration is None:
        assert isinstance(network, DenseNetwork)
        described = {"class": _PLAIN, "in_features": network.in_features, "n_classes": network.n_classes}
        dtype = _name_of(next(network.parameters()).dtype)
        return described | ({"dtype": dtype} if dtype in _DTYPES else {}) | ({"frozen": frozen} if frozen else {})
    layers = describe_layers(network)
    return {
        "class": _qualified(type(network)),
        **({"alteration": alteration} if isinstance(network, DenseNetwork) else {}),
        "layers": _marked(layers, changes(uncalled, layers)) if uncalled else layers,
        "tensors": {name: _describe_tensor(tensor) for name, tensor in network.state_dict().items()},
        "frozen": frozen,
    }


def describe_layers(network: nn.Module) -> dict[str, dict[str, str]]:
    """Return what the layers of any network, by their names, are told by."""
    return {name: _describe_layer(module) for name, module in network.named_modules()}


def changes(old: dict[str, dict[str, str]], new: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Name what has changed of the layers that both descriptions know."""
    changed = {
        name: [key for key, text in new[name].items() if text != layer.get(key)]
        for name, layer in old.items()
        if layer and name in new  # nothing is known of a lazy layer
    }
    return {name: keys for name, keys in changed.items() if keys}


def _marked(layers: dict[str, dict[str, str]], changed: dict[str, list[str]]) -> dict[str, dict[str, str]]:
    """Return a description of layers in which what changes in use is not compared."""
    return {name: layer | dict.fromkeys(changed.get(name, []), _NOT_COMPARED) for name, layer in layers.items()}


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
        **_describe_attributes(module),
    }


def _describe_attributes(module: nn.Module) -> dict[str, str]:
    """Return the options of a layer of torch's or ours, or the attributes of another: these may be anything."""
    origin = f"{type(module).__module__}."
    attributes = {n: value for n, value in vars(module).items() if n[0] != "_" and n not in ("training", "forward")}
    if origin.startswith("torch.nn.modules."):
        options = {name: _in_text(value) or type(value).__qualname__ for name, value in attributes.items()}
        return options | {"torch": str(torch.__version__)}
    if origin.startswith("batchnorm."):
        return {name: text for name, value in attributes.items() if (text := _in_text(value)) is not None}
    if origin.startswith("torch."):  # a wrapper: on what devices, with what compiler
        return {}
    return {
        f"{_OWN}{name}": _NOT_COMPARED if _is_device(value) else _in_text(value) or _NOT_COMPARED
        for name, value in attributes.items()
    }


def _is_device(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(cpu|cuda)(:\d+)?", value) is not None


def _in_text(value: Any) -> str | None:
    """Return what tells an option from another, the same in each process, or None of an object of any other kind."""
    if inspect.isroutine(value):
        return _qualified(value)
    return _shortened(repr(value)) if _is_simple(value) else None


def _is_simple(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_simple, value))
    return isinstance(value, bool | int | float | str | None)


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[: _LONGEST // 4]}… (SHA-256 {hashlib.sha256(text.encode(errors='replace')).hexdigest()[:16]})"


def _qualified(named: Any) -> str:
    return f"{getattr(named, '__module__', None)}.{named.__qualname__}"  # methods of torch.Tensor have no module


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
        if "layers" in begun:
            for session in folder.load_sessions():
                begun = begun | {"layers": _marked(begun["layers"], session.get("changed", {}))}
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
    """Yield what is known of both and differs; of one alone, where neither the record nor torch is an older one."""
    same_class = old.get("class") == new.get("class")
    complete = same_class and "torch" in old and old["torch"] == new.get("torch")
    for key in dict.fromkeys([*old, *new]):
        recorded = same_class and key in old and key.startswith(_OWN)
        comparable = (key in old and key in new) or complete or recorded
        if not comparable or key == "torch" or _NOT_COMPARED in (old.get(key), new.get(key)):
            continue
        was, now = old.get(key, "missing"), new.get(key, "missing")
        if was != now and not (key == "class" and now.rpartition(".")[2] == was):
            yield f"{key} of {what} was {was}, is {now}"


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
    learnt: dict[str, Any] = {}
    if dataset.task != "classification":
        learnt["task"] = dataset.task
    if (scale := dataset.target_scale) is not None:
        learnt["target_scale"] = {"mean": list(scale.mean), "deviation": list(scale.deviation)}
    return {
        "name": dataset.name,
        "split_seed": dataset.split_seed,
        "examples": {name: len(part) for name, part in dataset.parts.items()},
        "n_classes": dataset.n_classes,
        "fingerprint": dataset.fingerprint,
        **Signature.of(dataset).record(),
        **learnt,
    }


def recorded_scale(folder: RunFolder) -> TargetScale | None:
    """Return what a run standardised values with to learn them; None of classes and labels."""
    scale = folder.settings["dataset"].get("target_scale")
    return None if scale is None else TargetScale(tuple(scale["mean"]), tuple(scale["deviation"]))


def check_dataset(folder: RunFolder, dataset: Dataset) -> None:
    """Check that a run was begun with this data set, to the bit; an older record says less of it."""
    begun, given = folder.settings["dataset"], describe_dataset(dataset)
    changed = [f"{key} was {begun[key]}, is {given[key]}" for key in given if key in begun and given[key] != begun[key]]
    if changed:
        sessions = folder.load_sessions()
        changed += changes_of_files(sessions[0].get("origin") if sessions else None, dataset.origin)
        raise InputError(f"{folder.path} was begun with other data: {', '.join(changed)}")
