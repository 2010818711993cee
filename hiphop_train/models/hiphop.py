"""HIP-HOP-NN: hierarchically interacting particle neural network with higher-order polynomial invariants.

arXiv 2503.23515 (2025).
"""

from functools import partial
from typing import List, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import one_hot

from hiphop_train.models.base import Representation
from hiphop_train.nn.blocks import in_blocks
from hiphop_train.nn.invariants import Invariants, InvariantSet
from hiphop_train.nn.messages import convolve, distances, in_order_of_atoms
from hiphop_train.nn.normalisation import Normalisation
from hiphop_train.nn.pairs import PairLayout, Pairs, with_layout
from hiphop_train.nn.residual import AtomLayer, Residual
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.types import Graph

ATOMS_AT_A_TIME = 256
"""Whose invariants, and what lies between, stay in a processor's cache."""


class GroupNorm(nn.Module):
    """Normalise each invariant over an atom's features, then scale and shift it.

    Parameters
    ----------
    n_invariants, n_features : shape of what is normalised
    """

    def __init__(self, n_invariants: int, n_features: int) -> None:
        super().__init__()
        self.normalise = Normalisation()
        self.weight = nn.Parameter(torch.ones(n_invariants, n_features))
        self.bias = nn.Parameter(torch.zeros(n_invariants, n_features))

    def forward(self, invariants: Tensor) -> Tensor:
        """Normalise (n_atoms, n_invariants, n_features)."""
        return torch.addcmul(self.bias, self.normalise(invariants), self.weight)


class Interaction(nn.Module):
    """Tensor-valued convolution, its polynomial invariants, group norm and mixing, as a residual layer.

    A_i^l = sum_j sum_nu s_nu(r_ij) T^l(r_ij) V_nu z_j;  a_i = M norm(invariants(A_i)) + W z_i + b

    Parameters
    ----------
    n_in, n_out : width of the features before and after
    n_sensitivities, soft_min, soft_max, cutoff : see `InverseGaussianSensitivity`
    l_max : highest rank of the tensors
    n_max : highest order of the invariants
    invariants : which of them, see `nn.invariants`
    group_norm : whether each invariant is normalised over an atom's features
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
        n_max: int,
        invariants: InvariantSet,
        group_norm: bool,
        first: bool,
    ) -> None:
        super().__init__()
        self.first = first
        self.invariants = Invariants(invariants, l_max, n_max)
        n_invariants = self.invariants.n_invariants
        self.sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
        self.weight = nn.Parameter(torch.empty(n_in, n_sensitivities, n_out))  # V
        self.self_interaction = nn.Linear(n_in, n_out)  # W, b
        self.norm = GroupNorm(n_invariants, n_out) if group_norm else nn.Identity()
        self.mixing = nn.Parameter(torch.empty(n_invariants, n_out, n_out))  # M
        self.residual = Residual(n_in, n_out, n_out)
        nn.init.normal_(self.weight, std=(2.0 / (n_in * (n_out + n_sensitivities))) ** 0.5)
        nn.init.xavier_normal_(self.self_interaction.weight)
        nn.init.normal_(self.mixing, std=(2.0 / (n_out * (n_invariants + n_out))) ** 0.5)

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
        scripting = torch.jit.is_scripting()  # type: ignore[attr-defined]
        scalars = self.normal_invariants(environment) if scripting else self.in_blocks(environment)
        mixed = in_order_of_atoms(scalars.flatten(1) @ self.mixing.flatten(0, 1), pairs)
        result: Tensor = self.residual(mixed + self.self_interaction(features), features)
        return result

    def normal_invariants(self, environment: Tensor) -> Tensor:
        """Turn environments (n_atoms, (l_max + 1)^2, n_out) into invariants (n_atoms, n_invariants, n_out)."""
        scalars = self.invariants(environment.transpose(0, 1))
        normal: Tensor = self.norm(scalars.transpose(0, 1))
        return normal

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def in_blocks(self, environment: Tensor) -> Tensor:
        """Do as `normal_invariants` for some atoms at a time, which stay in the processor's cache."""
        return in_blocks(self.normal_invariants, [environment], ATOMS_AT_A_TIME, list(self.norm.parameters()))


class HIPHOP(Representation):
    """Hierarchically interacting particle neural network with higher-order polynomial invariants.

    Parameters
    ----------
    elements : type names
    cutoff : hard cutoff, Angstrom
    n_features : width of all levels after the first
    n_interactions : interaction layers, each followed by `n_atom_layers` atom layers; each adds a level
    n_atom_layers : atom layers after each interaction
    n_sensitivities : sensitivity functions
    soft_min, soft_max : centres of the first and the last sensitivity function before training, Angstrom
    l_max : highest rank of the Cartesian tensors
    n_max : highest order of the invariant polynomials; an atom sees up to n_max + 1 bodies at once
    invariants : "published", up to l_max 3 and n_max 4, or "flexible", from a search for any order, also complete where
        tensors vanish; the limits of l_max and n_max are those of what the search was tried on, and of patience
    group_norm : whether each invariant is normalised over an atom's features
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
        l_max: Literal[0, 1, 2, 3, 4, 5],
        n_max: Literal[1, 2, 3, 4, 5],
        invariants: InvariantSet = "published",
        group_norm: bool = True,
    ) -> None:
        n_types = len(elements)
        preparation = partial(with_layout, n_types=n_types, l_max=l_max, n_sensitivities=n_sensitivities)
        super().__init__(elements, cutoff, [n_types] + [n_features] * n_interactions, preparation=preparation)
        self.n_types = n_types
        common = (n_features, n_sensitivities, soft_min, soft_max, cutoff, l_max, n_max, invariants, group_norm)
        self.lay_out = PairLayout(n_types, l_max, n_sensitivities, n_features)
        self.interactions = nn.ModuleList(
            Interaction(n_in, *common, first=level == 0) for level, n_in in enumerate(self.feature_sizes[:-1])
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
