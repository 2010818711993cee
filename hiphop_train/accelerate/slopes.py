"""Analytic slopes of the radial functions in `nn`."""

import math
from typing import Tuple

import torch
from torch import Tensor

from hiphop_train.nn.gaussians import gaussian, gaussian_offsets


def cosine_cutoff_slope(distance: Tensor, cutoff: float) -> Tensor:
    """Return the slope of `nn.cutoffs.cosine_cutoff`, 1/Angstrom."""
    wave = math.pi / cutoff
    return -0.5 * wave * torch.sin(wave * distance) * (distance < cutoff).to(distance.dtype)


def gaussian_expansion_with_slope(
    distance: Tensor, first: float, last: float, n_gaussians: int
) -> Tuple[Tensor, Tensor]:
    """Return `nn.gaussians.gaussian_expansion` and its slope, 1/Angstrom, (n_pairs, n_gaussians) each."""
    offsets = gaussian_offsets(distance, first, last, n_gaussians)
    expansion = gaussian(0.5 * offsets.square())
    return expansion, expansion * offsets * (-(n_gaussians - 1) / (last - first))
