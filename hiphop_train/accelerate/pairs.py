"""Checks of the properties of pair lists that twins rely on: sorted by receiver, with the reverse of each pair.

The reverse of (i, j, shift) is (j, i, -shift). Counting is not enough: in the cycle 0<-1, 1<-2, 2<-0 every atom
receives as often as it sends. Instead each pair is hashed to 64 bits. The sum of the hashes over pairs equals that over
reverses if the list contains all reverses; otherwise it does so with a probability of 2^-64.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

import torch
from torch import Tensor

from hiphop_train.accelerate.compiler import Library
from hiphop_train.types import Graph


def first_pairs(graph: Graph, library: Library) -> Optional[Tensor]:
    """Return the first pair of each receiver (n_atoms + 1,) int64; None if the list lacks the properties above.

    Parameters
    ----------
    graph : on the CPU; with ghost atoms, which need not receive, the result is None
    library : compiled from `kernels/pairs.c`
    """
    if graph.n_owned < len(graph.species):
        return None
    shift = graph.pair_shift
    stride = 0 if shift.stride(0) == 0 else 3
    if stride:
        shift = shift.contiguous()
    pair_i, pair_j = graph.pair_i.contiguous(), graph.pair_j.contiguous()
    start = pair_i.new_empty(len(graph.species) + 1)
    if not library.call("check_pairs", pair_i, pair_j, shift, start, len(pair_i), len(graph.species), stride):
        return None
    return start


def half_list(graph: Graph) -> Optional[Tensor]:
    """Choose one direction of each pair, (n_pairs / 2,) int64, indices of pairs; TorchScript-safe.

    None if a reverse is missing, and on a GPU, where the check would synchronise.
    """
    if graph.n_owned < graph.species.shape[0] or not graph.pair_i.is_cpu or not has_reverses(graph):
        return None
    difference = graph.pair_j - graph.pair_i
    itself = torch.nonzero(difference == 0)[:, 0]
    if itself.shape[0] > 0:  # own images: of two opposite shifts, that with a positive first component
        shift = graph.pair_shift.index_select(0, itself).sign()
        difference[itself] = 4 * shift[:, 0] + 2 * shift[:, 1] + shift[:, 2]
    return torch.nonzero(difference > 0)[:, 0]


HALF_LIST = "half_list"


@dataclass(frozen=True)
class PrepareHalfList:
    """Adds the half neighbour list to a graph, in the loader; nothing where there is none."""

    def __call__(self, graph: Graph) -> Graph:
        """Return the graph with its half list among the extras."""
        half = half_list(graph)
        return graph if half is None else graph._replace(extras={**graph.extras, HALF_LIST: half})

    def half_list_of(self, graph: Graph) -> Optional[Tensor]:
        """Return the half list that a graph carries, or make it."""
        return graph.extras[HALF_LIST] if HALF_LIST in graph.extras else half_list(graph)


def has_reverses(graph: Graph) -> bool:
    """Whether a list of pairs contains the reverse of each; TorchScript-safe."""
    forward, backward = _keys(graph)
    return bool(_mix(forward).sum() == _mix(backward).sum())


def reverses(graph: Graph) -> Optional[Tensor]:
    """Return the reverse of each pair (n_pairs,) int64; None if one is missing.

    Equal pairs, if any, have their reverses in some order.
    """
    forward, order = torch.sort(_mix(_keys(graph)[0]))
    backward, order_backward = torch.sort(_mix(_keys(graph)[1]))
    if not torch.equal(forward, backward):
        return None
    return torch.empty_like(order).index_copy(0, order_backward, order)


def _keys(graph: Graph) -> Tuple[Tensor, Tensor]:
    """Combine the indices of each pair (n_pairs,) int64, and those of its reverse; products wrap around."""
    i, j = graph.pair_i, graph.pair_j
    forward = i * -7046029254386353131 + j * -3335678366873096957
    backward = j * -7046029254386353131 + i * -3335678366873096957
    if bool(graph.pair_shift.any()):
        factors = [-5840758589994634535, -1065810590584100411, -4658895280553007687]
        for axis, factor in enumerate(factors):
            term = graph.pair_shift[:, axis] * factor
            forward = forward + term
            backward = backward - term
    return forward, backward


def _mix(x: Tensor) -> Tensor:
    """Hash 64-bit integers (splitmix64)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
