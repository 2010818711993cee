"""Sums of functions of triples; some triples at a time, so that large systems need no array of triples x functions."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from hiphop_train.graph.segments import segment_sum_of_columns
from hiphop_train.nn.blocks import blocks

Terms = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From vectors of pairs (n_pairs, 3) and the two pairs j and k of each triple, (n_triples,) int64 each, to the values
of all functions (n_functions, n_triples)."""

TRIPLES = 32768
"""Triples at a time, whose values stay in a processor's cache."""


def sum_in_blocks(terms: Terms, vectors: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
    """Sum the terms of all triples with the same channel; they are made again for the derivative.

    As few triples as fit into two blocks are left to autograd, and all of those on a GPU, which would be asked for
    numbers.

    Parameters
    ----------
    terms : see `Terms`
    vectors : (n_pairs, 3) Angstrom
    triples : (2, n_triples) int64, the pairs j and k; as listed in `hiphop_train.graph.triples`, triples that follow
        each other have pairs that are near each other
    channel : (n_triples,) int64, in [0, n_channels)
    n_channels : number of sums

    Returns
    -------
    sums : (n_functions, n_channels), as often differentiable as the terms
    """
    if not vectors.is_cpu or triples.shape[1] <= 2 * TRIPLES:
        return segment_sum_of_columns(terms(vectors, triples[0], triples[1]), channel, n_channels)
    sums: Tensor = _Sum.apply(terms, vectors, triples, channel, n_channels)  # type: ignore[no-untyped-call]
    return sums


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, terms: Terms, vectors: Tensor, triples: Tensor, channel: Tensor, n_channels: int) -> Tensor:
        ctx.save_for_backward(vectors, triples, channel)
        ctx.terms = terms
        sums = vectors.new_zeros((len(terms(vectors, *triples[:, :0])), n_channels))
        for rows in blocks(triples.shape[1], TRIPLES):
            pairs, j, k = _pairs_of(triples[:, rows])
            sums.index_add_(1, channel[rows], terms(vectors[pairs], j, k))
        return sums

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None, None]:
        vectors, triples, channel = ctx.saved_tensors
        gradient = gradient.contiguous()  # once, instead of for each block
        if torch.is_grad_enabled():  # to be differentiated again
            of_terms = gradient.index_select(1, channel)
            again = ctx.terms(vectors, *triples)
            return None, torch.autograd.grad(again, vectors, of_terms, create_graph=True)[0], None, None, None
        of_vectors = torch.zeros_like(vectors)
        for rows in blocks(triples.shape[1], TRIPLES):
            pairs, j, k = _pairs_of(triples[:, rows])
            some = vectors[pairs].detach().requires_grad_(True)
            with torch.enable_grad():
                values = ctx.terms(some, j, k)
            of_vectors[pairs] += torch.autograd.grad(values, some, gradient.index_select(1, channel[rows]))[0]
        return None, of_vectors, None, None, None


def _pairs_of(triples: Tensor) -> tuple[slice, Tensor, Tensor]:
    """Return the range in which the pairs of some triples lie, and j and k counted from its beginning."""
    start, end = int(triples.min()), int(triples.max()) + 1
    j, k = triples - start
    return slice(start, end), j, k
