"""NequIP: neural equivariant interatomic potential.

Batzner, Musaelian, Sun, Geiger, Mailoa, Kornbluth, Molinari, Smidt, Kozinsky, Nat. Commun. 13, 2453 (2022); details as
in the library nequip 0.19.
"""

import math
from typing import Callable, List, Literal, Sequence, Union

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.models.base import Representation
from hiphop_train.nn.convolution import TensorConvolution, reached, types_of_layers
from hiphop_train.nn.couplings import TensorType, all_types, harmonics, true_types
from hiphop_train.nn.equivariant import EquivariantLinear, Gate, SpeciesLinear
from hiphop_train.nn.radial import RadialFunctions
from hiphop_train.types import Graph


class InteractionBlock(nn.Module):
    """x_i <- gate(L' sum_j R(r_ij) (L x_j Y(r_ij)) / sqrt(N) + S_z x_i) (Nat. Commun. 13, 2453, fig. 1).

    Parameters
    ----------
    types, widths : of the features and their numbers
    types_out, widths_out : of the results
    radial : takes the number of radial functions, and makes them
    l_max : highest rank of the harmonics
    n_attributes : numbers that describe a species; 0 in the first block, which has no self-connection S
    """

    def __init__(
        self,
        types: Sequence[TensorType],
        widths: List[int],
        types_out: Sequence[TensorType],
        widths_out: List[int],
        radial: Callable[[int], RadialFunctions],
        l_max: int,
        n_attributes: int,
    ) -> None:
        super().__init__()
        self.types, self.types_out, self.l_max = list(types), list(types_out), l_max  # for importers
        self.widths, self.widths_out = widths, widths_out
        self.gate = Gate(types_out, widths_out)
        sent = [each for each in types if reached([each], l_max, types_out)]  # types that contribute
        sent_widths = [width for each, width in zip(types, widths) if each in sent]
        self.before = EquivariantLinear(types, widths, sent, sent_widths)  # L
        self.convolution = TensorConvolution(sent, sent_widths, l_max, types_out)
        self.radial = radial(self.convolution.n_weights)  # R
        self.after = EquivariantLinear(types_out, self.convolution.widths_out, types_out, self.gate.widths_in)  # L'
        self.self_connection = nn.ModuleList()  # S, or empty
        if n_attributes > 0:
            self.self_connection.append(SpeciesLinear(n_attributes, types, widths, types_out, self.gate.widths_in))

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
        attributes : (n_types, n_attributes) of the species
        distance : (n_pairs,) Angstrom
        harmonics : (n_pairs, (l_max + 1)^2), Y
        pair_i, pair_j : (n_pairs,) receiving and sending atom
        factor : 1 / sqrt(N), N being the mean number of neighbours

        Returns
        -------
        tensors : [(n_atoms, 2 l + 1, width_out)]
        """
        sources = [factor * each for each in self.before(tensors)]
        sums = self.after(self.convolution(sources, harmonics, self.radial(distance), pair_i, pair_j))
        for self_connection in self.self_connection:
            own = self_connection(tensors, species, attributes)
            sums = [sums[k] + own[k] for k in range(len(sums))]
        gated: List[Tensor] = self.gate(sums)
        return gated


class NequIP(Representation):
    """Messages between tensors of all ranks and parities, weighted by learned radial functions.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : of each rank, or a list with a number for each rank from 0 to l_max
    n_interactions : interaction blocks; the last has scalars only
    l_max : highest rank of the tensors
    parity : whether there are pseudotensors too, which change sign under reflection where tensors do not
    n_radial : size of the radial basis
    cutoff_power : p of the polynomial cutoff
    radial_hidden : widths of the hidden layers of the radial networks
    n_attributes : length of the embedding of the elements

    Notes
    -----
    Weights are scaled and drawn as in nequip 0.19; its scales and shifts of energies are the potential's.
    """

    average_neighbours: Tensor

    learning_rate = 5e-3

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: Union[PositiveInt, List[PositiveInt]],
        n_interactions: PositiveInt,
        l_max: Literal[0, 1, 2, 3, 4],
        parity: bool,
        n_radial: PositiveInt,
        cutoff_power: PositiveInt,
        radial_hidden: List[PositiveInt],
        n_attributes: PositiveInt,
    ) -> None:
        width_of_rank = n_features if isinstance(n_features, list) else [n_features] * (l_max + 1)
        if len(width_of_rank) != l_max + 1:
            raise ConfigError(
                f"model.n_features={n_features}: give one number, or one for each rank from 0 to l_max={l_max}, "
                f"{l_max + 1} in all"
            )
        super().__init__(elements, cutoff, [width_of_rank[0]], counts_neighbours=True)
        self.l_max = l_max
        self.embedding = nn.Embedding(len(elements), n_attributes)
        self.blocks = nn.ModuleList()

        def radial(n_out: int) -> RadialFunctions:
            basis = (cutoff, n_radial, cutoff_power, 2.0 / cutoff)
            return RadialFunctions(*basis, list(radial_hidden), n_out, gain=math.sqrt(2), uniform=True)

        scalar = TensorType(0, 1)
        self.hidden_types = hidden = all_types(l_max) if parity else true_types(l_max)
        types, widths = [scalar], [n_attributes]
        for block, types_out in enumerate(types_of_layers(types, l_max, hidden, [scalar], n_interactions)):
            widths_out = [width_of_rank[each.rank] for each in types_out]
            n_own = n_attributes if block > 0 else 0
            self.blocks.append(InteractionBlock(types, widths, types_out, widths_out, radial, l_max, n_own))
            types, widths = types_out, widths_out

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the scalars of the last block."""
        return [self.tensors(graph)[-1][0].squeeze(1)]

    def tensors(self, graph: Graph) -> List[List[Tensor]]:
        """Return the tensors after each block, [[(n_atoms, 2 l + 1, width)]]."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        values = harmonics(graph.pair_vectors / distance[:, None], self.l_max)
        factor = torch.rsqrt(self.average_neighbours)
        attributes = self.embedding.weight
        tensors = [attributes.index_select(0, graph.species)[:, None]]
        found: List[List[Tensor]] = []
        for block in self.blocks:
            tensors = block(tensors, graph.species, attributes, distance, values, graph.pair_i, graph.pair_j, factor)
            found.append(tensors)
        return found
