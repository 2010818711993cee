"""Sums over triples of functions of their two pairs.

Arrays have one row per function and one column per triple, since long rows are faster than many short ones.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.accelerate.blocks import blocks
from hiphop_train.graph.segments import segment_sum_of_columns

Terms = Callable[[Tensor, Tensor], Tensor]
"""Maps the values of the first and the second pair (n_values, n_triples) to functions (n_functions, n_triples)."""

Slopes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps the same and the gradient of the functions (n_functions, n_triples) to the gradients of the two pairs."""

TRIPLES = 8192
"""Triples per block, whose functions fit in a processor's cache."""


def sums_in_blocks(
    terms: Terms, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int, slopes: Slopes | None = None
) -> Tensor:
    """Sum functions over the triples of each channel, in blocks of triples.

    Functions are recomputed for the derivatives instead of being stored.

    Parameters
    ----------
    terms : functions; must not depend on other differentiated tensors
    pairs : (n_values, n_pairs), the arguments of the functions
    triples : (2, n_triples) int64, the first and the second pair of each
    channel : (n_triples,) int64, in [0, n_channels)
    n_channels : number of sums
    slopes : derivatives of the terms; None uses autograd

    Returns
    -------
    sums : (n_functions, n_channels), differentiable as often as the functions
    """
    sums: Tensor = _InBlocks.apply(terms, slopes or _autograd_slopes(terms), pairs, triples, channel, n_channels)  # type: ignore[no-untyped-call]
    return sums


def plain_sums(terms: Terms, pairs: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
    """Compute the sums of `sums_in_blocks` in one block, by autograd."""
    values = terms(pairs.index_select(1, triples[0]), pairs.index_select(1, triples[1]))
    return segment_sum_of_columns(values, channel, n_channels)


def _autograd_slopes(terms: Terms) -> Slopes:
    def slopes(pair_j: Tensor, pair_k: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        pair_j, pair_k = pair_j.requires_grad_(True), pair_k.requires_grad_(True)
        with torch.enable_grad():
            values = terms(pair_j, pair_k)
        grad_j, grad_k = torch.autograd.grad(values, (pair_j, pair_k), gradient)
        return grad_j, grad_k

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
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, None, Tensor, None, None, None]:
        pairs, triples, channel = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again
            sums = plain_sums(ctx.terms, pairs, triples, channel, grad_output.shape[1])
            return None, None, torch.autograd.grad(sums, pairs, grad_output, create_graph=True)[0], None, None, None
        grad_output = grad_output.contiguous()  # once for all blocks
        grad_pairs = torch.zeros_like(pairs)
        for some in blocks(len(channel), TRIPLES):
            j, k = triples[:, some]
            grad_terms = grad_output.index_select(1, channel[some])
            grad_j, grad_k = ctx.slopes(pairs.index_select(1, j), pairs.index_select(1, k), grad_terms)
            grad_pairs.index_add_(1, j, grad_j).index_add_(1, k, grad_k)
        return None, None, grad_pairs, None, None, None
