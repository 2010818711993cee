"""Sensitivity functions: the radial weights of HIP-NN's messages."""

import torch
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian


class InverseGaussianSensitivity(nn.Module):
    """Gaussians in the inverse distance with learnable centres and widths (JCP 148, 241715, eqs. 6 to 8).

    s_nu(r) = exp(-(1/r - 1/mu_nu)^2 / (2 sigma_nu^-2)) cos^2(pi r / 2 r_c)

    Parameters
    ----------
    n_sensitivities : number of functions
    soft_min, soft_max : first and last centre before training, Angstrom; the centres are evenly spaced in 1/r
    cutoff : Angstrom
    """

    def __init__(self, n_sensitivities: int, soft_min: float, soft_max: float, cutoff: float) -> None:
        super().__init__()
        if not soft_min < soft_max <= cutoff:
            raise ConfigError(
                f"model.soft_min={soft_min}, model.soft_max={soft_max}, model.cutoff={cutoff}: "
                "must satisfy soft_min < soft_max <= cutoff"
            )
        self.cutoff = cutoff
        self.centre = nn.Parameter(1.0 / torch.linspace(1.0 / soft_max, 1.0 / soft_min, n_sensitivities))
        self.inverse_width = nn.Parameter(torch.full((n_sensitivities,), 2.0 * soft_min * n_sensitivities))

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate all functions.

        Parameters
        ----------
        distance : (n_pairs,) Angstrom

        Returns
        -------
        sensitivity : (n_pairs, n_sensitivities)
        """
        offset = (1.0 / distance[:, None] - 1.0 / self.centre) * self.inverse_width
        return gaussian(0.5 * offset.square()) * cosine_cutoff(distance, self.cutoff)[:, None]
