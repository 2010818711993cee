"""Layers on lists of tensors: linear maps of their features, and gates.

A layer's tensors are a list with one entry per type, (n_atoms, 2 l + 1, n_features) each, in free components. Linear
maps act on the features alone and are thus equivariant in any components.
"""

import math
from typing import List, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hiphop_train.nn.couplings import TensorType
from hiphop_train.nn.scaled import SILU_FACTOR, TANH_FACTOR, ScaledLinear


class EquivariantLinear(nn.Module):
    """Mix the features of tensors of the same type.

    Parameters
    ----------
    types, widths : of the given tensors and their numbers of features
    types_out, widths_out : of the results; each type must be among the given ones
    """

    def __init__(
        self, types: Sequence[TensorType], widths: List[int], types_out: Sequence[TensorType], widths_out: List[int]
    ) -> None:
        super().__init__()
        self.widths = widths
        self.sources = [list(types).index(each) for each in types_out]
        self.layers = nn.ModuleList(
            ScaledLinear(widths[source], width) for source, width in zip(self.sources, widths_out)
        )

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Map [(n_atoms, 2 l + 1, width)] to [(n_atoms, 2 l + 1, width_out)]."""
        mixed: List[Tensor] = []
        for k, layer in enumerate(self.layers):
            mixed.append(layer(tensors[self.sources[k]]))
        return mixed


class SpeciesLinear(nn.Module):
    """Mix the features of tensors of the same type, with a matrix for each species of the atom.

    The matrices are linear in attributes of the species: M_z = sum_k a_zk W_k / sqrt(n_in n_attributes).

    Parameters
    ----------
    n_attributes : numbers that describe a species
    types, widths : of the given tensors and their numbers of features
    types_out, widths_out : of the results; those whose type is not given are zero
    """

    def __init__(
        self,
        n_attributes: int,
        types: Sequence[TensorType],
        widths: List[int],
        types_out: Sequence[TensorType],
        widths_out: List[int],
    ) -> None:
        super().__init__()
        self.sources = [list(types).index(each) if each in types else -1 for each in types_out]
        self.shapes = [[each.size(), width] for each, width in zip(types_out, widths_out)]
        self.weights = nn.ParameterList()  # of those results that are not zero
        self.factors: List[float] = []
        for source, width in zip(self.sources, widths_out):
            if source >= 0:
                self.weights.append(nn.Parameter(torch.randn(n_attributes, widths[source], width)))
                self.factors.append(1.0 / math.sqrt(widths[source] * n_attributes))

    def forward(self, tensors: List[Tensor], species: Tensor, attributes: Tensor) -> List[Tensor]:
        """Mix.

        Parameters
        ----------
        tensors : [(n_atoms, 2 l + 1, width)]
        species : (n_atoms,)
        attributes : (n_types, n_attributes), a

        Returns
        -------
        mixed : [(n_atoms, 2 l + 1, width_out)]
        """
        matrices: List[Tensor] = []
        for k, weight in enumerate(self.weights):
            matrices.append(self.factors[k] * torch.tensordot(attributes, weight, dims=1))
        mixed: List[Tensor] = []
        found = 0
        for k, source in enumerate(self.sources):
            if source < 0:
                mixed.append(tensors[0].new_zeros([species.shape[0]] + self.shapes[k]))
            else:
                mixed.append(by_species(tensors[source], matrices[found], species))
                found += 1
        return mixed


def by_species(tensors: Tensor, weight: Tensor, species: Tensor) -> Tensor:
    """Multiply each atom's rows by the matrix of its species, one product per species.

    Off the CPU, each product is one of all atoms, since the number of atoms of a species is not known there.

    Parameters
    ----------
    tensors : (n_atoms, n_rows, n_in)
    weight : (n_types, n_in, n_out)
    species : (n_atoms,)
    """
    result = tensors.new_zeros((tensors.shape[0], tensors.shape[1], weight.shape[2]))
    for k in range(weight.shape[0]):
        if not tensors.is_cpu:
            result = result + (tensors * (species == k).to(tensors.dtype)[:, None, None]) @ weight[k]
            continue
        atoms = torch.nonzero(species == k)[:, 0]
        if atoms.shape[0] > 0:
            result = result.index_copy(0, atoms, tensors.index_select(0, atoms) @ weight[k])
    return result


class Gate(nn.Module):
    """Activate scalars, and multiply all other tensors by activated scalars of their own (Nat. Commun. 13, 2453).

    Even scalars and gates pass through silu, odd scalars through tanh, both scaled to a mean square of 1.

    Parameters
    ----------
    types, widths : of the results: even scalars first
    """

    def __init__(self, types: Sequence[TensorType], widths: List[int]) -> None:
        super().__init__()
        assert types[0] == TensorType(0, 1)
        self.silu_factor, self.tanh_factor = SILU_FACTOR, TANH_FACTOR
        self.ranks = [each.rank for each in types]
        self.widths = widths
        self.n_gates = sum(width for each, width in zip(types, widths) if each.rank > 0)
        self.widths_in = [widths[0] + self.n_gates, *widths[1:]]

    def forward(self, tensors: List[Tensor]) -> List[Tensor]:
        """Gate.

        Parameters
        ----------
        tensors : [(n_atoms, 2 l + 1, width)]; the first has the gates of all others behind its own scalars

        Returns
        -------
        gated : the same without the gates
        """
        even = self.silu_factor * silu(tensors[0])
        gated = [even.narrow(2, 0, self.widths[0])]
        start = self.widths[0]
        for k, rank in enumerate(self.ranks):
            if k > 0:
                if rank == 0:
                    gated.append(self.tanh_factor * torch.tanh(tensors[k]))
                else:
                    gated.append(even.narrow(2, start, self.widths[k]) * tensors[k])
                    start += self.widths[k]
        return gated
