"""Allegro: strictly local equivariant potential, whose features live on ordered pairs of atoms.

Musaelian, Batzner, Johansson, Sun, Owen, Kornbluth, Kozinsky, Nat. Commun. 14, 579 (2023), Results, "The Allegro
model"; details as in the library nequip-allegro 0.8, which docs/models.md compares with the paper.
"""

import math
from typing import List, Literal, Sequence, Tuple

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.convolution import Path, convolution_paths, reached
from hiphop_train.nn.couplings import TensorType, all_types, coupling, harmonics, true_types
from hiphop_train.nn.radial import bessel_functions, polynomial_cutoff
from hiphop_train.nn.scaled import ScaledLinear, ScaledNetwork
from hiphop_train.types import Graph

GAIN = math.sqrt(2)
"""Of all layers of a network but the first."""


def layer_types(l_max: int, parity: bool, n_layers: int) -> List[List[TensorType]]:
    """Return the types of the tensors before the first layer and after each.

    The last layer needs scalars alone, and types that lead to nothing needed are left out.
    """
    scalar = TensorType(0, 1)
    allowed = all_types(l_max) if parity else true_types(l_max)
    found = [true_types(l_max)]
    for layer in range(n_layers):
        found.append(reached(found[-1], l_max, allowed if layer < n_layers - 1 else [scalar]))
    for layer in range(n_layers - 1, -1, -1):
        found[layer] = [each for each in found[layer] if reached([each], l_max, found[layer + 1])]
    return found


