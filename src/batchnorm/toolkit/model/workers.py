"""What the processes of `torch.distributed` know together, in plain tensors: nothing is pickled on the way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from batchnorm.errors import BatchnormError, InputError
from batchnorm.functional import Moments, merge_moments


class Workers:
    """The processes that measure together; this one alone where there is no group of several.

    Parameters
    ----------
    distributed : bool, ProcessGroup or None
        False: this process alone. True or None: all processes of the default group; None accepts that there is none.
    device : torch.device
        Of what is exchanged; of the model, so that NCCL takes it.

    Raises
    ------
    InputError
        If `distributed` is True and `torch.distributed` is not initialised.
    """

    def __init__(self, distributed: Any, device: torch.device):
        initialized = dist.is_available() and dist.is_initialized()
        if distributed is True and not initialized:
            raise InputError(
                "distributed=True, but torch.distributed is not initialised: call init_process_group first, or leave "
                "it out"
            )
        self._group = None if distributed in (None, True, False) else distributed
        self._device = device
        self.size = dist.get_world_size(self._group) if initialized and distributed is not False else 1

    def gather(self, values: Tensor) -> Tensor:
        """Return the values of all workers (workers, *shape) in float64."""
        values = values.to(self._device, torch.float64)
        if self.size == 1:
            return values.unsqueeze(0)
        everyone = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(everyone, values, group=self._group)
        return torch.stack(everyone)

    def raise_together(self, error: Exception | None) -> None:
        """Raise where something went wrong, and on all other workers too, which would wait for this one for ever."""
        if self.size > 1:
            failed = self.gather(torch.tensor(float(error is not None))).nonzero().flatten().tolist()
            if failed and error is None:
                raise BatchnormError(f"worker {failed[0]} failed: its own message says why")
        if error is not None:
            raise error

    def merged(self, seen: Mapping[str, Moments], sizes: Mapping[str, int]) -> dict[str, Moments]:
        """Merge the moments of all workers.

        Parameters
        ----------
        seen : mapping of str to Moments
            What this worker has of some of the layers.
        sizes : mapping of str to int
            Channels of each layer, equal on all workers. A layer that no worker has seen is not in the result.
        """
        if self.size == 1 or not sizes:
            return dict(seen)
        packed = [
            torch.zeros(1 + 2 * channels, dtype=torch.float64, device=self._device) for channels in sizes.values()
        ]
        for part, name in zip(packed, sizes, strict=True):
            if name in seen:
                n, mean, var = seen[name]
                part.copy_(torch.cat([mean.new_tensor([n]), mean, var]))
        parts = torch.split(self.gather(torch.cat(packed)), [len(part) for part in packed], dim=1)
        merged: dict[str, Moments] = {}
        for name, of_workers in zip(sizes, parts, strict=True):
            for row in of_workers[of_workers[:, 0] > 0]:
                one = Moments(row[0].item(), *row[1:].chunk(2))
                merged[name] = merge_moments(merged[name], one) if name in merged else one
        return merged

    def earliest(self, order: Sequence[str], names: Sequence[str]) -> list[str]:
        """Return what any worker has reached, in the order of the one that reached it earliest."""
        if self.size == 1:
            return list(order)
        position = torch.full((len(names),), torch.inf)
        for i, name in enumerate(order):
            position[names.index(name)] = i
        first = dict(zip(names, self.gather(position).amin(0).tolist(), strict=True))
        return sorted((name for name in names if math.isfinite(first[name])), key=first.__getitem__)

    def union(self, sets: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
        """Return the union over the workers of sets of layers, each given as the bits of an int."""
        if self.size == 1:
            return dict(sets)
        table = torch.tensor([[sets[name] >> bit & 1 for bit in range(len(names))] for name in names])
        together = self.gather(table).amax(0).tolist()
        return {
            name: sum(1 << bit for bit, there in enumerate(row) if there)
            for name, row in zip(names, together, strict=True)
        }
