"""TensorNet: Cartesian tensors of rank 2 as features, multiplied as matrices.

Simeon, De Fabritiis, NeurIPS 2023, arXiv 2306.06482; details as in the library torchmd-net 3.1.
"""

import math
from typing import List, Literal

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import silu

from hiphop_train.models.base import Representation
from hiphop_train.nn.convolution import TensorConvolution
from hiphop_train.nn.couplings import harmonics, true_types
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.matrices import MatrixProduct, squares
from hiphop_train.nn.radial import ExponentialFunctions
from hiphop_train.types import Graph


class FeatureMixing(nn.Module):
    """Linear maps of the features of the three parts of the tensors, without biases.

    Parameters
    ----------
    n_features : of the tensors
    """

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(n_features, n_features, bias=False) for _ in range(3))

    def forward(self, parts: List[Tensor]) -> List[Tensor]:
        """Map [(n_atoms, 2 l + 1, n_features)]."""
        mixed: List[Tensor] = []
        for rank, layer in enumerate(self.layers):
            mixed.append(layer(parts[rank]))
        return mixed


class Embedding(nn.Module):
    """Tensors of the neighbourhood of each atom (arXiv 2306.06482, eqs. 6 to 9).

    X_i = sum_j f_c(r_ij) Z_ij (W_0 e 1 + W_1 e [u_ij] + W_2 e (u_ij u_ij - 1/3)), Z_ij from the elements of both atoms,
    the pair of the atom with itself included; then each part is mixed and multiplied by functions of abs(X_i)^2.

    Parameters
    ----------
    n_types : number of species
    n_features : of the tensors
    n_radial, cutoff : of the radial basis, see `ExponentialFunctions`
    """

    def __init__(self, n_types: int, n_features: int, n_radial: int, cutoff: float) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_features = n_features
        self.elements = nn.Embedding(n_types, n_features)
        self.pairs = nn.Linear(2 * n_features, n_features)
        self.radial = ExponentialFunctions(cutoff, n_radial, [3 * n_features], is_linear=True)
        self.convolution = TensorConvolution(true_types(0), [n_features], 2, true_types(2))
        self.norm = nn.LayerNorm(n_features)
        self.scalars = nn.ModuleList([nn.Linear(n_features, 2 * n_features), nn.Linear(2 * n_features, 3 * n_features)])
        self.mixing = FeatureMixing(n_features)
        self.factors = [1.0, 1.0 / math.sqrt(3.0), math.sqrt(2.0 / 15.0)]  # of harmonics, whose size is 2 l + 1

    def forward(
        self, species: Tensor, distance: Tensor, harmonics: Tensor, pair_i: Tensor, pair_j: Tensor
    ) -> List[Tensor]:
        """Embed.

        Parameters
        ----------
        species : (n_atoms,)
        distance : (n_pairs,) Angstrom
        harmonics : (n_pairs, 9), of the vectors from the sending to the receiving atom
        pair_i, pair_j : (n_pairs,) receiving and sending atom

        Returns
        -------
        parts : of the tensors, [(n_atoms, 2 l + 1, n_features)]
        """
        receiver, sender = self.pairs.weight.chunk(2, dim=1)
        of_receiver = self.elements.weight @ receiver.T + self.pairs.bias  # (n_types, n_features)
        of_sender = self.elements.weight @ sender.T
        of_atoms = of_receiver.index_select(0, species)
        of_pairs = of_atoms.index_select(0, pair_i) + of_sender.index_select(0, species.index_select(0, pair_j))
        of_pairs = of_pairs * cosine_cutoff(distance, self.cutoff)[:, None]
        weights = self.radial(distance) * of_pairs.repeat(1, 3)
        sources = torch.ones_like(of_atoms)[:, None]
        sums = self.convolution([sources], harmonics, weights, pair_i, pair_j)
        itself = self.radial(distance.new_zeros(1))[:, : self.n_features]
        itself = itself * (of_atoms + of_sender.index_select(0, species))
        parts = [self.factors[0] * sums[0] + itself[:, None], self.factors[1] * sums[1], self.factors[2] * sums[2]]
        s, v, q = squares(parts)
        scalars = self.norm(s + v + q)
        for layer in self.scalars:
            scalars = silu(layer(scalars))
        factors = scalars.reshape(-1, 3, self.n_features)
        mixed: List[Tensor] = self.mixing(parts)
        return [factors[:, rank, None] * part for rank, part in enumerate(mixed)]


