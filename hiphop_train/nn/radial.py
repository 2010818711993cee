"""Radial bases and functions of the equivariant models."""

import math
from itertools import pairwise
from typing import List

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.scaled import ScaledNetwork


def sine_functions(distance: Tensor, cutoff: float, n_functions: int) -> Tensor:
    """Return sin(n pi r / r_c), n = 1, 2 ... (n_pairs, n_functions), for distances (n_pairs,), Angstrom."""
    orders = torch.arange(1, n_functions + 1, dtype=distance.dtype, device=distance.device)
    return torch.sin(distance[:, None] * (math.pi / cutoff * orders))


def bessel_functions(distance: Tensor, cutoff: float, n_functions: int) -> Tensor:
    """Return the spherical Bessel functions sin(n pi r / r_c) / r of order 0 that vanish at the cutoff.

    Klicpera, Gross, Guennemann, arXiv 2003.03123, eq. 7, without its factor sqrt(2 / r_c).

    Parameters
    ----------
    distance : (n_pairs,) Angstrom
    cutoff : r_c, Angstrom
    n_functions : highest n

    Returns
    -------
    functions : (n_pairs, n_functions), 1/Angstrom
    """
    return sine_functions(distance, cutoff, n_functions) / distance[:, None]


def polynomial_cutoff(distance: Tensor, cutoff: float, power: int) -> Tensor:
    """Return 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), x = r / r_c; zero beyond the cutoff.

    Its first two derivatives vanish there (arXiv 2003.03123, eq. 8).

    Parameters
    ----------
    distance : any shape, Angstrom
    cutoff : r_c, Angstrom
    power : p
    """
    p = float(power)
    x = distance / cutoff
    inner = (p + 1.0) * (p + 2.0) / 2.0 - x * (p * (p + 2.0) - x * (p * (p + 1.0) / 2.0))
    return (1.0 - x.pow(power) * inner) * (x < 1.0).to(x.dtype)


class RadialFunctions(nn.Module):
    """Learned functions of the distance, a network of Bessel functions times a polynomial cutoff.

    Parameters
    ----------
    cutoff : r_c, Angstrom
    n_radial : number of Bessel functions
    cutoff_power : p of the polynomial cutoff
    factor : of the basis, Angstrom
    hidden : widths of the hidden layers
    n_out : number of functions
    gain, uniform : see `ScaledNetwork`
    """

    def __init__(
        self,
        cutoff: float,
        n_radial: int,
        cutoff_power: int,
        factor: float,
        hidden: List[int],
        n_out: int,
        gain: float,
        uniform: bool = False,
    ) -> None:
        super().__init__()
        self.cutoff, self.n_radial, self.cutoff_power, self.factor = cutoff, n_radial, cutoff_power, factor
        self.n_out = n_out
        self.regular_from = 0.01 * cutoff  # the basis divides by the distance
        self.network = ScaledNetwork(n_radial, hidden, n_out, gain, uniform)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances (n_pairs,), Angstrom: (n_pairs, n_out)."""
        cutoff = self.factor * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)
        functions: Tensor = self.network(bessel_functions(distance, self.cutoff, self.n_radial) * cutoff[:, None])
        return functions


class ExponentialFunctions(nn.Module):
    """Learned functions of the distance, a network of Gaussians in exp(-5 r / r_c), times a cutoff.

    e_k(r) = f_c(r) exp(-beta (exp(-5 r / r_c) - mu_k)^2) with the cosine cutoff f_c and evenly spaced mu_k (Unke,
    Meuwly, arXiv 1902.08408, eq. 7; as in torchmd-net).

    Parameters
    ----------
    cutoff : r_c, Angstrom
    n_radial : number of Gaussians
    widths : of the layers of the network, the last that of the functions
    is_linear : whether there is neither an activation (silu) after each layer nor a cutoff function after the last
    """

    means: Tensor
    betas: Tensor

    def __init__(self, cutoff: float, n_radial: int, widths: List[int], is_linear: bool) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_out = widths[-1]
        self.regular_from = 0.0
        self.is_linear = is_linear
        lowest = math.exp(-cutoff)
        self.register_buffer("means", torch.linspace(lowest, 1.0, n_radial, dtype=torch.float64))
        betas = torch.full((n_radial,), (2.0 / n_radial * (1.0 - lowest)) ** -2, dtype=torch.float64)
        self.register_buffer("betas", betas)
        sizes = [n_radial, *widths]
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(sizes))

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances (n_pairs,), Angstrom: (n_pairs, n_out)."""
        cutoff = cosine_cutoff(distance, self.cutoff)[:, None]
        decay = torch.exp(-5.0 / self.cutoff * distance)[:, None]
        functions = cutoff * gaussian(self.betas * (decay - self.means).square())
        for layer in self.layers:
            functions = layer(functions)
            if not self.is_linear:
                functions = silu(functions)
        return functions if self.is_linear else functions * cutoff
