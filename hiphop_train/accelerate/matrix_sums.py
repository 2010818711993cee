"""Sums over neighbours of TensorNet's tensors in C, where both directions of a pair share radial functions.

Tensors are planes (9, n_atoms, n_features): a scalar, 3 components of a vector, 5 of a symmetric tensor. Each pair is
listed once, and each atom with itself. Both sums are linear in each of their arguments, so that a few kernels serve
for the first and second derivatives.
"""

from dataclasses import dataclass
from typing import Any, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiler import Library


@dataclass(frozen=True)
class Neighbours:
    """The pairs of a half list, by pair and by atom; see `kernels/matrix_sums.c`, whose functions it calls.

    Attributes
    ----------
    library : compiled for the number of features
    first, second : (n_pairs,), the atoms of each pair
    start, entry, other : see `accelerate.pair_sums.Neighbours`
    """

    library: Library
    first: Tensor
    second: Tensor
    start: Tensor
    entry: Tensor
    other: Tensor

    def carry(self, w: Tensor, x: Tensor, to: Optional[Tensor] = None) -> Tensor:
        """Return w_ii x_i + sum_j w_ij x_j (9, n_atoms, n_features), or add it to `to`."""
        found = torch.empty_like(x) if to is None else to
        order = (self.start, self.entry, self.other)
        self.library.call("carry", *order, w, x, found, x.shape[1], int(to is not None))
        return found

    def carry_gradient(self, x: Tensor, g: Tensor) -> Tensor:
        """Return the derivative of sum_i g_i carry_i with respect to w, (n_pairs + 1, 3 n_features)."""
        n_pairs = len(self.first)
        found = x.new_empty((n_pairs + 1, 3 * x.shape[2]))
        self.library.call("carry_gradient", self.first, self.second, x, g, found, n_pairs, x.shape[1])
        return found

    def embed(self, w: Tensor, y: Tensor, a: Tensor, b: Tensor, to: Optional[Tensor] = None) -> Tensor:
        """Return w_ii (a_i + b_i) y_ii + sum_j w_ij (a_i + b_j) y_ij (9, n_atoms, n_features), or add it to `to`."""
        found = a.new_empty((9, *a.shape)) if to is None else to
        order = (self.start, self.entry, self.other)
        self.library.call("embed", *order, w, y, a, b, found, len(a), int(to is not None))
        return found

    def add_of_pairs(
        self,
        w: Tensor,
        y: Tensor,
        a: Tensor,
        b: Tensor,
        g: Tensor,
        dw: Optional[Tensor],
        dy: Optional[Tensor],
        is_more: bool = True,
    ) -> None:
        """Add the derivatives of sum_i g_i embed_i with respect to w and y, or write them unless `is_more`."""
        sizes = (len(self.first), len(a), int(is_more))
        self.library.call("embed_pairs", self.first, self.second, w, y, a, b, g, dw, dy, *sizes)

    def add_of_atoms(self, w: Tensor, y: Tensor, g: Tensor, da: Tensor, db: Tensor, is_more: bool = True) -> None:
        """Add those with respect to a and b, or write them unless `is_more`."""
        order = (self.start, self.entry, self.other)
        self.library.call("embed_atoms", *order, w, y, g, da, db, len(da), int(is_more))


def neighbours(first: Tensor, second: Tensor, n_atoms: int, sort: Library, library: Library) -> Neighbours:
    """Sort the pairs of a half list by atom, with the library compiled from `kernels/pair_sums.c`."""
    first, second = first.contiguous(), second.contiguous()
    start = first.new_empty(n_atoms + 1)
    entry, other = first.new_empty((2, 2 * len(first))).unbind()
    sort.call("sort_entries", first, second, start, entry, other, len(first), n_atoms)
    return Neighbours(library, first, second, start, entry, other)


def carried(weights: Tensor, tensors: Tensor, pairs: Neighbours) -> Tensor:
    """Sum tensors, M_i = w_ii x_i + sum_j w_ij x_j with w_ij = w_ji.

    Parameters
    ----------
    weights : (n_pairs + 1, 3 n_features), w, for each rank; the last row is w_ii
    tensors : (9, n_atoms, n_features), x
    pairs : of a half list

    Returns
    -------
    sums : (9, n_atoms, n_features)
    """
    sums: Tensor = _Carry.apply(weights, tensors, pairs)  # type: ignore[no-untyped-call]
    return sums


