"""Cutoff functions that several models use."""

import math

import torch
from torch import Tensor


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Fall from 1 to 0 with vanishing slope at the cutoff: (1 + cos(pi r / r_c)) / 2, zero beyond.

    Behler, J. Chem. Phys. 134, 074106 (2011), eq. 4.

    Parameters
    ----------
    distance : any shape, Angstrom
    cutoff : Angstrom
    """
    return (0.5 + 0.5 * torch.cos(math.pi / cutoff * distance)) * (distance < cutoff).to(distance.dtype)
