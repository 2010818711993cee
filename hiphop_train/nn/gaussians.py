"""Distances spread over a grid of Gaussians."""

import torch
from torch import Tensor


def gaussian_expansion(distance: Tensor, first: float, last: float, n_gaussians: int) -> Tensor:
    """Expand distances in Gaussians at even centres, as wide as they are apart.

    g_k(r) = exp(-(r - mu_k)^2 / (2 sigma^2)), sigma = mu_(k+1) - mu_k (Nat. Commun. 8, 13890, Methods)

    Parameters
    ----------
    distance : (n_pairs,) Angstrom
    first, last : centres of the first and the last Gaussian, Angstrom
    n_gaussians : at least 2

    Returns
    -------
    expansion : (n_pairs, n_gaussians)
    """
    centres = torch.linspace(first, last, n_gaussians, dtype=distance.dtype, device=distance.device)
    width = (last - first) / (n_gaussians - 1)
    return torch.exp(-0.5 * ((distance[:, None] - centres) / width).square())
