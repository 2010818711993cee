"""Sums over triples of functions of what their two pairs are; TorchScript-safe where it says so.

Numbers of one kind stand in a row, one for each triple, since processors treat long rows faster than many short ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.segments import segment_sum
from hiphop_train.nn.blocks import blocks

Terms = Callable[[Tensor, Tensor], Tensor]
"""From the numbers of the first and of the second pair (n_numbers, n_triples) to functions (n_functions, n_triples)."""

Slopes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the same and a gradient by the functions (n_functions, n_triples) to those by the numbers of each pair."""

TRIPLES = 8192
"""Triples at a time, whose functions stay in a processor's cache."""


def transposed(matrix: Tensor) -> Tensor:
    """Transpose in memory, and derivatives back; TorchScript-safe."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return matrix.t().contiguous()
    rows: Tensor = _transposed(matrix)
    return rows


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _transposed(matrix: Tensor) -> Tensor:
    rows: Tensor = _Transposed.apply(matrix)  # type: ignore[no-untyped-call]
    return rows


class _Transposed(Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        rows: Tensor = _transposed(gradient)
        return rows


def sums_in_blocks(
    terms: Terms, slopes: Slopes, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int
) -> Tensor:
    """Sum functions over the triples of each channel, some triples at a time.

    Functions are made again for the derivatives instead of being kept.

    Parameters
    ----------
    terms : functions that depend on nothing else that is differentiated
    slopes : their derivatives
    pairs : (n_numbers, n_pairs), what the functions are of
    triples : (2, n_triples) int64, the first and the second pair of each
    channel : (n_triples,) int64, in [0, n_channels)
    n_channels : number of sums

    Returns
    -------
    sums : (n_channels, n_functions), as often differentiable as the functions
    """
    sums: Tensor = _InBlocks.apply(terms, slopes, pairs, triples, channel, n_channels)  # type: ignore[no-untyped-call]
    return sums


def plain_sums(terms: Terms, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
    """Do as `sums_in_blocks`, at once and by autograd."""
    values = terms(pairs.index_select(1, triples[0]), pairs.index_select(1, triples[1]))
    return segment_sum(transposed(values), channel, n_channels)


class _InBlocks(Function):
    @staticmethod
    def forward(
        ctx: Any, terms: Terms, slopes: Slopes, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int
    ) -> Tensor:
        ctx.save_for_backward(pairs, triples, channel)
        ctx.terms, ctx.slopes = terms, slopes
        none = pairs[:, :0]
        sums = pairs.new_zeros((n_channels, len(terms(none, none))))
        for rows in blocks(len(channel), TRIPLES):
            j, k = triples[:, rows]
            values = terms(pairs.index_select(1, j), pairs.index_select(1, k))
            sums.index_add_(0, channel[rows], values.t().contiguous())
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None, None, None]:
        pairs, triples, channel = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            sums = plain_sums(ctx.terms, pairs, triples, channel, len(gradient))
            return None, None, torch.autograd.grad(sums, pairs, gradient, create_graph=True)[0], None, None, None
        of_sums = gradient.t().contiguous()
        of_pairs = pairs.new_zeros((pairs.shape[1], pairs.shape[0]))
        for rows in blocks(len(channel), TRIPLES):
            j, k = triples[:, rows]
            of_terms = of_sums.index_select(1, channel[rows])
            of_j, of_k = ctx.slopes(pairs.index_select(1, j), pairs.index_select(1, k), of_terms)
            of_pairs.index_add_(0, j, of_j.t().contiguous())
            of_pairs.index_add_(0, k, of_k.t().contiguous())
        return None, None, of_pairs.t(), None, None, None
