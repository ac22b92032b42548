"""A trained estimator in one file, without pickle: its tensors as safetensors, the rest as JSON in their header."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import torch
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from batchnorm.errors import BatchnormError, InputError
from batchnorm.estimator.parameters import check_parameters, is_annealed
from batchnorm.estimator.training import State
from batchnorm.files import check_format, checksum, open_regular, parse_json, to_safetensors, write_atomically
from batchnorm.functional import Moments
from batchnorm.inputs import Columns
from batchnorm.network import DenseNetwork

_KEY, _FORMATS = "batchnorm estimator", (1, 2)  # that are read; the last one is written
_NONE = type(None)
_PLAIN: dict[str, tuple[type, ...]] = {  # attributes, and what they may be
    **dict.fromkeys(("n_features_in_", "n_outputs_", "n_layers_", "n_iter_", "t_"), (int,)),
    **dict.fromkeys(("best_loss_", "best_validation_score_"), (float, _NONE)),
    "out_activation_": (str,),
    "loss_": (float,),
    "loss_curve_": (list,),
    "validation_scores_": (list, _NONE),
}
_STATE: dict[str, tuple[type, ...]] = {"seed": (int,), "epochs": (int,), "examples": (int,), "optimizer_kind": (str,)}
_OF_CLASSES = ("_multilabel", "_smoothing")
_ARRAYS = ("classes_", "feature_names_in_")
_LONGEST = 2**20  # bytes of a class's name
_TIMES = "mM"  # kinds of arrays that are whole numbers in a file: of days, of nanoseconds
_MT = "MT19937"  # what a RandomState draws with, unless someone gave it something else
_NOT_IN_JSON = ("inf", "-inf", "nan")


class Saving:
    """Adds `save` and `load` to an estimator."""

    def save(self, path: str | Path) -> None:
        """Save what predictions and `partial_fit` need, without code or pickle: safe to `load` from whoever sent it.

        Parameters
        ----------
        path : str or Path
            By custom ending in ``.safetensors``. A file that is there is replaced, at once and wholly.
        """
        content = self._to_file()
        try:
            write_atomically(Path(path), content)
        except OSError as error:
            raise BatchnormError(f"{path} cannot be written: {error.strerror or error}") from error

    def _to_file(self) -> bytes:
        """Return what `save` writes."""
        check_is_fitted(self)
        estimator: Any = self
        state, network = estimator._state, estimator.network_
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state.optimizer.items()}
        tensors["generator"] = state.generator
        for kind in ("inputs", "targets"):
            moments: Moments = getattr(estimator, f"_{kind}")
            tensors |= {f"{kind}.mean": moments.mean, f"{kind}.var": moments.var}
        described = {
            "class": type(self).__name__,
            "parameters": parameters_to_json(estimator.get_params(deep=False)),
            "attributes": {
                name: _numbers_to_json(vars(self)[name]) for name in (*_PLAIN, *_OF_CLASSES) if name in vars(self)
            },
            "arrays": {name: _array_to_json(name, vars(self)[name]) for name in _ARRAYS if name in vars(self)},
            "architecture": network.architecture,
            "counts": {kind: getattr(estimator, f"_{kind}").n for kind in ("inputs", "targets")},
            "bound": estimator._bound,
            "columns": None if estimator._columns is None else estimator._columns.to_json(),
            "state": {name: getattr(state, name) for name in _STATE},
        }
        text = json.dumps(described, sort_keys=True, allow_nan=False)
        header = json.dumps({"format": _FORMATS[-1], "sha256": checksum(text, tensors), "estimator": text})
        return to_safetensors(tensors, {_KEY: header})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the estimator that `save` saved, on the CPU.

        Parameters
        ----------
        path : str or Path

        Raises
        ------
        InputError
            If `path` is not a file, holds something else, another class of estimator, or is damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        open_regular(path).close()  # safetensors says of what may not be read that there is no such file
        try:
            header, tensors = _read(path)
        except Exception as error:  # whatever a file may hold
            raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error
        if header is None:
            raise InputError(f"{path} was not written by an estimator's save")
        check_format(path, header.get("format"), *_FORMATS)
        text = str(header.get("estimator"))
        if header.get("sha256") != checksum(text, tensors):
            raise InputError(f"{path} is damaged: its content does not have the checksum that it was saved with")
        try:
            described = json.loads(text) if header["format"] == 1 else parse_json(text, "its header")
            name = described["class"]
            estimator: Self | None = _restored(cls, described, tensors) if name == cls.__name__ else None
            if estimator is not None and header["format"] == 1:
                _say_length(estimator)
        except Exception as error:  # likewise
            raise InputError(
                f"{path} does not fit this version of batchnorm: {error or type(error).__name__}"
            ) from error
        if estimator is None:
            raise InputError(f"{path} holds a {name}: load it with {name}.load")
        return estimator


def parameters_to_json(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return an estimator's parameters as JSON, or raise ValueError if one has no form in a file."""
    return {name: _to_json(name, value) for name, value in parameters.items()}