def embedded(weights: Tensor, directions: Tensor, own: Tensor, sent: Tensor, pairs: Neighbours) -> Tensor:
    """Sum directions, X_i = w_ii (a_i + b_i) y_ii + sum_j w_ij (a_i + b_j) y_ij with w_ij = w_ji.

    Parameters
    ----------
    weights : (n_pairs + 1, 3 n_features), w, for each rank; the last row is w_ii
    directions : (n_pairs + 1, 9), y, as seen by the first atom; components 1 to 3 change sign with the direction; the
        last row is y_ii, of which only the first is not zero
    own, sent : (n_atoms, n_features), a and b
    pairs : of a half list

    Returns
    -------
    sums : (9, n_atoms, n_features)
    """
    sums: Tensor = _Embed.apply(weights, directions, own, sent, pairs)  # type: ignore[no-untyped-call]
    return sums


class _Carry(Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, x: Tensor, pairs: Neighbours) -> Tensor:
        w, x = w.contiguous(), x.contiguous()
        ctx.save_for_backward(w, x)
        ctx.pairs = pairs
        return pairs.carry(w, x)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, Tensor, None]:
        dw, dx = _CarryGradient.apply(*ctx.saved_tensors, grad_output, ctx.pairs)  # type: ignore[no-untyped-call]
        return dw, dx, None


class _CarryGradient(Function):
    """dw is bilinear and symmetric in x and g; dx is the same sum of g."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, x: Tensor, g: Tensor, pairs: Neighbours) -> Tuple[Tensor, Tensor]:
        g = g.contiguous()
        ctx.save_for_backward(w, x, g)
        ctx.pairs = pairs
        return pairs.carry_gradient(x, g), pairs.carry(w, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_w: Tensor, of_x: Tensor) -> Tuple[Tensor, Tensor, Tensor, None]:
        w, x, g = ctx.saved_tensors
        pairs: Neighbours = ctx.pairs
        of_w, of_x = of_w.contiguous(), of_x.contiguous()
        dg = pairs.carry(w, of_x, pairs.carry(of_w, x))
        return pairs.carry_gradient(of_x, g), pairs.carry(of_w, g), dg, None


class _Embed(Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, y: Tensor, a: Tensor, b: Tensor, pairs: Neighbours) -> Tensor:
        w, y, a, b = (each.contiguous() for each in (w, y, a, b))
        ctx.save_for_backward(w, y, a, b)
        ctx.pairs = pairs
        return pairs.embed(w, y, a, b)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Optional[Tensor], ...]:
        wanted = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        given = (*ctx.saved_tensors, grad_output, ctx.pairs, wanted)
        return (*_EmbedGradient.apply(*given), None)  # type: ignore[no-untyped-call]


class _EmbedGradient(Function):
    """Derivatives of S = sum_i g_i X_i, linear in g, w, y and (a, b)."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, y: Tensor, a: Tensor, b: Tensor, g: Tensor, pairs: Neighbours, of_atoms: bool
    ) -> Tuple[Optional[Tensor], ...]:
        g = g.contiguous()
        ctx.save_for_backward(w, y, a, b, g)
        ctx.set_materialize_grads(False)
        ctx.pairs, ctx.of_atoms = pairs, of_atoms
        dw, dy = torch.empty_like(w), torch.empty_like(y)
        pairs.add_of_pairs(w, y, a, b, g, dw, dy, is_more=False)
        if not of_atoms:
            return dw, dy, None, None
        da, db = torch.empty_like(a), torch.empty_like(b)
        pairs.add_of_atoms(w, y, g, da, db, is_more=False)
        return dw, dy, da, db

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, of_w: Optional[Tensor], of_y: Optional[Tensor], of_a: Optional[Tensor], of_b: Optional[Tensor]
    ) -> Tuple[Optional[Tensor], ...]:
        w, y, a, b, g = ctx.saved_tensors
        pairs: Neighbours = ctx.pairs
        dw, dy, da, db, dg = (torch.zeros_like(each) for each in (w, y, a, b, g))
        if of_w is not None:
            of_w = of_w.contiguous()
            pairs.embed(of_w, y, a, b, dg)
            pairs.add_of_pairs(of_w, y, a, b, g, None, dy)
            if ctx.of_atoms:
                pairs.add_of_atoms(of_w, y, g, da, db)
        if of_y is not None:
            of_y = of_y.contiguous()
            pairs.embed(w, of_y, a, b, dg)
            pairs.add_of_pairs(w, of_y, a, b, g, dw, None)
            if ctx.of_atoms:
                pairs.add_of_atoms(w, of_y, g, da, db)
        if of_a is not None or of_b is not None:
            of_a, of_b = (torch.zeros_like(a) if each is None else each.contiguous() for each in (of_a, of_b))
            pairs.embed(w, y, of_a, of_b, dg)
            pairs.add_of_pairs(w, y, of_a, of_b, g, dw, dy)
        return dw, dy, da, db, dg, None, None
