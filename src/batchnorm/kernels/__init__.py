"""The formula between the matrix products of a step: compiled for the CPU (`cpu`), or on tensors (`tensors`)."""
