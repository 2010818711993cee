"""Sums over neighbours where the filter between two atoms is the same in both directions.

A graph contains both (i, j) and (j, i). Functions of the distance are evaluated for one of them, over a half neighbour
list, see `accelerate.pairs.half_list`.
"""

from typing import Any, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

ROWS = 2048
"""Pairs per block, whose products fit in a processor's cache."""


def sums_both_ways(filters: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sum the filtered features over neighbours, y_i = sum_j w_ij o x_j with w_ij = w_ji.

    Parameters
    ----------
    filters : (n_half, n_features), w
    features : (n_atoms, n_features), x
    first, second : (n_half,) int64, the two atoms of each pair

    Returns
    -------
    sums : (n_atoms, n_features), y
    """
    sums: Tensor = _Sums.apply(filters, features, first, second)  # type: ignore[no-untyped-call]
    return sums


class _Sums(Function):
    """The derivative with respect to the features is the same sum of the gradients."""

    @staticmethod
    def forward(ctx: Any, filters: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(filters, features, first, second)
        sums = torch.zeros_like(features)
        buffer = filters.new_empty((ROWS, filters.shape[1]))
        for w, i, j in zip(
            torch.split(filters, ROWS), torch.split(first, ROWS), torch.split(second, ROWS), strict=True
        ):
            sent = buffer[: len(w)]
            sums.index_add_(0, i, torch.index_select(features, 0, j, out=sent).mul_(w))
            sums.index_add_(0, j, torch.index_select(features, 0, i, out=sent).mul_(w))
        return sums

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        filters, features, first, second = ctx.saved_tensors
        needs_filters, needs_features = ctx.needs_input_grad[:2]
        return (
            _Products.apply(grad_output, features, first, second) if needs_filters else None,  # type: ignore[no-untyped-call]
            sums_both_ways(filters, grad_output, first, second) if needs_features else None,
            None,
            None,
        )


class _Products(Function):
    """Derivative of `_Sums` with respect to the filters, x_i o y_j + x_j o y_i (n_half, n_features)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(x, y, first, second)
        products = x.new_empty((len(first), x.shape[1]))
        left, right = x.new_empty((2, ROWS, x.shape[1])).unbind()
        for product, i, j in zip(
            torch.split(products, ROWS), torch.split(first, ROWS), torch.split(second, ROWS), strict=True
        ):
            a, b = left[: len(product)], right[: len(product)]
            torch.index_select(x, 0, i, out=product).mul_(torch.index_select(y, 0, j, out=a))
            product.addcmul_(torch.index_select(x, 0, j, out=a), torch.index_select(y, 0, i, out=b))
        return products

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        x, y, first, second = ctx.saved_tensors
        needs_x, needs_y = ctx.needs_input_grad[:2]
        return (
            sums_both_ways(grad_output, y, first, second) if needs_x else None,
            sums_both_ways(grad_output, x, first, second) if needs_y else None,
            None,
            None,
        )
