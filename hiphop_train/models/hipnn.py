"""HIP-NN: hierarchically interacting particle neural network.

Lubbers, Smith, Barros, J. Chem. Phys. 148, 241715 (2018).
"""

from functools import partial
from typing import List

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import one_hot

from hiphop_train.models.base import Representation
from hiphop_train.nn.messages import convolve, distances, in_order_of_atoms
from hiphop_train.nn.pairs import PairLayout, Pairs, with_layout
from hiphop_train.nn.residual import AtomLayer, Residual
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.types import Graph


class Interaction(nn.Module):
    """Radial convolution of full rank, a_i = sum_j sum_nu s_nu(r_ij) V_nu z_j + W z_i + b (eq. 5), as a residual layer.

    Parameters
    ----------
    n_in, n_out : width of the features before and after
    n_sensitivities, soft_min, soft_max, cutoff : see `InverseGaussianSensitivity`
    first : whether its features are the species, one-hot
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_sensitivities: int,
        soft_min: float,
        soft_max: float,
        cutoff: float,
        first: bool,
    ) -> None:
        super().__init__()
        self.first = first
        self.sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
        self.weight = nn.Parameter(torch.empty(n_in, n_sensitivities, n_out))  # V
        self.self_interaction = nn.Linear(n_in, n_out)  # W, b
        self.residual = Residual(n_in, n_out, n_out)
        nn.init.normal_(self.weight, std=(2.0 / (n_in * (n_out + n_sensitivities))) ** 0.5)
        nn.init.xavier_normal_(self.self_interaction.weight)

    def forward(self, features: Tensor, pairs: Pairs) -> Tensor:
        """Interact.

        Parameters
        ----------
        features : (n_atoms, n_in)
        pairs : from `PairLayout`

        Returns
        -------
        features : (n_atoms, n_out)
        """
        sensitivity = self.sensitivity(distances(pairs, self.first))
        environment = convolve(sensitivity, features, self.weight, pairs, self.first)
        summed = in_order_of_atoms(environment.squeeze(1), pairs)  # (n_atoms, n_out)
        result: Tensor = self.residual(summed + self.self_interaction(features), features)
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
        preparation = partial(with_layout, n_types=n_types, l_max=0, n_sensitivities=n_sensitivities)
        super().__init__(elements, cutoff, [n_types] + [n_features] * n_interactions, preparation=preparation)
        self.n_types = n_types
        self.lay_out = PairLayout(n_types, 0, n_sensitivities, n_features)
        self.interactions = nn.ModuleList(
            Interaction(n_in, n_features, n_sensitivities, soft_min, soft_max, cutoff, first=level == 0)
            for level, n_in in enumerate(self.feature_sizes[:-1])
        )
        self.atom_layers = nn.ModuleList(
            nn.Sequential(*(AtomLayer(n_features) for _ in range(n_atom_layers))) for _ in range(n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return one-hot species and the features after each interaction block."""
        pairs = self.lay_out(graph)
        features = one_hot(graph.species, self.n_types).to(graph.pair_vectors.dtype)
        levels = [features]
        for interaction, atom_layers in zip(self.interactions, self.atom_layers):
            features = atom_layers(interaction(features, pairs))
            levels.append(features)
        return levels
