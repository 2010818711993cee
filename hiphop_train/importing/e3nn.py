"""Weights of e3nn's layers, which store all matrices of a layer in one vector."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from hiphop_train.errors import DataError
from hiphop_train.nn.couplings import TensorType, harmonics
from hiphop_train.nn.equivariant import EquivariantLinear, SpeciesLinear
from hiphop_train.nn.scaled import ScaledLinear


def sorted_types(types: Sequence[TensorType]) -> list[TensorType]:
    """Order types as e3nn sorts irreducible representations: by rank, odd parity first."""
    return sorted(types, key=lambda each: (each.rank, each.parity))


def split(flat: Tensor, shapes: Sequence[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Cut a vector into matrices of the given names and shapes, in this order."""
    found, start = {}, 0
    for name, shape in shapes:
        size = math.prod(shape)
        found[name] = flat.reshape(-1)[start : start + size].reshape(shape)
        start += size
    if start != flat.numel():
        raise DataError(f"{flat.numel()} weights where {start} are expected ({', '.join(name for name, _ in shapes)})")
    return found


def linear(
    flat: Tensor, ours: EquivariantLinear, prefix: str, types: Sequence[TensorType], order: Sequence[TensorType]
) -> dict[str, Tensor]:
    """Weights of ``Linear``: one matrix per type.

    Parameters
    ----------
    flat : vector of e3nn
    ours : layer of the same sizes
    prefix : of its name
    types : of the arguments
    order : the same in e3nn's order
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []
    for each in order:
        k = ours.sources.index(list(types).index(each))
        layer = ours.layers[k]
        assert isinstance(layer, ScaledLinear)
        shapes.append((f"{prefix}.layers.{k}.weight", tuple(layer.weight.shape)))
    return split(flat, shapes)


def species_linear(flat: Tensor, ours: SpeciesLinear, prefix: str) -> dict[str, Tensor]:
    """Weights of ``FullyConnectedTensorProduct`` with attributes of the species.

    Parameters
    ----------
    flat : vector of e3nn, ordered by the type of the argument: (n_in, n_attributes, n_out) each
    ours : layer of the same sizes
    prefix : of its name
    """
    sources = [source for source in ours.sources if source >= 0]
    shapes = []
    for k in sorted(range(len(sources)), key=lambda k: sources[k]):
        n_attributes, n_in, n_out = ours.weights[k].shape
        shapes.append((f"{prefix}.weights.{k}", (n_in, n_attributes, n_out)))
    return {name: matrices.transpose(0, 1) for name, matrices in split(flat, shapes).items()}


@cache
def basis(rank: int) -> Tensor:
    """Return the matrix from our free components of a tensor to e3nn's, (2 l + 1, 2 l + 1) float64.

    e3nn's are real spherical harmonics with y as the polar axis, from m = -l to l.
    """
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(8 * rank + 8, 3, dtype=torch.float64, generator=generator)
    vectors = torch.nn.functional.normalize(random, dim=1)
    ours = harmonics(vectors, rank)[:, rank * rank :]
    x, y, z = (vectors[:, k].numpy() for k in (2, 0, 1))
    legendre = np.polynomial.Legendre.basis(rank)
    plane = x + 1j * y
    theirs = []
    for m in range(-rank, rank + 1):
        order = abs(m)
        square = (2 * rank + 1) * math.factorial(rank - order) / math.factorial(rank + order) * (2 if m else 1)
        azimuthal = (plane**order).imag if m < 0 else (plane**order).real
        polar = legendre.deriv(order)(z) if order else legendre(z)
        theirs.append(math.sqrt(square) * polar * azimuthal)
    solution: Tensor = torch.linalg.lstsq(ours, torch.from_numpy(np.stack(theirs, axis=1))).solution
    return solution.T