class PairEmbedding(nn.Module):
    """x_ij = MLP((c_zi, s_zj) o R B(r_ij)), scalars of a pair that know its distance and species alone.

    Parameters
    ----------
    n_types : number of species
    n_features : numbers of x; half of the numbers that multiply the radial basis are those of the receiver, half those
        of the sender
    n_radial : size of the radial basis B
    hidden : widths of the hidden layers
    cutoff : Angstrom
    cutoff_power : p of the polynomial cutoff
    """

    def __init__(
        self, n_types: int, n_features: int, n_radial: int, hidden: List[int], cutoff: float, cutoff_power: int
    ) -> None:
        super().__init__()
        self.cutoff, self.cutoff_power, self.n_radial = cutoff, cutoff_power, n_radial
        self.factor = cutoff / math.pi  # which makes B_1 about 1 at small distances, whatever the cutoff
        self.receiver, self.sender = (nn.Embedding(n_types, n_features // 2) for _ in range(2))  # c, s
        self.radial = ScaledLinear(n_radial, n_features, uniform=True)  # R
        self.network = ScaledNetwork(n_features, hidden, n_features, GAIN, uniform=True)

    def forward(self, graph: Graph, distance: Tensor) -> Tensor:
        """Return x (n_pairs, n_features) for distances (n_pairs,)."""
        cutoff = self.factor * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)
        basis = bessel_functions(distance, self.cutoff, self.n_radial) * cutoff[:, None]
        receiver = self.receiver(graph.species).index_select(0, graph.pair_i)
        sender = self.sender(graph.species).index_select(0, graph.pair_j)
        scalars: Tensor = self.network(torch.cat([receiver, sender], dim=1) * self.radial(basis))
        return scalars


class WeightedHarmonics(nn.Module):
    """w_l Y^l(u) for each rank l, with a weight for each feature.

    Parameters
    ----------
    l_max : highest rank
    n_tensors : features of each rank
    """

    rank_of_component: Tensor

    def __init__(self, l_max: int, n_tensors: int) -> None:
        super().__init__()
        self.n_ranks, self.n_tensors = l_max + 1, n_tensors
        ranks = torch.tensor([rank for rank in range(l_max + 1) for _ in range(2 * rank + 1)])
        self.register_buffer("rank_of_component", ranks, persistent=False)

    def forward(self, harmonics: Tensor, weights: Tensor) -> Tensor:
        """Weight the harmonics.

        Parameters
        ----------
        harmonics : (n_pairs, (l_max + 1)^2), Y
        weights : (n_pairs, (l_max + 1) * n_tensors), w, rank by rank

        Returns
        -------
        tensors : (n_pairs, (l_max + 1)^2, n_tensors)
        """
        of_ranks = weights.reshape([weights.shape[0], self.n_ranks, self.n_tensors])
        return harmonics[:, :, None] * of_ranks.index_select(1, self.rank_of_component)


def product_paths(types: Sequence[TensorType], l_max: int, types_out: Sequence[TensorType]) -> List[Path]:
    """Return all couplings of tensors with environments, ordered by result, tensor and rank of the environment."""
    found = convolution_paths(types, l_max, types_out)
    return sorted(found, key=lambda path: (path.result, path.source, path.rank))


class EnvironmentMatrices(nn.Module):
    """The matrices M_i of V_ij -> sum_p W_p (V_ij A_i)_p, a map of each feature's tensors to their coupled products.

    They are the same for all pairs of an atom, so the couplings are evaluated once per atom.

    Parameters
    ----------
    types : of the tensors V of the pairs
    types_out : of the results
    l_max : highest rank of the environments A
    n_tensors : features of each type

    Attributes
    ----------
    paths : all couplings, see `product_paths`
    """

    coefficients: Tensor
    path_of_row: Tensor
    component_of_row: Tensor

    def __init__(
        self, types: Sequence[TensorType], types_out: Sequence[TensorType], l_max: int, n_tensors: int
    ) -> None:
        super().__init__()
        self.paths = product_paths(types, l_max, types_out)
        self.weight = nn.Parameter(torch.empty(len(self.paths), n_tensors))  # W
        nn.init.uniform_(self.weight, -math.sqrt(3), math.sqrt(3))
        self.n_out, self.n_in = sum(each.size() for each in types_out), sum(each.size() for each in types)
        parts: List[Tensor] = []
        path_of_row: List[int] = []
        component_of_row: List[int] = []
        for number, path in enumerate(self.paths):
            n_rows = 2 * path.rank + 1
            part = torch.zeros(self.n_out, self.n_in, n_rows, dtype=torch.float64)
            to, start = rows_of(types_out, path.result), rows_of(types, path.source)
            part[to, start] = coupling(types[path.source].rank, path.rank, types_out[path.result].rank)
            parts.append(part.flatten(0, 1))
            path_of_row += [number] * n_rows
            component_of_row += range(path.rank**2, (path.rank + 1) ** 2)
        self.register_buffer("coefficients", torch.cat(parts, dim=1), persistent=False)  # (n_out * n_in, n_rows)
        self.register_buffer("path_of_row", torch.tensor(path_of_row), persistent=False)
        self.register_buffer("component_of_row", torch.tensor(component_of_row), persistent=False)

    def forward(self, environment: Tensor) -> Tensor:
        """Return the matrices.

        Parameters
        ----------
        environment : (n_atoms, (l_max + 1)^2, n_tensors), A

        Returns
        -------
        matrices : (n_atoms, n_out, n_in, n_tensors), M
        """
        weighted = environment.index_select(1, self.component_of_row) * self.weight.index_select(0, self.path_of_row)
        return (self.coefficients @ weighted).reshape([-1, self.n_out, self.n_in, self.weight.shape[1]])


def rows_of(types: Sequence[TensorType], index: int) -> slice:
    """Components of one type among those of all."""
    start = sum(each.size() for each in types[:index])
    return slice(start, start + types[index].size())


def scalars_and_weights(found: Tensor, n_features: int, dtype: torch.dtype) -> Tuple[Tensor, Tensor]:
    """Divide new scalars (n_pairs, n_features) from the weights of the next environment, none in the end.

    Both are summed further, which takes more bits than reduced precision has.
    """
    parts = torch.split(found.to(dtype), [n_features, found.shape[1] - n_features], dim=1)
    return parts[0], parts[1]


class AllegroLayer(nn.Module):
    """Couple the tensors of each pair with the environment of its receiving atom.

    Parameters
    ----------
    types, types_out : of the tensors before and after
    l_max : highest rank of the harmonics
    n_tensors : features of each type of tensors
    n_in : scalars of a pair before this layer, of all layers together
    hidden : widths of the hidden layers of the network of the scalars
    n_out : of its results: new scalars, and the environment weights of the next layer
    """

    def __init__(
        self,
        types: Sequence[TensorType],
        types_out: Sequence[TensorType],
        l_max: int,
        n_tensors: int,
        n_in: int,
        hidden: List[int],
        n_out: int,
    ) -> None:
        super().__init__()
        self.types, self.types_out = list(types), list(types_out)
        self.weighted_harmonics = WeightedHarmonics(l_max, n_tensors)
        self.matrices = EnvironmentMatrices(types, types_out, l_max, n_tensors)
        self.latent = ScaledNetwork(n_in + n_tensors, hidden, n_out, GAIN, uniform=True)

    def forward(
        self, tensors: Tensor, harmonics: Tensor, weights: Tensor, pair_i: Tensor, n_atoms: int, factor: Tensor
    ) -> Tensor:
        """Couple.

        Parameters
        ----------
        tensors : (n_pairs, n_components, n_tensors), V
        harmonics : (n_pairs, (l_max + 1)^2), Y
        weights : (n_pairs, (l_max + 1) * n_tensors), w, of the environments
        pair_i : (n_pairs,) receiving atom
        n_atoms : number of atoms
        factor : 1 / sqrt(N), N being the mean number of neighbours

        Returns
        -------
        tensors : (n_pairs, n_components_out, n_tensors), sum_p W_p (V_ij A_i)_p with A_i = sum_j w_ij Y_ij / sqrt(N)
        """
        environment = factor * segment_sum(self.weighted_harmonics(harmonics, weights), pair_i, n_atoms)
        matrices: Tensor = self.matrices(environment).index_select(0, pair_i)
        return (matrices * tensors[:, None]).sum(2)


class Allegro(Representation):
    """Scalars and tensors of ordered pairs, which know their surroundings through products with environments.

    Each pair depends on the neighbours of its receiving atom alone, whatever the number of layers.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : scalars of a pair after each layer; even, since half of them embed the species of each atom
    n_tensors : features of each type of tensors
    n_interactions : layers; the last has scalars only
    l_max : highest rank of the tensors
    parity : whether there are pseudotensors too, which change sign under reflection where tensors do not; they matter
        from three layers on, since of fewer none leads to a scalar
    n_radial : size of the radial basis
    cutoff_power : p of the polynomial cutoff
    two_body_hidden : widths of the hidden layers of the network of a pair alone
    latent_hidden : widths of the hidden layers of each layer's network of scalars

    Notes
    -----
    Weights are scaled and drawn as in nequip-allegro 0.8; its scales and shifts of energies are the potential's.
    """

    average_neighbours: Tensor

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_tensors: PositiveInt,
        n_interactions: PositiveInt,
        l_max: Literal[0, 1, 2, 3],
        parity: bool,
        n_radial: PositiveInt,
        cutoff_power: PositiveInt,
        two_body_hidden: List[PositiveInt],
        latent_hidden: List[PositiveInt],
    ) -> None:
        if n_features % 2 == 1:
            raise ConfigError(
                f"model.n_features={n_features}: must be even, since half of them embed the species of each atom of a "
                f"pair; {n_features + 1}, for instance"
            )
        sizes = [n_features] * (n_interactions + 1)
        super().__init__(elements, cutoff, sizes, sites="pairs", counts_neighbours=True)
        self.l_max, self.n_features, self.n_tensors = l_max, n_features, n_tensors
        n_weights = (l_max + 1) * n_tensors
        given = (len(elements), n_features, n_radial, list(two_body_hidden), cutoff, cutoff_power)
        self.embedding = PairEmbedding(*given)
        self.tensor_weights = ScaledLinear(n_features, n_weights, uniform=True)
        self.projection = ScaledLinear(n_features, n_features + n_weights, uniform=True)
        self.weighted_harmonics = WeightedHarmonics(l_max, n_tensors)
        types = layer_types(l_max, parity, n_interactions)
        self.layers = nn.ModuleList(
            AllegroLayer(
                types[layer],
                types[layer + 1],
                l_max,
                n_tensors,
                n_features * (layer + 1),
                list(latent_hidden),
                n_features + (n_weights if layer < n_interactions - 1 else 0),
            )
            for layer in range(n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of the pairs: of each pair alone, and after each layer."""
        return self.features(graph)[0]

    def features(self, graph: Graph) -> Tuple[List[Tensor], List[Tensor]]:
        """Return the scalars (n_pairs, n_features), and the tensors after each layer.

        Returns
        -------
        scalars : of each pair alone, and after each layer
        tensors : [(n_pairs, n_components, n_tensors)] before the first layer and after each
        """
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / distance[:, None], self.l_max)
        alone = self.embedding(graph, distance)
        tensors = [self.weighted_harmonics(values, self.tensor_weights(alone))]
        first, weights = scalars_and_weights(self.projection(alone), self.n_features, values.dtype)
        scalars = [first]
        factor = torch.rsqrt(self.average_neighbours)
        for layer in self.layers:
            tensors.append(layer(tensors[-1], values, weights, graph.pair_i, n_atoms, factor))
            found = layer.latent(torch.cat(scalars + [tensors[-1][:, 0]], dim=1))  # type: ignore[operator]
            new, weights = scalars_and_weights(found, self.n_features, values.dtype)
            scalars.append(new)
        return scalars, tensors
