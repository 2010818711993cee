"""Products over pairs and sums over neighbours in C, where both directions of a pair share what is summed.

Each pair is listed once, as in `accelerate.pairs.half_list`. Three functions, each with its derivative and second
derivative: symmetric messages and their sums, vectors that change sign with the direction, and vectors carried along.
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
    """The pairs of a half list, by pair and by atom; see `kernels/pair_sums.c`, whose functions it calls.

    Attributes
    ----------
    library : compiled for the number of features
    first, second : (n_pairs,), the atoms of each pair
    start : (n_atoms + 1,), first entry of each atom
    entry : (2 n_pairs,), twice the pair, plus 1 if the atom is the second of the pair
    other : (2 n_pairs,), the other atom
    """

    library: Library
    first: Tensor
    second: Tensor
    start: Tensor
    entry: Tensor
    other: Tensor

    def by_pair(self, function: str, *arguments: Tensor, constant: Optional[float] = None) -> None:
        """Call a function that writes rows of pairs."""
        more = () if constant is None else (constant,)
        self.library.call(function, self.first, self.second, *arguments, len(self.first), *more)

    def sums(self, values: Tensor, like: Tensor) -> Tensor:
        """Sum over the pairs of each atom, in the shape of a tensor of atoms."""
        found = torch.empty_like(like)
        self.library.call("sums", self.start, self.entry, values, found, len(found))
        return found

    def by_atom(self, function: str, like: Tensor, *tensors: Tensor) -> Tensor:
        """Call a function that sums over the other atoms, in the shape of a tensor of atoms."""
        found = torch.empty_like(like)
        self.library.call(function, self.start, self.entry, self.other, *tensors, found, len(found))
        return found

    def pulls(self, e: Tensor, q: Tensor, constant: float, to: Optional[Tensor] = None) -> Tensor:
        """Return F_i = sum_j e_ij (q_ij, constant), (n_atoms, 3, n_features + 1), or add it to `to`."""
        n_atoms = len(self.start) - 1
        found = e.new_empty((n_atoms, 3, q.shape[1] + 1)) if to is None else to
        self.library.call("pulls", self.start, self.entry, e, q, found, n_atoms, constant, int(to is not None))
        return found

    def carried(self, q: Tensor, d: Tensor, to: Optional[Tensor] = None) -> Tensor:
        """Return C_i = sum_j q_ij d_j (n_atoms, 3, n_features), or add it to `to`."""
        found = torch.empty_like(d) if to is None else to
        self.library.call("carried", self.start, self.entry, self.other, q, d, found, len(d), int(to is not None))
        return found


def neighbours(first: Tensor, second: Tensor, n_atoms: int, library: Library) -> Neighbours:
    """Sort the pairs of a half list by atom."""
    start = first.new_empty(n_atoms + 1)
    entry, other = first.new_empty((2, 2 * len(first))).unbind()
    library.call("sort_entries", first, second, start, entry, other, len(first), n_atoms)
    return Neighbours(library, first, second, start, entry, other)


def symmetric_messages(filters: Tensor, sources: Tensor, pairs: Neighbours) -> Tuple[Tensor, Tensor]:
    """Multiply, m_ij = w_ij o s_i o s_j, and sum, M_i = sum_j m_ij.

    Parameters
    ----------
    filters : (n_pairs, n_features), w
    sources : (n_atoms, n_features), s
    pairs : of a half list

    Returns
    -------
    messages, sums : (n_pairs, n_features) and (n_atoms, n_features)
    """
    found: Tuple[Tensor, Tensor] = _Messages.apply(filters, sources, pairs)  # type: ignore[no-untyped-call]
    return found


def pulls(vectors: Tensor, weights: Tensor, pairs: Neighbours) -> Tensor:
    """Sum vectors, F_i = sum_j e_ij (q_ij, 1) with e_ij = -e_ji and q_ij = q_ji.

    Parameters
    ----------
    vectors : (n_pairs, 3), e
    weights : (n_pairs, n_features), q
    pairs : of a half list

    Returns
    -------
    sums : (n_atoms, 3, n_features + 1); the last column are the sums of the vectors alone
    """
    sums: Tensor = _Pulls.apply(vectors, weights, pairs)  # type: ignore[no-untyped-call]
    return sums


def carried(weights: Tensor, vectors: Tensor, pairs: Neighbours) -> Tensor:
    """Sum the neighbours' vectors, C_i = sum_j q_ij d_j with q_ij = q_ji.

    Parameters
    ----------
    weights : (n_pairs, n_features), q
    vectors : (n_atoms, 3, n_features), d
    pairs : of a half list

    Returns
    -------
    sums : (n_atoms, 3, n_features)
    """
    sums: Tensor = _Carried.apply(weights, vectors, pairs)  # type: ignore[no-untyped-call]
    return sums


class _Messages(Function):
    @staticmethod
    def forward(ctx: Any, w: Tensor, s: Tensor, pairs: Neighbours) -> Tuple[Tensor, Tensor]:
        w, s = w.contiguous(), s.contiguous()
        ctx.save_for_backward(w, s)
        ctx.pairs = pairs
        m = torch.empty_like(w)
        pairs.by_pair("messages", w, s, m)
        return m, pairs.sums(m, s)

    @staticmethod
    def backward(ctx: Any, of_messages: Tensor, of_sums: Tensor) -> Tuple[Optional[Tensor], Optional[Tensor], None]:
        given = (*ctx.saved_tensors, of_messages, of_sums, ctx.pairs, ctx.needs_input_grad[1])
        dw, ds = _MessagesGradient.apply(*given)  # type: ignore[no-untyped-call]
        return dw, ds, None


class _MessagesGradient(Function):
    """With h_ij = g_ij + G_i + G_j: dw = h o s_i o s_j, ds_i = sum_j h o w o s_j."""

    @staticmethod
    def forward(
        ctx: Any, w: Tensor, s: Tensor, of_messages: Tensor, of_sums: Tensor, pairs: Neighbours, wants_sources: bool
    ) -> Tuple[Tensor, Optional[Tensor]]:
        h, dw = torch.empty_like(w), torch.empty_like(w)
        pairs.by_pair("filters_gradient", s, of_messages.contiguous(), of_sums.contiguous(), h, dw)
        ctx.save_for_backward(w, s, h)
        ctx.pairs = pairs
        return dw, pairs.by_atom("sources_gradient", s, h, w, s) if wants_sources else None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, u: Tensor, v: Optional[Tensor]) -> Tuple[Optional[Tensor], ...]:
        w, s, h = ctx.saved_tensors
        u = u.contiguous()
        v = torch.zeros_like(s) if v is None else v.contiguous()
        of_messages, dw = torch.empty_like(w), torch.empty_like(w)
        ctx.pairs.by_pair("filters_second", w, s, h, u, v, of_messages, dw)
        ds = ctx.pairs.by_atom("sources_second", s, w, s, h, u, v) if ctx.needs_input_grad[1] else None
        return dw, ds, of_messages, ctx.pairs.sums(of_messages, s), None, None


class _Pulls(Function):
    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, pairs: Neighbours) -> Tensor:
        e, q = e.contiguous(), q.contiguous()
        ctx.save_for_backward(e, q)
        ctx.pairs = pairs
        return pairs.pulls(e, q, 1.0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, Tensor, None]:
        de, dq = _PullsGradient.apply(*ctx.saved_tensors, grad_output, ctx.pairs)  # type: ignore[no-untyped-call]
        return de, dq, None


class _PullsGradient(Function):
    """Bilinear in d_ij = g_i - g_j, and e or (q, 1): de = sum_f (q, 1) d, dq = e . d."""

    @staticmethod
    def forward(ctx: Any, e: Tensor, q: Tensor, g: Tensor, pairs: Neighbours) -> Tuple[Tensor, Tensor]:
        g = g.contiguous()
        ctx.save_for_backward(e, q, g)
        ctx.pairs = pairs
        de, dq = torch.empty_like(e), torch.empty_like(q)
        pairs.by_pair("pulls_gradient", e, q, g, de, dq, constant=1.0)
        return de, dq

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_e: Tensor, of_q: Tensor) -> Tuple[Tensor, Tensor, Tensor, None]:
        e, q, g = ctx.saved_tensors
        of_e, of_q = of_e.contiguous(), of_q.contiguous()
        de, dq = torch.empty_like(e), torch.empty_like(q)
        ctx.pairs.by_pair("pulls_gradient", of_e, of_q, g, de, dq, constant=0.0)
        return de, dq, ctx.pairs.pulls(e, of_q, 0.0, ctx.pairs.pulls(of_e, q, 1.0)), None


class _Carried(Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, d: Tensor, pairs: Neighbours) -> Tensor:
        q, d = q.contiguous(), d.contiguous()
        ctx.save_for_backward(q, d)
        ctx.pairs = pairs
        return pairs.carried(q, d)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tuple[Tensor, Tensor, None]:
        dq, dd = _CarriedGradient.apply(*ctx.saved_tensors, grad_output, ctx.pairs)  # type: ignore[no-untyped-call]
        return dq, dd, None


class _CarriedGradient(Function):
    """dq = d_i . g_j + d_j . g_i; dd is the same sum of g."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, d: Tensor, g: Tensor, pairs: Neighbours) -> Tuple[Tensor, Tensor]:
        g = g.contiguous()
        ctx.save_for_backward(q, d, g)
        ctx.pairs = pairs
        dq = torch.empty_like(q)
        pairs.by_pair("carried_gradient", d, g, dq)
        return dq, pairs.carried(q, g)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_q: Tensor, of_d: Tensor) -> Tuple[Tensor, Tensor, Tensor, None]:
        q, d, g = ctx.saved_tensors
        of_q, of_d = of_q.contiguous(), of_d.contiguous()
        dq = torch.empty_like(q)
        ctx.pairs.by_pair("carried_gradient", of_d, g, dq)
        return dq, ctx.pairs.carried(of_q, g), ctx.pairs.carried(q, of_d, ctx.pairs.carried(of_q, d)), None
