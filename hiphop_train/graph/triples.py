"""Triples: a receiving atom with two of its neighbours; TorchScript-safe."""

from typing import Tuple

import torch
from torch import Tensor

from hiphop_train.types import Graph


def pairs_of_pairs(pair_i: Tensor, n_atoms: int) -> Tuple[Tensor, Tensor]:
    """List all unordered pairs of pairs with the same receiving atom, without a loop over atoms.

    Each pair is combined with the pairs of the same atom that precede it.

    Parameters
    ----------
    pair_i : (n_pairs,) int64, ascending: the receiving atom of each pair
    n_atoms : number of atoms

    Returns
    -------
    first, second : (n_triples,) int64, indices of pairs, first < second; a triple's atom is ``pair_i[first]``, and
        triples of the same atom are contiguous
    """
    device = pair_i.device
    n_neighbours = torch.bincount(pair_i, minlength=n_atoms)
    start = torch.cumsum(n_neighbours, 0) - n_neighbours  # first pair of each atom
    pair = torch.arange(pair_i.shape[0], device=device)
    n_before = pair - start[pair_i]  # pairs of the same atom that precede this one
    second = torch.repeat_interleave(pair, n_before)
    rank = torch.arange(second.shape[0], device=device) - (torch.cumsum(n_before, 0) - n_before)[second]
    return start[pair_i[second]] + rank, second


def triples_within(graph: Graph, cutoff: float) -> Tensor:
    """List the triples whose two pairs are shorter than a cutoff: (2, n_triples) int64, the pairs of each."""
    distance = torch.linalg.norm(graph.pair_vectors, dim=1)
    near = torch.nonzero(distance < cutoff).squeeze(1)
    first, second = pairs_of_pairs(graph.pair_i.index_select(0, near), graph.species.shape[0])
    return torch.stack([near.index_select(0, first), near.index_select(0, second)])


def line_graph_within(graph: Graph, cutoff: float) -> Tensor:
    """List the directed line graph of the pairs shorter than a cutoff: which pairs end where another begins.

    A pair leads from its sender to its receiver. Pair A precedes pair B if the receiver of A is the sender of B; B may
    lead back to where A began.

    Parameters
    ----------
    graph : with pairs sorted by receiver
    cutoff : Angstrom

    Returns
    -------
    triples : (2, n_triples) int64, A and B of each; B ascends
    """
    distance = torch.linalg.norm(graph.pair_vectors, dim=1)
    near = torch.nonzero(distance < cutoff).squeeze(1)
    sender = graph.pair_j.index_select(0, near)
    n_received = torch.bincount(graph.pair_i.index_select(0, near), minlength=graph.species.shape[0])
    start = torch.cumsum(n_received, 0) - n_received  # the first near pair that each atom receives
    n_before = n_received.index_select(0, sender)  # pairs A of each pair B
    after = torch.repeat_interleave(torch.arange(near.shape[0], device=near.device), n_before)
    rank = torch.arange(after.shape[0], device=near.device) - (torch.cumsum(n_before, 0) - n_before)[after]
    before = start.index_select(0, sender).index_select(0, after) + rank
    return torch.stack([near.index_select(0, before), near.index_select(0, after)])
