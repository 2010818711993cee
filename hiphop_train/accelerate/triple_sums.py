"""Sums over triples of functions of what their two pairs are.

Numbers of one kind stand in a row, one for each triple, since processors treat long rows faster than many short ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.segments import segment_sum_of_columns
from hiphop_train.nn.blocks import blocks

Terms = Callable[[Tensor, Tensor], Tensor]
"""From the numbers of the first and of the second pair (n_numbers, n_triples) to functions (n_functions, n_triples)."""

Slopes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""From the same and a gradient by the functions (n_functions, n_triples) to those by the numbers of each pair."""

TRIPLES = 8192
"""Triples at a time, whose functions stay in a processor's cache."""


def sums_in_blocks(
    terms: Terms, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int, slopes: Slopes | None = None
) -> Tensor:
    """Sum functions over the triples of each channel, some triples at a time.

    Functions are made again for the derivatives instead of being kept.

    Parameters
    ----------
    terms : functions that depend on nothing else that is differentiated
    pairs : (n_numbers, n_pairs), what the functions are of
    triples : (2, n_triples) int64, the first and the second pair of each
    channel : (n_triples,) int64, in [0, n_channels)
    n_channels : number of sums
    slopes : derivatives of the terms; without, autograd finds them

    Returns
    -------
    sums : (n_functions, n_channels), as often differentiable as the functions
    """
    sums: Tensor = _InBlocks.apply(terms, slopes or _by_autograd(terms), pairs, triples, channel, n_channels)  # type: ignore[no-untyped-call]
    return sums


def plain_sums(terms: Terms, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
    """Do as `sums_in_blocks`, at once and by autograd."""
    values = terms(pairs.index_select(1, triples[0]), pairs.index_select(1, triples[1]))
    return segment_sum_of_columns(values, channel, n_channels)


def _by_autograd(terms: Terms) -> Slopes:
    def slopes(of_j: Tensor, of_k: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        of_j, of_k = of_j.requires_grad_(True), of_k.requires_grad_(True)
        with torch.enable_grad():
            values = terms(of_j, of_k)
        by_j, by_k = torch.autograd.grad(values, (of_j, of_k), gradient)
        return by_j, by_k

    return slopes


class _InBlocks(Function):
    @staticmethod
    def forward(
        ctx: Any, terms: Terms, slopes: Slopes, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int
    ) -> Tensor:
        ctx.save_for_backward(pairs, triples, channel)
        ctx.terms, ctx.slopes = terms, slopes
        none = pairs[:, :0]
        sums = pairs.new_zeros((len(terms(none, none)), n_channels))
        for some in blocks(len(channel), TRIPLES):
            j, k = triples[:, some]
            sums.index_add_(1, channel[some], terms(pairs.index_select(1, j), pairs.index_select(1, k)))
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None, None, None]:
        pairs, triples, channel = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            sums = plain_sums(ctx.terms, pairs, triples, channel, gradient.shape[1])
            return None, None, torch.autograd.grad(sums, pairs, gradient, create_graph=True)[0], None, None, None
        gradient = gradient.contiguous()  # once, instead of for each block
        of_pairs = torch.zeros_like(pairs)
        for some in blocks(len(channel), TRIPLES):
            j, k = triples[:, some]
            of_terms = gradient.index_select(1, channel[some])
            of_j, of_k = ctx.slopes(pairs.index_select(1, j), pairs.index_select(1, k), of_terms)
            of_pairs.index_add_(1, j, of_j).index_add_(1, k, of_k)
        return None, None, of_pairs, None, None, None