def parameters_from_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `parameters_to_json` was given, or raise some error if a value is none that it returns."""
    return {name: _from_json(value) for name, value in values.items()}


def _read(path: Path) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """Return our header, or None if there is none, and the tensors."""
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(_KEY)
        header = None if text is None else dict(parse_json(text, "its header"))
        # Copies lie where torch puts its own: from the file's places the last bits of a product may differ.
        return header, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)


def _restored(cls: type[Any], described: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    """Return the estimator that a file describes, or raise if a part is missing or does not fit the others."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    estimator = cls(**parameters_from_json(described["parameters"]))
    check_parameters(cls.__name__, estimator.get_params(deep=False))
    attributes, arrays = described["attributes"], described["arrays"]
    vars(estimator).update(
        {name: _of_kind(name, _numbers_from_json(attributes[name]), kinds) for name, kinds in _PLAIN.items()}
    )
    vars(estimator).update({name: _array_from_json(arrays[name]) for name in _ARRAYS if name in arrays})
    if is_classifier(estimator):
        estimator._multilabel = _of_kind("_multilabel", attributes["_multilabel"], (bool,))
        estimator._smoothing = _of_kind("_smoothing", attributes.get("_smoothing", 0.0), (float,))  # format 1 has none
        _expect("classes_", estimator.classes_.shape, (estimator.n_outputs_,))

    n_inputs, columns = estimator.n_features_in_, described.get("columns")  # older files have none
    estimator._columns = None if columns is None else Columns.from_json(columns)
    if columns is not None:
        _expect("columns", len(estimator._columns.learnt), n_inputs)
        n_inputs = len(estimator._columns.names)
    with torch.device("meta"):  # takes no memory for sizes that the tensors do not have
        network = DenseNetwork(n_inputs, n_classes=estimator.n_outputs_, **described["architecture"])
    precision = parts["network"]["0.weight"].dtype
    _expect("the network's precision", precision in (torch.float32, torch.float64), True)
    for name, tensor in parts["network"].items():
        _expect(f"the type of {name}", tensor.dtype, torch.int64 if name.endswith("tracked") else precision)
    network.load_state_dict(parts["network"], assign=True)
    estimator.network_ = network
    for kind_of, width in (("inputs", n_inputs), ("targets", estimator.n_outputs_)):
        moments = Moments(_of_kind("counts", described["counts"][kind_of], (int, float)), **parts[kind_of])
        for tensor in moments[1:]:
            _expect(kind_of, (tensor.shape, tensor.dtype), ((width,), torch.float64))
        setattr(estimator, f"_{kind_of}", moments)
    estimator._bound = _of_kind("bound", described.get("bound"), (float, _NONE))  # format 1 has none
    state = {name: _of_kind(name, described["state"][name], kinds) for name, kinds in _STATE.items()}
    estimator._state = State(**state, optimizer=parts.get("optimizer", {}), generator=parts["generator"][""])
    torch.Generator().set_state(estimator._state.generator)  # refuses what is no state
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("a number is NaN or infinite")
    return estimator


def _say_length(estimator: Any) -> None:
    """Give the parameters of format 1, where `max_iter` was an exact length, the meaning that they had."""
    parameters = estimator.get_params(deep=False)
    if is_annealed(parameters):
        estimator.set_params(epochs=parameters["max_iter"], max_iter="auto")


def _of_kind(name: str, value: Any, kinds: tuple[type, ...]) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{name} is {value!r}")
    return value


def _expect(what: str, is_: Any, expected: Any) -> None:
    if is_ != expected:
        raise ValueError(f"{what}: {is_}, expected {expected}")


def _to_json(name: str, value: Any) -> Any:
    """Return a parameter as JSON: a tuple as a list, a dict as a list of pairs, as its keys may be numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return _numbers_to_json(value)
    if isinstance(value, np.random.RandomState) and (state := value.get_state(legacy=False))["bit_generator"] == _MT:
        return {
            "RandomState": [state["state"]["pos"], state["has_gauss"], state["gauss"], *state["state"]["key"].tolist()]
        }
    if isinstance(value, range) or hasattr(value, "__array__"):  # columns, in an array of whatever library
        value = tuple(np.asarray(value).ravel().tolist())
    if isinstance(value, tuple | list):
        return {"tuple" if not isinstance(value, list) else "list": [_to_json(name, item) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_to_json(name, key), _to_json(name, item)] for key, item in value.items()]}
    if isinstance(value, torch.device):
        return str(value)
    raise ValueError(
        f"{name}={value!r} has no form in a file: set it to a number, a string or None by set_params before save"
    )


def _from_json(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, items),) = value.items()
    if kind == "dict":
        return {_from_json(key): _from_json(item) for key, item in items}
    if kind == "number":
        return _numbers_from_json(value)
    if kind == "RandomState":
        return _random_state(*items)
    made = [_from_json(item) for item in items]
    return tuple(made) if kind == "tuple" else made


def _random_state(position: int, has_gauss: int, gauss: float, *key: int) -> np.random.RandomState:
    """Return numpy's generator in a state; numpy itself does not check the position."""
    _expect("the position of a RandomState", 0 <= position <= len(key), True)
    made = np.random.RandomState()
    made.set_state((_MT, np.array(key, dtype=np.uint32), position, has_gauss, gauss))
    return made


def _numbers_to_json(value: Any) -> Any:
    """Return a number, or a list of them, with those that JSON has no word for by their names."""
    if isinstance(value, list):
        return [_numbers_to_json(item) for item in value]
    return {"number": str(value)} if isinstance(value, float) and not math.isfinite(value) else value


def _numbers_from_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers_from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value["number"] not in _NOT_IN_JSON:
        raise ValueError(f"a number is {value['number']!r}")
    return float(value["number"])


def _array_to_json(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    plain = array.view(np.int64) if array.dtype.kind in _TIMES else array
    return {"dtype": array.dtype.str, "values": [_to_json(name, value) for value in plain.tolist()]}


def _array_from_json(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    dtype = np.dtype(value["dtype"])
    if dtype.kind not in "biufUO" + _TIMES or dtype.itemsize > _LONGEST:
        raise TypeError(f"an array of {dtype}")
    items = [_from_json(item) for item in value["values"]]
    return np.array(items, dtype=np.int64).view(dtype) if dtype.kind in _TIMES else np.array(items, dtype=dtype)
