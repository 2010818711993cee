"""Cutoff functions shared by the models."""

import math

import torch
from torch import Tensor


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Return (1 + cos(pi r / r_c)) / 2 = cos^2(pi r / 2 r_c), zero beyond the cutoff, which it meets with zero slope.

    Behler, J. Chem. Phys. 134, 074106 (2011), eq. 4; J. Chem. Phys. 148, 241715 (2018), eq. 8. The square avoids the
    cancellation of the sum near the cutoff.

    Parameters
    ----------
    distance : any shape, Angstrom
    cutoff : Angstrom
    """
    return torch.cos(0.5 * math.pi / cutoff * distance).square() * (distance < cutoff).to(distance.dtype)
