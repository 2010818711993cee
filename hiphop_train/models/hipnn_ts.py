"""HIP-NN-TS: HIP-NN with tensor sensitivities, which resolve the directions of the neighbours.

Chigaev, Smith, Anaya, Nebgen, Bettencourt, Barros, Lubbers, J. Chem. Phys. 158, 184108 (2023).
"""

from typing import List, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.models.backbone import HIPBackbone, HIPInteraction
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity


class Interaction(HIPInteraction):
    """Scalar, vector and quadrupole environments; the latter two enter through their norms.

    a_i = A_i^0 + sum_(l >= 1) t_l |A_i^l| + W z_i + b

    Parameters
    ----------
    n_in, n_out, sensitivity : see `HIPInteraction`
    l_max : highest rank of the tensors, 1 or 2
    cusp : added under the root of the norms, whose slope would diverge at zero
    """

    def __init__(self, n_in: int, n_out: int, sensitivity: InverseGaussianSensitivity, l_max: int, cusp: float) -> None:
        norm_scale = torch.randn(l_max, n_out)  # drawn first, to keep the weights of a given seed
        super().__init__(n_in, n_out, sensitivity)
        self.l_max = l_max
        self.cusp = cusp
        self.norm_scale = nn.Parameter(norm_scale)  # t

    def scalars(self, environment: Tensor) -> Tensor:
        """Return A^0 + t_1 |A^1| + t_2 |A^2| (n_atoms, n_out) of A (n_atoms, (l_max + 1)^2, n_out)."""
        vector = environment[:, 1:4].square().sum(1)
        scalars = environment[:, 0] + self.norm_scale[0] * torch.sqrt(vector + self.cusp)
        if self.l_max == 2:
            free = environment[:, 4:9]  # xx xy xz yy yz; zz = -xx - yy, so |Q|^2 is
            quadrupole = 2.0 * (free.square().sum(1) + free[:, 0] * free[:, 3])
            scalars = scalars + self.norm_scale[1] * torch.sqrt(quadrupole + self.cusp)
        return scalars


class HIPNNTS(HIPBackbone):
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
        def interaction(n_in: int) -> Interaction:
            sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
            return Interaction(n_in, n_features, sensitivity, l_max, cusp)

        super().__init__(
            elements, cutoff, n_features, n_interactions, n_atom_layers, l_max, n_sensitivities, interaction
        )
