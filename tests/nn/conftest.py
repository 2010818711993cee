"""Full Cartesian tensors from free components, independently of the package."""

import itertools

import torch
from torch import Tensor

FREE = {
    rank: [index for index in itertools.combinations_with_replacement(range(3), rank) if index.count(2) <= 1]
    for rank in range(6)
}
"""Indices of the free components by rank, in the documented order: at most one z."""


def expand(components: Tensor, rank: int) -> Tensor:
    """Fill a full symmetric traceless tensor from its free components: (2 rank + 1, ...) -> (3, ..., 3, ...)."""
    value = dict(zip(FREE[rank], components, strict=True))
    for n_z in range(2, rank + 1):  # two of the indices are z z, and the trace over them vanishes
        for others in itertools.combinations_with_replacement(range(2), rank - n_z):
            rest = (*others, *(2,) * (n_z - 2))
            value[(*rest, 2, 2)] = -(value[tuple(sorted((*rest, 0, 0)))] + value[tuple(sorted((*rest, 1, 1)))])
    full = [value[tuple(sorted(index))] for index in itertools.product(range(3), repeat=rank)]
    return torch.stack(full).reshape((3,) * rank + components.shape[1:])


def tensors_of(components: Tensor, l_max: int) -> list[Tensor]:
    """Full tensors of all ranks from ((l_max + 1)^2, ...) free components."""
    return [expand(components[rank**2 : (rank + 1) ** 2], rank) for rank in range(l_max + 1)]


def components_of(tensors: list[Tensor]) -> Tensor:
    """Free components from full tensors."""
    return torch.stack([tensors[rank][index] for rank in range(len(tensors)) for index in FREE[rank]])


def turn(tensors: list[Tensor], matrix: Tensor) -> list[Tensor]:
    """Apply an orthogonal matrix to every index; the last axis counts tensors."""
    turned = []
    for rank, tensor in enumerate(tensors):
        for axis in range(rank):
            tensor = torch.tensordot(matrix, tensor.movedim(axis, 0), dims=1).movedim(0, axis)
        turned.append(tensor)
    return turned


def random_components(l_max: int, *shape: int, seed: int = 0) -> Tensor:
    """Components of a general environment: ((l_max + 1)^2, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((l_max + 1) ** 2, *shape, dtype=torch.float64, generator=generator)
