"""Sums over neighbours where what acts between two atoms is the same in both directions; TorchScript-safe.

A graph holds (i, j) and (j, i). What depends on the distance alone is evaluated for one of them.
"""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.segments import segment_sum
from hiphop_train.types import Graph

ROWS = 2048
"""Pairs at a time, whose products stay in a processor's cache."""


def half_of_pairs(graph: Graph) -> Optional[Tensor]:
    """Choose one direction of each pair, (n_pairs / 2,) int64, indices of pairs.

    None where there may not be two: ghost atoms need not receive. None on a GPU too, which would be asked how many.
    """
    if graph.n_owned < graph.species.shape[0] or not graph.pair_i.is_cpu:
        return None
    difference = graph.pair_j - graph.pair_i
    itself = torch.nonzero(difference == 0)[:, 0]
    if itself.shape[0] > 0:  # an image of the atom: of two opposite translations, that whose first number is positive
        shift = graph.pair_shift.index_select(0, itself).sign()
        difference[itself] = 4 * shift[:, 0] + 2 * shift[:, 1] + shift[:, 2]
    half = torch.nonzero(difference > 0)[:, 0]
    return half if 2 * half.shape[0] == graph.pair_i.shape[0] else None


def sums_both_ways(filters: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Sum over neighbours what they send through filters, y_i = sum_j w_ij o x_j with w_ij = w_ji.

    Parameters
    ----------
    filters : (n_halves, n_features), w
    features : (n_atoms, n_features), x
    first, second : (n_halves,) int64, the two atoms, which send to each other

    Returns
    -------
    sums : (n_atoms, n_features), y
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        n_atoms = features.shape[0]
        forth = segment_sum(features.index_select(0, second) * filters, first, n_atoms)
        return forth + segment_sum(features.index_select(0, first) * filters, second, n_atoms)
    sums: Tensor = _sums(filters, features.to(filters.dtype), first, second)
    return sums


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _sums(filters: Tensor, features: Tensor, first: Tensor, second: Tensor) -> Tensor:
    sums: Tensor = _Sums.apply(filters, features, first, second)  # type: ignore[no-untyped-call]
    return sums


class _Sums(Function):
    """The derivative by the features sends what arrives back through the same filters."""

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
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        filters, features, first, second = ctx.saved_tensors
        of_filters, of_features = ctx.needs_input_grad[:2]
        return (
            _Products.apply(gradient, features, first, second) if of_filters else None,  # type: ignore[no-untyped-call]
            _sums(filters, gradient, first, second) if of_features else None,
            None,
            None,
        )


class _Products(Function):
    """Derivative of `_Sums` by the filters, x_i o y_j + x_j o y_i (n_halves, n_features)."""

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
    def backward(ctx: Any, gradient: Tensor) -> Tuple[Tensor | None, Tensor | None, None, None]:
        x, y, first, second = ctx.saved_tensors
        of_x, of_y = ctx.needs_input_grad[:2]
        return (
            _sums(gradient, y, first, second) if of_x else None,
            _sums(gradient, x, first, second) if of_y else None,
            None,
            None,
        )
