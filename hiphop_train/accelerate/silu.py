"""silu in C, with analytic second derivatives: autograd needs ten operations for them."""

from typing import Any, List, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiler import Library


def silu(values: Tensor, library: Library) -> Tensor:
    """Return x / (1 + e^-x) of each number of a matrix, with the library compiled from `kernels/silu.c`."""
    return silu_of_parts(values, 1, library)[0]


def silu_of_parts(values: Tensor, n_parts: int, library: Library) -> List[Tensor]:
    """Return silu of the columns (n_rows, n_parts width) in parts (n_rows, width), each contiguous."""
    return list(_Silu.apply(values, n_parts, library))  # type: ignore[no-untyped-call]


def _call(library: Library, function: str, *matrices: Tensor) -> None:
    arguments: List[Any] = []
    for matrix in matrices:
        arguments += [matrix, matrix.stride(0)]
    library.call(function, *arguments, *matrices[-1].shape)


class _Silu(Function):
    """Derivatives are polynomials of y and the logistic function s, which are kept; x belongs to the graph alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, n_parts: int, library: Library) -> Tuple[Tensor, ...]:
        s = x.new_empty(x.shape)
        parts = x.contiguous().chunk(n_parts, dim=1)
        found = tuple(x.new_empty(part.shape) for part in parts)
        for part, logistic, value in zip(parts, s.chunk(n_parts, dim=1), found, strict=True):
            _call(library, "values", part, logistic, value)
        ctx.save_for_backward(x, s, *found)
        ctx.library = library
        return found

    @staticmethod
    def backward(ctx: Any, *gs: Tensor) -> Tuple[Tensor, None, None]:
        x, s, *ys = ctx.saved_tensors
        ys = [y.detach() for y in ys]
        return _Gradient.apply(x, s, ys, ctx.library, *gs), None, None  # type: ignore[no-untyped-call]


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, s: Tensor, ys: List[Tensor], library: Library, *grad_outputs: Tensor) -> Tensor:
        gs = [g.contiguous() for g in grad_outputs]
        ctx.save_for_backward(s, *ys, *gs)
        ctx.library = library
        dx = torch.empty_like(s)
        for each in zip(s.chunk(len(ys), dim=1), ys, gs, dx.chunk(len(ys), dim=1), strict=True):
            _call(library, "gradient", *each)
        return dx

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor) -> Tuple[Any, ...]:
        s, *rest = ctx.saved_tensors
        n_parts = len(rest) // 2
        ys, gs = rest[:n_parts], rest[n_parts:]
        dx, dgs = torch.empty_like(s), [torch.empty_like(g) for g in gs]
        ss, us, to = (each.chunk(n_parts, dim=1) for each in (s, u.contiguous(), dx))
        for each in zip(ss, ys, gs, us, dgs, to, strict=True):
            _call(ctx.library, "gradient_of_gradient", *each)
        return dx, None, None, None, *dgs
