"""Gaussian expansion with analytic first and second derivatives, a few passes over memory each.

Of the offsets o = x - mu, e = exp(-s o^2): the derivatives are -2 s o e and (4 s^2 o^2 - 2 s) e.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.models.alignn import Expansion
from hiphop_train.nn.gaussians import gaussian


def expand(expansion: Expansion, values: Tensor) -> Tensor:
    """Return the expansion (n, n_gaussians) of values (n,), twice differentiable."""
    result: Tensor = _Expand.apply(values, expansion)  # type: ignore[no-untyped-call]
    return result


def _offsets(values: Tensor, expansion: Expansion) -> Tensor:
    first, last = expansion.first, expansion.last
    return values[:, None] - torch.linspace(first, last, expansion.n_gaussians, dtype=values.dtype)


class _Expand(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, expansion: Expansion) -> Tensor:
        result = gaussian(_offsets(values, expansion).square_().mul_(expansion.sharpness))
        ctx.save_for_backward(values, result)
        ctx.expansion = expansion
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        values, result = ctx.saved_tensors
        return _ExpandGradient.apply(gradient, values, result, ctx.expansion), None  # type: ignore[no-untyped-call]


class _ExpandGradient(Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, values: Tensor, result: Tensor, expansion: Expansion) -> Tensor:
        ctx.save_for_backward(gradient, values, result)
        ctx.expansion = expansion
        return -2.0 * expansion.sharpness * _offsets(values, expansion).mul_(result).mul_(gradient).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, tangent: Tensor) -> tuple[Tensor, Tensor, None, None]:
        gradient, values, result = ctx.saved_tensors
        s = ctx.expansion.sharpness
        offsets = _offsets(values, ctx.expansion)
        curvature = offsets.square().mul_(4.0 * s * s).sub_(2.0 * s).mul_(result).mul_(gradient).sum(1)
        return offsets.mul_(result).mul_((-2.0 * s) * tangent[:, None]), curvature.mul_(tangent), None, None
