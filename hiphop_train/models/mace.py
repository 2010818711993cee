"""MACE: higher-order equivariant message passing.

Batatia, Kovacs, Simm, Ortner, Csanyi, NeurIPS 2022, arXiv 2206.07697; details as in the library mace-torch 0.3.16.
"""

import math
from typing import Callable, List, Literal, Optional

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.models.base import Representation
from hiphop_train.nn.convolution import TensorConvolution
from hiphop_train.nn.couplings import harmonics, true_types
from hiphop_train.nn.equivariant import EquivariantLinear, SpeciesLinear
from hiphop_train.nn.radial import RadialFunctions
from hiphop_train.nn.scaled import SILU_FACTOR, ScaledLinear
from hiphop_train.nn.symmetric_powers import SymmetricPowers
from hiphop_train.types import Graph


class Interaction(nn.Module):
    """Messages are powers of a convolution, added to what an element keeps (arXiv 2206.07697, eq. 8 to 11).

    A_i = L' sum_j R(r_ij) (L x_j Y(r_ij)) / N; x_i <- L'' sum_nu W_z A_i^nu + S_z x_i, or without a residual
    x_i <- L'' sum_nu W_z (S_z A_i)^nu, for a first layer, where x_i is but an embedding of the element.

    N is the mean number of neighbours, or 1 + sum_j tanh(d(r_ij)^2) of the atom, d being learned.

    Parameters
    ----------
    n_types : number of species
    rank, rank_out : highest rank of the features and of the results
    l_max : highest rank of the harmonics and of A
    correlation : highest power of A
    width : number of features of each rank
    radial : takes the number of radial functions, and makes them
    is_residual : whether S_z x is added
    density : d, if N is of the atom
    """

    def __init__(
        self,
        n_types: int,
        rank: int,
        rank_out: int,
        l_max: int,
        correlation: int,
        width: int,
        radial: Callable[[int], RadialFunctions],
        is_residual: bool,
        density: Optional[RadialFunctions],
    ) -> None:
        super().__init__()
        self.is_residual = is_residual
        self.density = density
        given, results = true_types(rank), true_types(rank_out)
        between = true_types(l_max if correlation > 1 else rank_out)  # what the powers use
        widths, widths_between, widths_out = ([width] * len(types) for types in (given, between, results))
        self.types = (given, between, results)  # for importers
        self.before = EquivariantLinear(given, widths, given, widths)  # L
        self.convolution = TensorConvolution(given, widths, l_max, between)
        self.radial = radial(self.convolution.n_weights)  # R
        self.after = EquivariantLinear(between, self.convolution.widths_out, between, widths_between)  # L'
        self.self_connection = (  # S
            SpeciesLinear(n_types, given, widths, results, widths_out)
            if is_residual
            else SpeciesLinear(n_types, between, widths_between, between, widths_between)
        )
        self.powers = SymmetricPowers(len(between) - 1, correlation, range(rank_out + 1), n_types, width)
        self.last = EquivariantLinear(results, widths_out, results, widths_out)  # L''

    def forward(
        self,
        tensors: List[Tensor],
        species: Tensor,
        attributes: Tensor,
        distance: Tensor,
        harmonics: Tensor,
        pair_i: Tensor,
        pair_j: Tensor,
        factor: Tensor,
    ) -> List[Tensor]:
        """Interact.

        Parameters
        ----------
        tensors : [(n_atoms, 2 l + 1, width)], x
        species : (n_atoms,)
        attributes : (n_types, n_types), the unit matrix
        distance : (n_pairs,) Angstrom
        harmonics : (n_pairs, (l_max + 1)^2), Y
        pair_i, pair_j : (n_pairs,) receiving and sending atom
        factor : the inverse of the mean number of neighbours

        Returns
        -------
        tensors : [(n_atoms, 2 l + 1, width)]
        """
        sums = self.convolution(self.before(tensors), harmonics, self.radial(distance), pair_i, pair_j)
        if self.density is not None:
            densities = torch.tanh(self.density(distance)[:, 0].square())
            total = torch.ones_like(species, dtype=densities.dtype).index_add(0, pair_i, densities)
            factor = (1.0 / total)[:, None, None]
        environment = [factor * each for each in self.after(sums)]
        own: List[Tensor] = []
        if self.is_residual:
            own = self.self_connection(tensors, species, attributes)
        else:
            environment = self.self_connection(environment, species, attributes)
        message: List[Tensor] = self.last(self.powers(environment, species))
        return [message[k] + own[k] for k in range(len(message))] if self.is_residual else message


