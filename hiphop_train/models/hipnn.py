"""HIP-NN: hierarchically interacting particle neural network.

Lubbers, Smith, Barros, J. Chem. Phys. 148, 241715 (2018).
"""

from typing import List

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from hiphop_train.models.backbone import HIPBackbone, HIPInteraction
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity


class Interaction(HIPInteraction):
    """Radial convolution, a_i = sum_j sum_nu s_nu(r_ij) V_nu z_j + W z_i + b (eq. 5)."""

    def scalars(self, environment: Tensor) -> Tensor:
        """Return A^0 (n_atoms, n_out) of A (n_atoms, 1, n_out)."""
        return environment.squeeze(1)


class HIPNN(HIPBackbone):
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
        def interaction(n_in: int) -> Interaction:
            sensitivity = InverseGaussianSensitivity(n_sensitivities, soft_min, soft_max, cutoff)
            return Interaction(n_in, n_features, sensitivity)

        super().__init__(elements, cutoff, n_features, n_interactions, n_atom_layers, 0, n_sensitivities, interaction)
