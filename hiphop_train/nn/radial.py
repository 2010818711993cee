"""Radial bases and functions of the equivariant models."""

import math
from typing import List

import torch
from torch import Tensor, nn

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
        self.network = ScaledNetwork(n_radial, hidden, n_out, gain, uniform)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate at distances (n_pairs,), Angstrom: (n_pairs, n_out)."""
        cutoff = self.factor * polynomial_cutoff(distance, self.cutoff, self.cutoff_power)
        functions: Tensor = self.network(bessel_functions(distance, self.cutoff, self.n_radial) * cutoff[:, None])
        return functions
