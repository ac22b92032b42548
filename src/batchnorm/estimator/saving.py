"""A trained estimator in one file, without pickle: its tensors as safetensors, the rest as JSON in their header."""

import hashlib
import json
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.torch
import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from batchnorm.errors import BatchnormError, InputError
from batchnorm.estimator.training import State
from batchnorm.files import write_atomically
from batchnorm.functional import Moments
from batchnorm.training.network import DenseNetwork

_KEY, _FORMAT = "batchnorm estimator", 1  # raised when a file written before can no longer be read
_PLAIN = (
    "n_features_in_", "n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "loss_", "best_loss_",
    "loss_curve_", "validation_scores_", "best_validation_score_", "_multilabel",
)  # fmt: skip
_ARRAYS = ("classes_", "feature_names_in_")


class Saving:
    """Adds `save` and `load` to an estimator."""

    def save(self, path: str | Path) -> None:
        """Save the trained estimator to a file, with all that `partial_fit` goes on from.

        The file holds no code and no pickle: it is safe to `load` from whoever sent it.

        Parameters
        ----------
        path : str or Path
            By custom ending in ``.safetensors``. A file that is there is replaced, at once and wholly.

        Raises
        ------
        sklearn.exceptions.NotFittedError
            If there is nothing to save.
        ValueError
            If a parameter or a class has no form in JSON, such as a ``random_state`` that is a generator.
        BatchnormError
            If the file cannot be written.
        """
        check_is_fitted(self)
        estimator: Any = self
        state, network = estimator._state, estimator.network_
        tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in state.optimizer.items()}
        tensors["generator"] = state.generator
        for kind in ("inputs", "targets"):
            moments: Moments = getattr(estimator, f"_{kind}")
            tensors |= {f"{kind}.mean": moments.mean, f"{kind}.var": moments.var}
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        described = {
            "class": type(self).__name__,
            "parameters": {name: _to_json(name, value) for name, value in estimator.get_params(deep=False).items()},
            "attributes": {name: getattr(estimator, name) for name in _PLAIN if hasattr(estimator, name)},
            "arrays": {name: _array_to_json(name, vars(self)[name]) for name in _ARRAYS if name in vars(self)},
            "architecture": network.architecture,
            "counts": {kind: getattr(estimator, f"_{kind}").n for kind in ("inputs", "targets")},
            "state": {name: getattr(state, name) for name in ("seed", "epochs", "examples", "optimizer_kind")},
        }
        text = json.dumps(described, sort_keys=True)
        header = json.dumps({"format": _FORMAT, "sha256": _digest(text, tensors), "estimator": text})
        try:  # one entry alone: safetensors writes several in any order, and equal estimators should be equal files
            write_atomically(Path(path), safetensors.torch.save(tensors, {_KEY: header}))
        except OSError as error:
            raise BatchnormError(f"{path} cannot be written: {error.strerror or error}") from error

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Load what `save` saved: an estimator that predicts the same, and goes on as if it had never been away.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        estimator
            Its network is on the CPU.

        Raises
        ------
        InputError
            If `path` is not a file, holds something else, another class of estimator, or is damaged.
        """
        header, tensors = _read(Path(path))
        text = header["estimator"]
        if header["sha256"] != _digest(text, tensors):
            raise InputError(f"{path} is damaged: its content does not have the checksum that it was saved with")
        described = json.loads(text)
        name = described.get("class") if isinstance(described, dict) else None
        if name != cls.__name__:
            raise InputError(f"{path} holds a {name}: load it with {name}.load")
        try:
            estimator = cls(**{name: _from_json(value) for name, value in described["parameters"].items()})
            _restore(estimator, described, tensors)
        except (KeyError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{path} does not fit this version of batchnorm: {error}") from error
        return estimator


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_KEY)
            if text is None:
                raise InputError(f"{path} was not written by an estimator's save")
            header = json.loads(text)
            if header["format"] != _FORMAT:
                raise InputError(f"{path} has format {header['format']}, this version of batchnorm reads {_FORMAT}")
            return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (safetensors.SafetensorError, OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged or not a safetensors file: {error}") from error


def _restore(estimator: Any, described: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    parts: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    attributes, arrays = described["attributes"], described["arrays"]
    vars(estimator).update({name: attributes[name] for name in _PLAIN if name in attributes})
    vars(estimator).update({name: _array_from_json(arrays[name]) for name in _ARRAYS if name in arrays})
    with torch.device("meta"):  # takes no memory for sizes that the tensors do not have
        network = DenseNetwork(estimator.n_features_in_, n_classes=estimator.n_outputs_, **described["architecture"])
    network.load_state_dict(parts["network"], assign=True)
    estimator.network_ = network
    for kind in ("inputs", "targets"):
        setattr(estimator, f"_{kind}", Moments(described["counts"][kind], **parts[kind]))
    generator = parts["generator"][""]
    torch.Generator().set_state(generator)  # refuses what is no state
    estimator._state = State(**described["state"], optimizer=parts.get("optimizer", {}), generator=generator)


def _digest(text: str, tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _to_json(name: str, value: Any) -> Any:
    """Return a parameter as JSON: a tuple as a list, a dict as a list of pairs, as its keys may be numbers."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list | np.ndarray):
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
    made = [_from_json(item) for item in items]
    return tuple(made) if kind == "tuple" else made


def _array_to_json(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    return {"dtype": array.dtype.str, "values": [_to_json(name, value) for value in array.tolist()]}


def _array_from_json(value: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.array([_from_json(item) for item in value["values"]], dtype=np.dtype(value["dtype"]))
