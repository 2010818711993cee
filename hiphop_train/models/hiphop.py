"""HIP-HOP-NN: hierarchically interacting particle neural network with higher-order polynomial invariants.

arXiv 2503.23515 (2025).
"""

from typing import List, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from hiphop_train.models.backbone import HIPBackbone, HIPInteraction
from hiphop_train.nn.invariants import Invariants, InvariantSet
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity


class GroupNorm(nn.Module):
    """Normalise each invariant over an atom's features, then scale and shift it.

    Parameters
    ----------
    n_invariants, n_features : numbers of invariants and of features
    """

    def __init__(self, n_invariants: int, n_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n_invariants, n_features))
        self.bias = nn.Parameter(torch.zeros(n_invariants, n_features))

    def forward(self, invariants: Tensor) -> Tensor:
        """Normalise (n_atoms, n_invariants, n_features) along the last axis."""
        return torch.addcmul(self.bias, layer_norm(invariants, invariants.shape[-1:], eps=1e-5), self.weight)


class Interaction(HIPInteraction):
    """Polynomial invariants of the environments, group norm and mixing: a_i = M norm(invariants(A_i)) + W z_i + b.

    Parameters
    ----------
    n_in, n_out, sensitivity : see `HIPInteraction`
    invariants : of the environments
    group_norm : whether each invariant is normalised over an atom's features
    """

    def __init__(
        self, n_in: int, n_out: int, sensitivity: InverseGaussianSensitivity, invariants: Invariants, group_norm: bool
    ) -> None:
        super().__init__(n_in, n_out, sensitivity)
        n_invariants = invariants.n_invariants
        self.invariants = invariants
        self.norm = GroupNorm(n_invariants, n_out) if group_norm else nn.Identity()
        self.mixing = nn.Parameter(torch.empty(n_invariants, n_out, n_out))  # M
        self._modules["residual"] = self._modules.pop("residual")  # after the norm: optimizer states use this order
        nn.init.normal_(self.mixing, std=(2.0 / (n_out * (n_invariants + n_out))) ** 0.5)

    def scalars(self, environment: Tensor) -> Tensor:
        """Return M norm(invariants(A)) (n_atoms, n_out) of A (n_atoms, (l_max + 1)^2, n_out)."""
        return self.normalised_invariants(environment).flatten(1) @ self.mixing.flatten(0, 1)

    def normalised_invariants(self, environment: Tensor) -> Tensor:
        """Return norm(invariants(A)) (n_atoms, n_invariants, n_out)."""
        invariants = self.invariants(environment.transpose(0, 1))
        normalised: Tensor = self.norm(invariants.transpose(0, 1))
        return normalised


class HIPHOP(HIPBackbone):
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
        tensors vanish; the search is tested, and fast enough, up to the limits of l_max and n_max
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
        def interaction(n_in: int) -> Interaction:
            sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
            return Interaction(n_in, n_features, sensitivity, Invariants(invariants, l_max, n_max), group_norm)

        super().__init__(
            elements, cutoff, n_features, n_interactions, n_atom_layers, l_max, n_sensitivities, interaction
        )
