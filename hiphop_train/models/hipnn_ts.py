"""HIP-NN-TS: HIP-NN with tensor sensitivities, which hear in which direction a neighbour stands.

Chigaev, Smith, Anaya, Nebgen, Bettencourt, Barros, Lubbers, J. Chem. Phys. 158, 184108 (2023).
"""

from functools import partial
from typing import List, Literal

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
    """Scalar, vector and quadrupole environments, of which the latter two enter by their norms, as a residual layer.

    A_i^l = sum_j sum_nu s_nu(r_ij) T^l(r_ij) V_nu z_j;  a_i = A_i^0 + sum_(l >= 1) t_l |A_i^l| + W z_i + b

    Parameters
    ----------
    n_in, n_out : width of the features before and after
    n_sensitivities, soft_min, soft_max, cutoff : see `InverseGaussianSensitivity`
    l_max : highest rank of the tensors, 1 or 2
    cusp : added under the root of the norms, whose slope is infinite at zero
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
        l_max: int,
        cusp: float,
        first: bool,
    ) -> None:
        super().__init__()
        self.l_max = l_max
        self.first = first
        self.cusp = cusp
        self.sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
        self.weight = nn.Parameter(torch.empty(n_in, n_sensitivities, n_out))  # V
        self.norm_scale = nn.Parameter(torch.randn(l_max, n_out))  # t
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
        vector = environment[:, 1:4].square().sum(1)
        heard = environment[:, 0] + self.norm_scale[0] * torch.sqrt(vector + self.cusp)
        if self.l_max == 2:
            free = environment[:, 4:9]  # xx xy xz yy yz; zz = -xx - yy, so that |Q|^2 is
            quadrupole = 2.0 * (free.square().sum(1) + free[:, 0] * free[:, 3])
            heard = heard + self.norm_scale[1] * torch.sqrt(quadrupole + self.cusp)
        middle = in_order_of_atoms(heard, pairs) + self.self_interaction(features)
        result: Tensor = self.residual(middle, features)
        return result


class HIPNNTS(Representation):
    """Hierarchically interacting particle neural network with tensor sensitivities.

    Parameters
    ----------
    elements : type names
    cutoff : hard cutoff, Angstrom
    n_features : width of all levels after the first
    n_interactions : interaction layers, each followed by `n_atom_layers` atom layers; each adds a level
    n_atom_layers : atom layers after each interaction
    n_sensitivities : sensitivity functions
    soft_min, soft_max : centres of the first and the last sensitivity function before training, Angstrom
    l_max : highest rank of the tensors: 1 (vectors) or 2 (vectors and quadrupoles)
    cusp : added under the root of the tensors' norms
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
        l_max: Literal[1, 2],
        cusp: PositiveFloat = 1e-6,
    ) -> None:
        n_types = len(elements)
        preparation = partial(with_layout, n_types=n_types, l_max=l_max, n_sensitivities=n_sensitivities)
        super().__init__(elements, cutoff, [n_types] + [n_features] * n_interactions, preparation=preparation)
        self.n_types = n_types
        self.lay_out = PairLayout(n_types, l_max, n_sensitivities, n_features)
        self.interactions = nn.ModuleList(
            Interaction(n_in, n_features, n_sensitivities, soft_min, soft_max, cutoff, l_max, cusp, first=level == 0)
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
