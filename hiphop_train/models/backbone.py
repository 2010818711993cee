"""The backbone shared by HIP-NN, HIP-NN-TS and HIP-HOP-NN, which differ in the interaction.

Lubbers, Smith, Barros, J. Chem. Phys. 148, 241715 (2018), sections II A and II B.
"""

from abc import ABC, abstractmethod
from typing import Callable, List, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.residual import AtomLayer, Residual
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.nn.tensors import irreducible_tensors
from hiphop_train.types import Graph


class Neighbours(NamedTuple):
    """The pairs of a graph, with distances and tensors."""

    receiver: Tensor
    """(n_pairs,) int64, atom i."""
    sender: Tensor
    """(n_pairs,) int64, atom j."""
    distance: Tensor
    """(n_pairs,) Angstrom, r_ij."""
    tensors: Tensor
    """(n_pairs, (l_max + 1)^2), free components of T^l of the unit vectors, see `nn.tensors`."""


def neighbours_of(graph: Graph, l_max: int) -> Neighbours:
    """Return distances and tensors of all pairs."""
    distance = torch.linalg.norm(graph.pair_vectors, dim=1)
    tensors = irreducible_tensors(graph.pair_vectors / distance[:, None], l_max)
    return Neighbours(graph.pair_i, graph.pair_j, distance, tensors)


class HIPInteraction(nn.Module, ABC):
    """Interaction with the neighbours as a residual layer: z' = residual(a, z), a_i = scalars(A_i) + W z_i + b.

    The environment is A_i^l = sum_j sum_nu s_nu(r_ij) T^l(r_ij) V_nu z_j (for l = 0: JCP 148, 241715, eq. 5).

    Parameters
    ----------
    n_in, n_out : width of the features before and after
    sensitivity : the radial functions s_nu
    """

    def __init__(self, n_in: int, n_out: int, sensitivity: InverseGaussianSensitivity) -> None:
        super().__init__()
        n_sensitivities = sensitivity.centre.shape[0]
        self.sensitivity = sensitivity
        self.weight = nn.Parameter(torch.empty(n_in, n_sensitivities, n_out))  # V
        self.self_interaction = nn.Linear(n_in, n_out)  # W, b
        self.residual = Residual(n_in, n_out, n_out)
        nn.init.normal_(self.weight, std=(2.0 / (n_in * (n_out + n_sensitivities))) ** 0.5)
        nn.init.xavier_normal_(self.self_interaction.weight)

    @abstractmethod
    def scalars(self, environment: Tensor) -> Tensor:
        """Map environments (n_atoms, (l_max + 1)^2, n_out) to scalars (n_atoms, n_out)."""

    def environment(self, features: Tensor, pairs: Neighbours) -> Tensor:
        """Return A_i^l (n_atoms, (l_max + 1)^2, n_out) of features (n_atoms, n_in)."""
        sources = torch.tensordot(features, self.weight, dims=1)  # V_nu z_j, (n_atoms, n_sensitivities, n_out)
        sensitivity = self.sensitivity(pairs.distance)  # (n_pairs, n_sensitivities)
        messages = torch.einsum("ps,psf->pf", sensitivity, sources.index_select(0, pairs.sender))
        terms = pairs.tensors[:, :, None] * messages[:, None, :]  # (n_pairs, (l_max + 1)^2, n_out)
        return segment_sum(terms, pairs.receiver, features.shape[0])

    def forward(self, features: Tensor, pairs: Neighbours) -> Tensor:
        """Return features (n_atoms, n_out) of features (n_atoms, n_in)."""
        middle = self.scalars(self.environment(features, pairs)) + self.self_interaction(features)
        result: Tensor = self.residual(middle, features)
        return result


class HIPBackbone(Representation):
    """One-hot species, refined by blocks of one interaction and several on-site layers; each block adds a level.

    Parameters
    ----------
    elements : type names
    cutoff : hard cutoff, Angstrom
    n_features : width of all levels after the first
    n_interactions : number of blocks
    n_atom_layers : on-site layers in each block
    l_max : highest rank of the tensors in the environments
    n_sensitivities : number of radial functions
    interaction : builds the interaction of a block, given the width of its input
    """

    def __init__(
        self,
        elements: List[str],
        cutoff: float,
        n_features: int,
        n_interactions: int,
        n_atom_layers: int,
        l_max: int,
        n_sensitivities: int,
        interaction: Callable[[int], HIPInteraction],
    ) -> None:
        super().__init__(elements, cutoff, [len(elements)] + [n_features] * n_interactions)
        self.n_types = len(elements)
        self.l_max = l_max
        self.n_sensitivities = n_sensitivities
        self.interactions = nn.ModuleList(interaction(n_in) for n_in in self.feature_sizes[:-1])
        self.atom_layers = nn.ModuleList(
            nn.Sequential(*(AtomLayer(n_features) for _ in range(n_atom_layers))) for _ in range(n_interactions)
        )

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return one-hot species and the features after each block."""
        pairs = neighbours_of(graph, self.l_max)
        features = one_hot(graph.species, self.n_types).to(graph.pair_vectors.dtype)
        levels = [features]
        for interaction, atom_layers in zip(self.interactions, self.atom_layers):
            features = atom_layers(interaction(features, pairs))
            levels.append(features)
        return levels
