"""Sensitivity functions with frozen weights: functions of the distance alone, in C where it can be compiled.

With the incoming gradient G, P = G s and o = (1/r - 1/mu_nu) / sigma_nu^-1, the derivative is
sum_nu P o / (sigma_nu^-1 r^2) - (pi / r_c) tan(pi r / 2 r_c) sum_nu P. It uses s, so exponentials are not recomputed.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from hiphop_train.accelerate.blocks import PAIRS, blocks
from hiphop_train.accelerate.compiler import Library
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity


class FrozenSensitivity(nn.Module):
    """Sensitivity functions in C or, in blocks of pairs, in torch, with the derivative above.

    Parameters
    ----------
    plain : the functions
    library : compiled from `kernels/sensitivity.c`; None evaluates in torch
    """

    def __init__(self, plain: InverseGaussianSensitivity, library: Library | None) -> None:
        super().__init__()
        adopt(self, plain)
        self.centre, self.inverse_width = plain.centre, plain.inverse_width
        self.formulas = [plain]  # in a list, so that it is not a submodule
        self.cutoff = plain.cutoff
        self.library = library

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate (n_pairs, n_sensitivities) of distances (n_pairs,), Angstrom."""
        sensitivity: Tensor = _Evaluate.apply(distance, self)  # type: ignore[no-untyped-call]
        return sensitivity

    def call(self, name: str, distance: Tensor, *tensors: Tensor) -> bool:
        """Call a function of the library; return False if no library serves the tensors."""
        if self.library is None or not self.library.serves(distance):
            return False
        given = (distance, 1.0 / self.centre, self.inverse_width, *tensors)
        self.library.call(name, *given, len(distance), float(self.cutoff))
        return True


class _Evaluate(Function):
    @staticmethod
    def forward(ctx: Any, distance: Tensor, functions: FrozenSensitivity) -> Tensor:
        sensitivity = distance.new_empty((len(distance), len(functions.centre)))
        if not functions.call("sensitivities", distance.contiguous(), sensitivity):
            for rows in blocks(len(distance), PAIRS):
                sensitivity[rows] = functions.formulas[0](distance[rows])
        ctx.save_for_backward(distance, sensitivity)
        ctx.functions = functions
        return sensitivity

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        distance, sensitivity = ctx.saved_tensors
        functions: FrozenSensitivity = ctx.functions
        if torch.is_grad_enabled():  # differentiated again
            again = functions.formulas[0](distance)
            return torch.autograd.grad(again, distance, grad_output, create_graph=True)[0], None
        distance, grad_output = distance.contiguous(), grad_output.contiguous()
        grad_distance = torch.empty_like(distance)
        if functions.call("derivatives", distance, sensitivity, grad_output, grad_distance):
            return grad_distance, None
        for rows in blocks(len(distance), PAIRS):
            r = distance[rows]
            product = grad_output[rows] * sensitivity[rows]
            offset = (1.0 / r[:, None] - 1.0 / functions.centre) * functions.inverse_width
            slope = math.pi / functions.cutoff * torch.tan(0.5 * math.pi / functions.cutoff * r)
            grad_distance[rows] = (product * offset) @ functions.inverse_width / r.square() - slope * product.sum(1)
        return grad_distance, None


def _compiled(plain: InverseGaussianSensitivity, setting: Setting) -> FrozenSensitivity:
    return FrozenSensitivity(plain, setting.compile("sensitivity.c", {"N_SENSITIVITIES": len(plain.centre)}))


TWINS = [
    Twin("sensitivities", "C", InverseGaussianSensitivity, _compiled, purposes=("inference",), why_not=why_no_kernels),
    Twin(
        "sensitivities",
        "in blocks, analytic derivative",
        InverseGaussianSensitivity,
        lambda plain, setting: FrozenSensitivity(plain, None),
        purposes=("inference",),
    ),
]
