"""NewtonNet: Newtonian message passing, with latent forces and displacements of the atoms.

Haghighatlari, Li, Guan, Zhang, Das, Stein, Heidar-Zadeh, Liu, Head-Gordon, Bertels, Hao, Leven, Head-Gordon, Digital
Discovery 1, 333 (2022); details as in the library newtonnet 1.1.1, which is the paper's architecture.
"""

from typing import List

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.linear import glorot_linear
from hiphop_train.nn.radial import polynomial_cutoff, sine_functions
from hiphop_train.types import Graph


def _network(n_features: int, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        glorot_linear(n_features, n_features, bias), nn.SiLU(), glorot_linear(n_features, n_features, bias)
    )


class Layer(nn.Module):
    """Symmetric messages, which exert latent forces, which displace the atoms, which changes their energy.

    With m_ij = phi_a(a_i) phi_a(a_j) (W e(r_ij) + b) f_c(r_ij) (Digital Discovery 1, 333, eqs. 3 to 10):

    a_i <- a_i + sum_j m_ij;  F_i = sum_j phi_F(m_ij) phi_f(m_ij) r_ij / |r_ij|;  f_i <- f_i + F_i;
    d_i <- d_i + phi_r(a_i) F_i + sum_j phi_r'(m_ij) d_j;  a_i <- a_i - phi_u(a_i) f_i . d_i

    Parameters
    ----------
    n_features, n_radial : widths of the features and of the expanded distance
    is_first : whether displacements are zero before
    """

    def __init__(self, n_features: int, n_radial: int, is_first: bool) -> None:
        super().__init__()
        self.radial = glorot_linear(n_radial, n_features)  # W, b
        self.features = _network(n_features)  # phi_a
        self.size = glorot_linear(n_features, 1, bias=False)  # phi_F, the size of a force
        self.latent = _network(n_features)  # phi_f
        self.displacement = _network(n_features)  # phi_r
        with torch.no_grad():
            next(self.displacement.parameters()).mul_(0.001)  # displacements start small
        self.carried = nn.ModuleList([] if is_first else [_network(n_features, bias=False)])  # phi_r'
        self.energy = _network(n_features)  # phi_u

    def forward(
        self,
        features: Tensor,
        forces: Tensor,
        displacements: Tensor,
        expansion: Tensor,
        cutoff: Tensor,
        unit: Tensor,
        pair_i: Tensor,
        pair_j: Tensor,
    ) -> List[Tensor]:
        """Interact.

        Parameters
        ----------
        features : (n_atoms, n_features), a
        forces, displacements : (n_atoms, 3, n_features), f and d
        expansion : (n_pairs, n_radial), e
        cutoff : (n_pairs, 1), f_c
        unit : (n_pairs, 3)
        pair_i, pair_j : (n_pairs,) receiving and sending atom

        Returns
        -------
        features, forces, displacements : list of the three
        """
        n_atoms = features.shape[0]
        sources = self.features(features)
        filters = self.radial(expansion) * cutoff
        messages = filters * sources.index_select(0, pair_j) * sources.index_select(0, pair_i)
        features = features + segment_sum(messages, pair_i, n_atoms)
        pull = self.size(messages) * self.latent(messages)  # (n_pairs, n_features)
        force = segment_sum(unit[:, :, None] * pull[:, None], pair_i, n_atoms)  # F
        change = self.displacement(features)[:, None] * force
        for carried in self.carried:
            moved = carried(messages)[:, None] * displacements.index_select(0, pair_j)
            change = change + segment_sum(moved, pair_i, n_atoms)
        forces, displacements = forces + force, displacements + change
        work = (forces * displacements).sum(1)
        return [features - self.energy(features) * work, forces, displacements]


class NewtonNet(Representation):
    """Features of the atoms, with latent forces and displacements as vectors.

    Parameters
    ----------
    elements : type names
    cutoff : Angstrom
    n_features : width of the features, and of the latent vectors
    n_interactions : layers
    n_radial : functions in which distances are expanded, sin(n pi r / r_c)
    cutoff_power : p of the polynomial cutoff

    Notes
    -----
    The paper also trains the direction of the sum of phi_F(m_ij) r_ij / |r_ij| towards the forces, by a term of the
    loss; that term is not here.
    """

    learning_rate = 1e-3

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_features: PositiveInt,
        n_interactions: PositiveInt,
        n_radial: PositiveInt,
        cutoff_power: PositiveInt,
    ) -> None:
        super().__init__(elements, cutoff, [n_features])
        self.n_radial, self.cutoff_power = n_radial, cutoff_power
        self.embedding = nn.Embedding(len(elements), n_features)
        self.layers = nn.ModuleList(Layer(n_features, n_radial, layer == 0) for layer in range(n_interactions))

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the features of the last layer."""
        return [self.states(graph)[-1][0]]

    def states(self, graph: Graph) -> List[List[Tensor]]:
        """Return features (n_atoms, n_features), forces and displacements (n_atoms, 3, n_features) of each layer."""
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        unit = graph.pair_vectors / distance[:, None]
        expansion = sine_functions(distance, self.cutoff, self.n_radial)
        cutoff = polynomial_cutoff(distance, self.cutoff, self.cutoff_power)[:, None]
        features = self.embedding(graph.species)
        zero = torch.zeros_like(features)[:, None].expand(-1, 3, -1)
        state = [features, zero, zero]
        found: List[List[Tensor]] = []
        for layer in self.layers:
            state = layer(state[0], state[1], state[2], expansion, cutoff, unit, graph.pair_i, graph.pair_j)
            found.append(state)
        return found