class Interaction(nn.Module):
    """Products of each atom's tensor with those of its neighbourhood (arXiv 2306.06482, eqs. 10 to 12).

    With X / (abs(X)^2 + 1), Y = L X and M_i = sum_j R(r_ij) Y_j, part by part and itself included:
    C = Y M + M Y, or 2 Y M; D = L' C / (abs(C)^2 + 1); X <- X + D + D D.

    Parameters
    ----------
    n_features : of the tensors
    n_radial, cutoff : of the radial basis, see `ExponentialFunctions`
    group : "O(3)", or "SO(3)", whose products are not equivariant under reflections
    """

    def __init__(self, n_features: int, n_radial: int, cutoff: float, group: str) -> None:
        super().__init__()
        self.n_features = n_features
        widths = [n_features, 2 * n_features, 3 * n_features]
        self.radial = ExponentialFunctions(cutoff, n_radial, widths, is_linear=False)  # R
        self.convolution = TensorConvolution(true_types(2), [n_features] * 3, 0, true_types(2))
        self.before, self.after = FeatureMixing(n_features), FeatureMixing(n_features)  # L, L'
        self.product = MatrixProduct(both_orders=group == "O(3)")
        self.square = MatrixProduct(both_orders=False)
        self.factor = 1.0 if group == "O(3)" else 2.0

    def forward(self, parts: List[Tensor], distance: Tensor, pair_i: Tensor, pair_j: Tensor) -> List[Tensor]:
        """Interact: parts [(n_atoms, 2 l + 1, n_features)] to the same; see `Embedding.forward` for the arguments."""
        s, v, q = squares(parts)
        size = (s + v + q + 1.0)[:, None]
        parts = [part / size for part in parts]
        own: List[Tensor] = self.before(parts)
        ones = torch.ones_like(distance)[:, None]
        sums = self.convolution(own, ones, self.radial(distance), pair_i, pair_j)
        itself = self.radial(distance.new_zeros(1)).reshape(3, 1, self.n_features)
        message = [sums[rank] + itself[rank] * own[rank] for rank in range(3)]
        product = [self.factor * part for part in self.product(own, message)]
        s, v, q = squares(product)
        size = (s + v + q + 1.0)[:, None]
        change: List[Tensor] = self.after([part / size for part in product])
        square: List[Tensor] = self.square(change, change)
        return [parts[rank] + change[rank] + square[rank] for rank in range(3)]


class TensorNet(Representation):
    """Features of the norms of tensors that neighbours' tensors have multiplied.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : of the tensors and of the results
    n_interactions : interaction layers
    n_radial : size of the radial basis
    group : "O(3)", under which the energy is invariant and tensors are equivariant; "SO(3)": rotations only
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        n_radial: PositiveInt,
        group: Literal["O(3)", "SO(3)"] = "O(3)",
    ) -> None:
        super().__init__(elements, cutoff, [n_features])
        self.group = group
        self.embedding = Embedding(len(elements), n_features, n_radial, cutoff)
        self.interactions = nn.ModuleList(
            Interaction(n_features, n_radial, cutoff, group) for _ in range(n_interactions)
        )
        self.norm = nn.LayerNorm(3 * n_features)
        self.linear = nn.Linear(3 * n_features, n_features)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return a function of the norms of the parts of the last tensors."""
        norms = torch.cat(squares(self.tensors(graph)[-1]), dim=1)
        return [silu(self.linear(self.norm(norms)))]

    def tensors(self, graph: Graph) -> List[List[Tensor]]:
        """Return the parts of the tensors of the embedding and after each layer, [[(n_atoms, 2 l + 1, n_features)]]."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / -distance[:, None], 2)  # from the sending to the receiving atom
        parts = self.embedding(graph.species, distance, values, graph.pair_i, graph.pair_j)
        found = [parts]
        for interaction in self.interactions:
            parts = interaction(parts, distance, graph.pair_i, graph.pair_j)
            found.append(parts)
        return found
