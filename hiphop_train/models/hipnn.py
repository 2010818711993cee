"""HIP-NN: hierarchically interacting particle neural network.

Lubbers, Smith, Barros, J. Chem. Phys. 148, 241715 (2018).
"""

from typing import List

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import one_hot

from hiphop_train.graph.segments import fill_table
from hiphop_train.models.base import Representation
from hiphop_train.nn.messages import PairTables, pair_tables, receive, send
from hiphop_train.nn.residual import AtomLayer, Residual
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.types import Graph


class Interaction(nn.Module):
    """Radial convolution of full rank, a_i = sum_j sum_nu s_nu(r_ij) V_nu z_j + W z_i + b (eq. 5), as a residual layer.

    Parameters
    ----------
    n_in, n_out : width of the features before and after
    n_sensitivities, soft_min, soft_max, cutoff : see `InverseGaussianSensitivity`
    """

    def __init__(
        self, n_in: int, n_out: int, n_sensitivities: int, soft_min: float, soft_max: float, cutoff: float
    ) -> None:
        super().__init__()
        self.sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
        self.weight = nn.Parameter(torch.empty(n_in, n_sensitivities, n_out))  # V
        self.self_interaction = nn.Linear(n_in, n_out)  # W, b
        self.residual = Residual(n_in, n_out, n_out)
        nn.init.normal_(self.weight, std=(2.0 / (n_in * (n_out + n_sensitivities))) ** 0.5)
        nn.init.xavier_normal_(self.self_interaction.weight)

    def forward(self, features: Tensor, distance: Tensor, present: Tensor, tables: PairTables) -> Tensor:
        """Interact.

        Parameters
        ----------
        features : (n_atoms, n_in)
        distance : (n_pairs,) Angstrom
        present : (n_atoms, receive_width, 1), 1 where a pair stands in the table
        tables : from `pair_tables`

        Returns
        -------
        features : (n_atoms, n_out)
        """
        sources = torch.tensordot(features, self.weight, dims=1)  # (n_atoms, n_sensitivities, n_out)
        messages = send(self.sensitivity(distance), sources, tables)
        environment = receive(present, messages).squeeze(1)  # (n_atoms, n_out)
        result: Tensor = self.residual(environment + self.self_interaction(features), features)
        return result


class HIPNN(Representation):
    """Hierarchically interacting particle neural network.

    Parameters
    ----------
    elements : type names
    cutoff : hard cutoff, Angstrom
    n_features : width of all levels after the first
    n_interactions : interaction layers, each followed by `n_atom_layers` atom layers; each adds a level
    n_atom_layers : atom layers after each interaction
    n_sensitivities : sensitivity functions
    soft_min, soft_max : centres of the first and the last sensitivity function before training, Angstrom
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        n_atom_layers: NonNegativeInt,
        n_sensitivities: PositiveInt,
        soft_min: PositiveFloat,
        soft_max: PositiveFloat,
    ) -> None:
        n_types = len(elements)
        super().__init__(elements, cutoff, [n_types] + [n_features] * n_interactions)
        self.n_types = n_types
        self.interactions = nn.ModuleList(
            Interaction(n_in, n_features, n_sensitivities, soft_min, soft_max, cutoff)
            for n_in in self.feature_sizes[:-1]
        )
        self.atom_layers = nn.ModuleList(
            nn.Sequential(*(AtomLayer(n_features) for _ in range(n_atom_layers))) for _ in range(n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return one-hot species and the features after each interaction block."""
        tables = pair_tables(graph.pair_i, graph.pair_j, graph.species.shape[0])
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        present = fill_table(
            torch.ones_like(distance)[:, None], tables.receive_slot, tables.n_atoms, tables.receive_width
        )
        features = one_hot(graph.species, self.n_types).to(distance.dtype)
        levels = [features]
        for interaction, atom_layers in zip(self.interactions, self.atom_layers):
            features = atom_layers(interaction(features, distance, present, tables))
            levels.append(features)
        return levels
