"""What one training draws: a stream of its own, whatever else is drawn in the process, and whoever else trains."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from batchnorm.kernels.draws import drawing_from, global_generators_kept
from batchnorm.network import DenseNetwork


class RandomStream:
    """Where a training's dropped units and noise come from, and whatever its network draws from torch's generators.

    A plain `DenseNetwork` on the CPU draws from a generator of its own. Other modules know torch's global generators
    alone: these are given the stream's state for the time of a step, one training at a time.

    Parameters
    ----------
    seed : int
    network : torch.nn.Module
    device : torch.device
    noisy : bool, default False
        Whether noise is added to the inputs.
    """

    def __init__(self, seed: int, network: nn.Module, device: torch.device, *, noisy: bool = False):
        self._device = device
        places = [torch.device("cpu")] if device.type == "cpu" else [torch.device("cpu"), device]
        self._generators = {place.type: torch.Generator(place).manual_seed(seed) for place in places}
        self._draws_apart = (
            isinstance(network, DenseNetwork)
            and network.alteration() is None
            and (device.type == "cpu" or not (noisy or network.architecture["dropout"]))  # nothing: it waits for nobody
        )

    def drawn(self) -> AbstractContextManager[None]:
        """Have what is computed in the block draw from the stream."""
        return drawing_from(self._generators["cpu"]) if self._draws_apart else self.drawn_globally()

    @contextmanager
    def drawn_globally(self) -> Iterator[None]:
        """Have torch's global generators be the stream in the block, and afterwards what they were."""
        with global_generators_kept(self._device):
            torch.set_rng_state(self._generators["cpu"].get_state())
            if "cuda" in self._generators:
                torch.cuda.set_rng_state(self._generators["cuda"].get_state(), self._device)
            try:
                yield
            finally:
                self._generators["cpu"].set_state(torch.get_rng_state())
                if "cuda" in self._generators:
                    self._generators["cuda"].set_state(torch.cuda.get_rng_state(self._device))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the generators, by the kind of device."""
        return {kind: generator.get_state() for kind, generator in self._generators.items()}

    def load_state_dict(self, states: dict[str, Tensor]) -> None:
        """Take up states that `state_dict` returned; generators without one stay as they are."""
        for kind, generator in self._generators.items():
            if kind in states:
                generator.set_state(states[kind])
