"""The formula between the matrix products of a training step, and what a step draws.

- `cpu`: every kernel of the step, compiled for the CPU by numba; an activation's is a branch of `_activate`
- `sparse`: what takes the place of the first layer's products where inputs are mostly zero; numba as well
- `elementary`: what these are made of (exp, erf, random bits, the normal distribution); numba as well
- `tensors`: the same kernels through torch's operators, for other devices
- `activations`: the table of activations, with torch's module and the formula on tensors
- `draws`: dropped units and noise, from the kernels where they can draw, else from torch
"""

from functools import cache
from types import ModuleType

from batchnorm.forking import fork_when_free


@cache
def compiled_kernels() -> ModuleType | None:
    """Return `batchnorm.kernels.cpu`, or None where numba is missing."""
    try:
        from numba.core.compiler_lock import global_compiler_lock

        from batchnorm.kernels import cpu
    except ModuleNotFoundError:
        return None
    fork_when_free(global_compiler_lock)
    return cpu
