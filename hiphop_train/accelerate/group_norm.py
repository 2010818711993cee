"""Group norm with analytic second derivatives, in C or in torch.

Of x along the last axis, with mean m and r = 1 / sqrt(mean (x - m)^2 + eps): y = r (x - m). Its Jacobian is
symmetric: a gradient g becomes r (g - mean g - y mean(g y)). Autograd needs thirty operations for its derivative.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.twin import Setting, Twin, adopt, why_no_kernels
from hiphop_train.models.hiphop import GroupNorm

EPSILON = 1e-5


class CompiledGroupNorm(nn.Module):
    """Normalisation in C."""

    def __init__(self, plain: GroupNorm, setting: Setting) -> None:
        super().__init__()
        adopt(self, plain)
        self.weight, self.bias = plain.weight, plain.bias
        self.kernels = Kernels(setting.compile("normalisation.c", {"EPSILON": EPSILON}, in_vectors=False), 1, 1)

    def forward(self, invariants: Tensor) -> Tensor:
        """Normalise (n_atoms, n_invariants, n_features) along the last axis."""
        if not self.kernels.library.serves(invariants):  # converted or moved after compilation
            return torch.addcmul(self.bias, _normalise(invariants), self.weight)
        rows = invariants.reshape(1, -1, invariants.shape[-1])
        normal = evaluate_compiled(self.kernels, rows).reshape(invariants.shape)
        return torch.addcmul(self.bias, normal, self.weight)


class DerivedGroupNorm(nn.Module):
    """torch's normalisation with analytic derivatives."""

    def __init__(self, plain: GroupNorm, setting: Setting) -> None:
        super().__init__()
        adopt(self, plain)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, invariants: Tensor) -> Tensor:
        """Normalise (n_atoms, n_invariants, n_features) along the last axis."""
        return torch.addcmul(self.bias, _normalise(invariants), self.weight)


def _normalise(values: Tensor) -> Tensor:
    normal: Tensor = _Normalise.apply(values)  # type: ignore[no-untyped-call]
    return normal


class _Normalise(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        normal, mean, scale = torch.native_layer_norm(values, values.shape[-1:], None, None, EPSILON)
        ctx.save_for_backward(values, mean, scale)
        return normal

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        gradient: Tensor = _Gradient.apply(grad_output, *ctx.saved_tensors)  # type: ignore[no-untyped-call]
        return gradient


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, grad_output: Tensor, values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(grad_output, values, mean, scale)
        return _apply_jacobian(grad_output, values, mean, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_output, values, mean, scale = ctx.saved_tensors
        n = values.shape[-1]
        first = grad_output - grad_output.mean(-1, keepdim=True)
        second = grad_grad - grad_grad.mean(-1, keepdim=True)
        normal = (values - mean) * scale
        product_first, product_second = ((part * normal).sum(-1, keepdim=True) / n for part in (first, second))
        both = (first * second).sum(-1, keepdim=True) / n - 3 * product_first * product_second
        grad_values = (
            normal.mul_(both).addcmul_(product_second, first).addcmul_(product_first, second).mul_(-scale.square())
        )
        return _apply_jacobian(grad_grad, values, mean, scale), grad_values, None, None


def _apply_jacobian(grad_output: Tensor, values: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    shape, mask = values.shape[-1:], [True, False, False]
    result = torch.ops.aten.native_layer_norm_backward(grad_output, values, shape, mean, scale, None, None, mask)
    gradient: Tensor = result[0]
    return gradient


TWINS = [
    Twin("group norm", "C", GroupNorm, CompiledGroupNorm, why_not=why_no_kernels),
    Twin("group norm", "torch, analytic derivatives", GroupNorm, DerivedGroupNorm),
]
