"""What is checked before a run begins: that the device is there, and that the network and the data fit."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from batchnorm.config import TrainingConfig
from batchnorm.data import Dataset
from batchnorm.errors import InputError
from batchnorm.network import DenseNetwork
from batchnorm.toolkit.model import inference, without_gradients


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


def check_fit(network: nn.Module, dataset: Dataset, config: TrainingConfig, device: torch.device) -> None:
    """Check that the network takes the data's inputs and gives as many logits as there are classes."""
    if len(dataset.train) < 2:
        raise InputError(f"{dataset.name} has {len(dataset.train)} training example, expected at least 2")
    if config.batch_size < 2 and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise InputError(f"batch_size is {config.batch_size}, expected at least 2 for a network with batch norm")
    if isinstance(network, DenseNetwork) and network.in_features != dataset.n_features:
        raise InputError(
            f"the network takes {network.in_features} features, {dataset.name} has {dataset.n_features} "
            f"({' × '.join(map(str, dataset.feature_shape))})"
        )
    inputs, _ = dataset.train.batch(slice(0, 2))
    try:
        with inference(network), without_gradients(network):
            logits = network(inputs.to(device))
    except RuntimeError as error:
        raise InputError(f"the network cannot take inputs of shape {tuple(inputs.shape)}: {error}") from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, dataset.n_classes):
        raise InputError(
            f"the network turns a batch of 2 into {shape}, "
            f"expected logits of shape (2, {dataset.n_classes}) for the {dataset.n_classes} classes of {dataset.name}"
        )