class MACE(Representation):
    """Powers of the environments as messages, which see many bodies at once, in few layers.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : of each rank
    n_interactions : layers; the results of the last are scalars
    rank : highest rank of the features of the layers between
    l_max : highest rank of the harmonics, at least `rank`
    correlation : highest power; an atom sees one body more in each layer
    n_radial : size of the radial basis
    cutoff_power : p of the polynomial cutoff
    radial_hidden : widths of the hidden layers of the radial networks
    first_is_residual : whether the first layer adds what an element keeps to the message, as those after it do
    normalisation : what messages are divided by: the mean number of neighbours, or a learned density of each atom

    Notes
    -----
    Weights are scaled and drawn as in mace-torch 0.3.16, RealAgnosticInteractionBlock or
    RealAgnosticResidualInteractionBlock in the first layer, the latter in those after it, or their namesakes with a
    density; but the products of a power are linearly independent, so that fewer
    weights describe the same functions. Scale and shift of the energies are the potential's.
    """

    average_neighbours: Tensor

    learning_rate = 1e-2

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        rank: Literal[0, 1, 2, 3],
        l_max: Literal[0, 1, 2, 3, 4],
        correlation: Literal[1, 2, 3, 4],
        n_radial: PositiveInt,
        cutoff_power: PositiveInt,
        radial_hidden: List[PositiveInt],
        first_is_residual: bool = False,
        normalisation: Literal["neighbours", "density"] = "neighbours",
    ) -> None:
        if rank > l_max:
            raise ConfigError(
                f"model.rank={rank} is above model.l_max={l_max}, but features come from tensors up to l_max; "
                f"give rank from 0 to {l_max}, or a higher l_max"
            )
        super().__init__(elements, cutoff, [n_features] * n_interactions, counts_neighbours=True)
        self.l_max, self.n_types = l_max, len(elements)

        basis = (cutoff, n_radial, cutoff_power, math.sqrt(2.0 / cutoff))

        def radial(n_out: int) -> RadialFunctions:
            return RadialFunctions(*basis, list(radial_hidden), n_out, gain=SILU_FACTOR)

        self.embedding = ScaledLinear(len(elements), n_features)
        self.interactions = nn.ModuleList(
            Interaction(
                len(elements),
                rank if layer > 0 else 0,
                rank if layer < n_interactions - 1 else 0,
                l_max,
                correlation,
                n_features,
                radial,
                first_is_residual or layer > 0,
                RadialFunctions(*basis, [], 1, gain=SILU_FACTOR) if normalisation == "density" else None,
            )
            for layer in range(n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of each layer."""
        return [tensors[0].squeeze(1) for tensors in self.tensors(graph)]

    def tensors(self, graph: Graph) -> List[List[Tensor]]:
        """Return the tensors after each layer, [[(n_atoms, 2 l + 1, width)]]."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / -distance[:, None], self.l_max)  # from the sender to the receiver
        attributes = torch.eye(self.n_types, dtype=values.dtype, device=values.device)
        tensors = [self.embedding(attributes).index_select(0, graph.species)[:, None]]
        factor = 1.0 / self.average_neighbours
        found: List[List[Tensor]] = []
        for layer in self.interactions:
            tensors = layer(tensors, graph.species, attributes, distance, values, graph.pair_i, graph.pair_j, factor)
            found.append(tensors)
        return found
