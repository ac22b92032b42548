"""What is checked before a run begins: that the device is there, and that the network and the data fit."""

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.config import TrainingConfig
from batchnorm.data import NETWORK_OUTPUTS, OUTPUTS, Dataset, as_columns
from batchnorm.errors import InputError, in_words, raised_by_network
from batchnorm.evaluation import BLOCK_SIZE
from batchnorm.files import to_safetensors
from batchnorm.network import DenseNetwork, input_dtype
from batchnorm.toolkit.model import inference, modes_restored, without_gradients
from batchnorm.training.loop import load_state

_NEEDS_STATE = "which a run folder and early stopping need: train it without them"


def check_device(device: str | torch.device) -> torch.device:
    """Return the device, or say why it cannot be used."""
    try:
        checked = torch.device(device)
    except (RuntimeError, TypeError):
        raise InputError(f"device is {device!r}, expected cpu, cuda or cuda:N") from None
    if checked.type not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected cpu, cuda or cuda:N")
    if checked.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(f"device is {device!r}, but this torch ({torch.__version__}) sees no CUDA device: use cpu")
        if (checked.index or 0) >= torch.cuda.device_count():
            raise InputError(f"device is {device!r}, but there are {torch.cuda.device_count()} CUDA devices")
    return checked


def placed(network: nn.Module, device: torch.device) -> nn.Module:
    """Return a network on a device, or say why it cannot be trained there."""
    with torch._C.DisableTorchFunctionSubclass():  # a lazy tensor answers nothing
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if tensor.is_meta:
                raise InputError(
                    f"{name} is on the device meta, without values: build the network on another one, or give it "
                    "values after network.to_empty(device='cpu')"
                )
            if tensor.is_inference():
                raise InputError(
                    f"{name} was made in torch.inference_mode(), and cannot be trained: build the network outside"
                )
    return network.to(device)


def check_saved(network: nn.Module) -> None:
    """Check that a network's state can be saved, which nothing but tensors can be without pickle."""
    with raised_by_network("the network's state cannot be saved"):
        state = network.state_dict()
    for name, value in state.items():
        if not _is_dense(value):
            raise InputError(
                f"the network's state has {name}, a {type(value).__name__}, and only dense tensors are saved: return "
                "one from get_extra_state(), or train without a run folder"
            )
        with raised_by_network(f"the network's {name} cannot be saved, so train it without a run folder"):
            to_safetensors({name: value})


def _is_dense(value: object) -> bool:
    """Tell whether a value is a tensor with memory of its own, and not one that stands for others."""
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_nested
        and type(value).__torch_dispatch__ is Tensor.__torch_dispatch__
    )


@torch.no_grad()
def check_kept(network: nn.Module) -> None:
    """Check that a network's state gives back what is trained: a run folder and early stopping go back to it."""
    tensors = dict([*network.named_parameters(), *network.named_buffers()])
    own = {name: tensor.data for name, tensor in tensors.items()}  # this memory is not written to
    try:
        with raised_by_network(f"the network's state cannot be kept and loaded again, {_NEEDS_STATE}"):
            state = {name: copy.deepcopy(value) for name, value in network.state_dict().items()}
            for tensor in tensors.values():
                tensor.data = torch.full_like(tensor, math.nan) if tensor.requires_grad else tensor.clone()
            load_state(network, state)
        for name, tensor in tensors.items():
            if not _same(tensor, own[name]):
                raise InputError(f"the network's state_dict() does not give {name} back as it was, {_NEEDS_STATE}")
    finally:
        for name, tensor in tensors.items():
            tensor.data = own[name]


def _same(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are equal, NaN and all."""
    return torch.equal(a, b) or (a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all()))


def check_fit(network: nn.Module, dataset: Dataset, config: TrainingConfig, device: torch.device) -> None:
    """Check that the network takes the data's inputs and gives as many outputs as there are classes or values."""
    if dataset.task == "regression" and config.label_smoothing:
        raise InputError(f"label_smoothing is {config.label_smoothing:g}, and values have none: set it to 0")
    if len(dataset.train) < 2:
        raise InputError(f"{dataset.name} has {len(dataset.train)} training example, expected at least 2")
    if config.batch_size < 2 and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise InputError(f"batch_size is {config.batch_size}, expected at least 2 for a network with batch norm")
    if isinstance(network, DenseNetwork) and network.in_features != dataset.n_features:
        raise InputError(
            f"the network takes {network.in_features} features, {dataset.name} has {dataset.n_features} "
            f"({' × '.join(map(str, dataset.feature_shape))})"
        )
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise InputError("no parameter of the network can be trained: unfreeze some by parameter.requires_grad_(True)")
    _check_modes(network)
    with inference(network), without_gradients(network):
        for size in _sizes_run(dataset):
            _check_outputs(network, dataset, size, device)


def _check_modes(network: nn.Module) -> None:
    """Check that a network has the two modes, which what `torch.export` makes does not."""
    with raised_by_network("the network cannot be put into training and inference mode"), modes_restored(network):
        network.train()
        network.eval()


def _sizes_run(dataset: Dataset) -> list[int]:
    """Return how many examples at a time the network will be evaluated on: none should fail once it is trained."""
    lengths = [len(part) for part in dataset.parts.values()]
    sizes = {min(length, BLOCK_SIZE) for length in lengths} | {length % BLOCK_SIZE for length in lengths}
    return [2, *sorted({min(size, len(dataset.train)) for size in sizes if size} - {2})]


def _check_outputs(network: nn.Module, dataset: Dataset, size: int, device: torch.device) -> None:
    inputs, labels = next(iter(dataset.train.blocks(size, input_dtype(network))))
    try:
        outputs = as_columns(network(inputs.to(device)), labels)
    except Exception as error:  # a lack of memory, too: nothing is lost yet
        message = f"the network cannot take inputs of shape {tuple(inputs.shape)}: {in_words(error)}"
        raise InputError(message) from error
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != (size, dataset.n_classes):
        raise InputError(
            f"the network turns a batch of {size} into {shape}, expected {NETWORK_OUTPUTS[dataset.task]} of shape "
            f"({size}, {dataset.n_classes}) for the {dataset.n_classes} {OUTPUTS[dataset.task]} of {dataset.name}"
        )
