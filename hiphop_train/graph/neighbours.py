"""Neighbour search, for open and periodic systems; TorchScript-safe.

The pairs are ordered: (i, j) and (j, i) both appear, sorted by the receiving atom i. Small open systems are searched by
brute force, all others in linear time (`hiphop_train.graph.cells`); the pairs are the same.
"""

from typing import Tuple

import torch
from torch import Tensor

from hiphop_train.graph.cells import linear_pairs


def open_pairs(positions: Tensor, sizes: Tensor, cutoff: float) -> Tuple[Tensor, Tensor]:
    """Find all pairs within the cutoff in a batch of open systems by brute force, without a loop over the systems.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system
    sizes : (n_systems,) int64, number of atoms of each system
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64
    """
    partners = torch.repeat_interleave(sizes, sizes)  # (n_atoms,) atoms of the same system, itself included
    first_atom = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes)
    first_candidate = torch.cumsum(partners, 0) - partners
    pair_i = torch.repeat_interleave(torch.arange(positions.shape[0], device=positions.device), partners)
    pair_j = torch.arange(pair_i.shape[0], device=positions.device) + (first_atom - first_candidate)[pair_i]
    squared = torch.zeros((pair_i.shape[0],), dtype=positions.dtype, device=positions.device)
    for coordinate in positions.T.contiguous().unbind(0):  # faster than (n, 3) rows
        squared += (coordinate.index_select(0, pair_j) - coordinate.index_select(0, pair_i)).square_()
    inside = torch.nonzero((squared < cutoff * cutoff) & (pair_i != pair_j))[:, 0]
    return pair_i.index_select(0, inside), pair_j.index_select(0, inside)


def brute_force_pays(n_atoms: int, n_candidates: int, most: int = 80) -> bool:
    """Whether brute force is faster than the linear search for open systems.

    Parameters
    ----------
    n_atoms : of all systems
    n_candidates : sum of the squares of their sizes
    most : candidates per atom at which both take the same time
    """
    return n_candidates <= most * n_atoms


def neighbours(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Find all pairs within the cutoff in one system, open or periodic in any direction.

    Cells may be smaller than the cutoff: an atom then has several images of another, and of itself, as neighbours.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, inside or outside the cell
    cell : (3, 3) Angstrom, rows are lattice vectors
    pbc : (3,) bool
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64
    pair_shift : (n_pairs, 3) int64, such that the pair's vector is r_j + shift . cell - r_i
    """
    sizes = torch.full((1,), positions.shape[0], dtype=torch.int64, device=positions.device)
    return batch_neighbours(positions, sizes, cell.unsqueeze(0), pbc.unsqueeze(0), cutoff)


def batch_neighbours(
    positions: Tensor, sizes: Tensor, cell: Tensor, pbc: Tensor, cutoff: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Find all pairs within the cutoff in a batch, without a loop over the systems.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system
    sizes : (n_systems,) int64
    cell : (n_systems, 3, 3) Angstrom
    pbc : (n_systems, 3) bool
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j, pair_shift : as in `neighbours`, with indices into the batch
    """
    if bool(pbc.any()) or not brute_force_pays(positions.shape[0], int((sizes * sizes).sum())):
        return linear_pairs(positions, sizes, cell, pbc, cutoff)
    pair_i, pair_j = open_pairs(positions, sizes, cutoff)
    return pair_i, pair_j, torch.zeros((pair_i.shape[0], 3), dtype=torch.int64, device=positions.device)
