"""Sensitivity functions: how strongly an atom hears another, by distance."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from hiphop_train.errors import ConfigError
from hiphop_train.nn.blocks import PAIRS, blocks
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.kernels import IN_VECTORS, Compilable, Compiled, call, compile_library
from hiphop_train.nn.sensitivity_source import source


def squared_cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """Fall from 1 to 0 with vanishing slope at the cutoff: cos^2(pi r / 2 r_c) (JCP 148, 241715, eq. 8).

    Parameters
    ----------
    distance : (n_pairs,) Angstrom
    cutoff : Angstrom
    """
    return torch.cos(0.5 * math.pi / cutoff * distance).square() * (distance < cutoff).to(distance.dtype)


class InverseGaussianSensitivity(Compilable):
    """Gaussians in the inverse distance with learnable centres and widths (JCP 148, 241715, eqs. 6 to 8).

    s_nu(r) = exp(-(1/r - 1/mu_nu)^2 / (2 sigma_nu^-2)) cos^2(pi r / 2 r_c)

    Parameters
    ----------
    n_sensitivities : number of functions
    soft_min, soft_max : first and last centre before training, Angstrom; the centres are even in 1/r
    cutoff : Angstrom
    """

    def __init__(self, n_sensitivities: int, soft_min: float, soft_max: float, cutoff: float) -> None:
        super().__init__()
        if not soft_min < soft_max <= cutoff:
            raise ConfigError(
                f"model.soft_min={soft_min}, model.soft_max={soft_max}, model.cutoff={cutoff}: "
                "it must be soft_min < soft_max <= cutoff"
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
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return self.evaluate(distance)
        sensitivity: Tensor = self.evaluate_in_blocks(distance)
        return sensitivity

    def evaluate(self, distance: Tensor) -> Tensor:
        """Evaluate all functions at once."""
        offset = (1.0 / distance[:, None] - 1.0 / self.centre) * self.inverse_width
        return gaussian(0.5 * offset.square()) * squared_cosine_cutoff(distance, self.cutoff)[:, None]

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def evaluate_in_blocks(self, distance: Tensor) -> Tensor:
        """Evaluate for some pairs at a time where the weights are frozen, with a cheaper derivative."""
        if self.centre.requires_grad or self.inverse_width.requires_grad:
            return self.evaluate(distance)
        sensitivity: Tensor = _OfFrozen.apply(distance, self)  # type: ignore[no-untyped-call]
        return sensitivity

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def compile_for(self, dtype: torch.dtype) -> bool:
        """Compile the functions and their derivative for frozen weights."""
        library, is_new = compile_library(source(len(self.centre), dtype), dtype, IN_VECTORS)
        self.kernels = Compiled(library, dtype)
        return is_new

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def call_kernel(self, name: str, distance: Tensor, *tensors: Tensor) -> bool:
        """Call a compiled function with distances and weights; returns whether there is one."""
        if self.kernels is None or not self.kernels.serve(distance):
            return False
        given = (distance, (1.0 / self.centre), self.inverse_width, *tensors)
        call(str(self.kernels.library), name, *given, len(distance), float(self.cutoff))
        return True


class _OfFrozen(Function):
    """Sensitivities as functions of the distance alone.

    With G the gradient that arrives, P = G s and o = (1/r - 1/mu_nu) / sigma_nu^-1, the derivative is
    sum_nu P o / (sigma_nu^-1 r^2) - (pi / r_c) tan(pi r / 2 r_c) sum_nu P, with s kept: no exponentials again.
    """

    @staticmethod
    def forward(ctx: Any, distance: Tensor, functions: InverseGaussianSensitivity) -> Tensor:
        sensitivity = distance.new_empty((len(distance), len(functions.centre)))
        if not functions.call_kernel("sensitivities", distance.contiguous(), sensitivity):
            for rows in blocks(len(distance), PAIRS):
                sensitivity[rows] = functions.evaluate(distance[rows])
        ctx.save_for_backward(distance, sensitivity)
        ctx.functions = functions
        return sensitivity

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        distance, sensitivity = ctx.saved_tensors
        functions: InverseGaussianSensitivity = ctx.functions
        if torch.is_grad_enabled():  # to be differentiated again
            again = functions.evaluate(distance)
            return torch.autograd.grad(again, distance, gradient, create_graph=True)[0], None
        distance, gradient = distance.contiguous(), gradient.contiguous()
        of_distance = torch.empty_like(distance)
        if functions.call_kernel("derivatives", distance, sensitivity, gradient, of_distance):
            return of_distance, None
        for rows in blocks(len(distance), PAIRS):
            r = distance[rows]
            pull = gradient[rows] * sensitivity[rows]
            offset = (1.0 / r[:, None] - 1.0 / functions.centre) * functions.inverse_width
            slope = math.pi / functions.cutoff * torch.tan(0.5 * math.pi / functions.cutoff * r)
            of_distance[rows] = (pull * offset) @ functions.inverse_width / r.square() - slope * pull.sum(1)
        return of_distance, None
