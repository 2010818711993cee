"""Neighbour search by brute force, for open and periodic systems; TorchScript-safe.

The pairs are ordered: (i, j) and (j, i) both appear, sorted by the receiving atom i.
"""

from typing import List, Tuple

import torch
from torch import Tensor


def open_pairs(positions: Tensor, sizes: Tensor, cutoff: float) -> Tuple[Tensor, Tensor]:
    """Find all pairs inside of the cutoff in a batch of open systems, without a loop over the systems.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system
    sizes : (n_systems,) int64, number of atoms of each system
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64
    """
    n_candidates = sizes * sizes
    total = int(n_candidates.sum())
    system = torch.repeat_interleave(torch.arange(sizes.shape[0], device=sizes.device), n_candidates)
    rank = torch.arange(total, device=sizes.device) - (torch.cumsum(n_candidates, 0) - n_candidates)[system]
    first_atom = (torch.cumsum(sizes, 0) - sizes)[system]
    pair_i = first_atom + torch.div(rank, sizes[system], rounding_mode="floor")
    pair_j = first_atom + torch.remainder(rank, sizes[system])
    squared = (positions[pair_j] - positions[pair_i]).square().sum(1)
    inside = (squared < cutoff * cutoff) & (pair_i != pair_j)
    return pair_i[inside], pair_j[inside]


def complete_cell(cell: Tensor, pbc: Tensor) -> Tensor:
    """Replace the lattice vectors of open directions by unit vectors orthogonal to the periodic ones.

    Parameters
    ----------
    cell : (3, 3) Angstrom, rows are lattice vectors
    pbc : (3,) bool
    """
    if bool(pbc.all()):
        return cell
    periodic = cell[pbc]  # (n_periodic, 3)
    basis = torch.linalg.svd(periodic, full_matrices=True)[2]  # rows after the first n_periodic span the complement
    completed = cell.clone()
    completed[~pbc] = basis[periodic.shape[0] :]
    return completed


def neighbours(positions: Tensor, cell: Tensor, pbc: Tensor, cutoff: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Find all pairs inside of the cutoff in one system, open or periodic in any direction.

    Cells smaller than the cutoff are right: an atom then meets several images of another, and of itself.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, inside or outside of the cell
    cell : (3, 3) Angstrom, rows are lattice vectors
    pbc : (3,) bool
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64
    pair_shift : (n_pairs, 3) int64, such that the pair's vector is r_j + shift . cell - r_i
    """
    n_atoms = positions.shape[0]
    if not bool(pbc.any()):
        sizes = torch.full((1,), n_atoms, dtype=torch.int64, device=positions.device)
        pair_i, pair_j = open_pairs(positions, sizes, cutoff)
        return pair_i, pair_j, torch.zeros((pair_i.shape[0], 3), dtype=torch.int64, device=positions.device)

    full_cell = complete_cell(cell, pbc)
    inverse = torch.linalg.inv(full_cell)
    wrap = torch.floor(positions @ inverse) * pbc.to(positions.dtype)  # (n_atoms, 3) cells away from home
    home = positions - wrap @ full_cell
    heights = 1.0 / torch.linalg.norm(inverse, dim=0)  # (3,) distance between opposite faces
    n_images = torch.ceil(cutoff / heights).to(torch.int64) * pbc.to(torch.int64)

    difference = home[None, :, :] - home[:, None, :]  # (i, j, 3)
    wraps = wrap.to(torch.int64)
    found_i: List[Tensor] = []
    found_j: List[Tensor] = []
    found_shift: List[Tensor] = []
    for a in range(-int(n_images[0]), int(n_images[0]) + 1):
        for b in range(-int(n_images[1]), int(n_images[1]) + 1):
            for c in range(-int(n_images[2]), int(n_images[2]) + 1):
                shift = torch.tensor([a, b, c], dtype=torch.int64, device=positions.device)
                squared = (difference + shift.to(positions.dtype) @ full_cell).square().sum(2)
                inside = squared < cutoff * cutoff
                if a == 0 and b == 0 and c == 0:
                    inside.fill_diagonal_(False)
                pairs = torch.nonzero(inside)
                found_i.append(pairs[:, 0])
                found_j.append(pairs[:, 1])
                found_shift.append(shift - wraps[pairs[:, 1]] + wraps[pairs[:, 0]])
    pair_i = torch.cat(found_i)
    order = torch.argsort(pair_i, stable=True)
    return pair_i[order], torch.cat(found_j)[order], torch.cat(found_shift)[order]


def batch_neighbours(
    positions: Tensor, sizes: Tensor, cell: Tensor, pbc: Tensor, cutoff: float
) -> Tuple[Tensor, Tensor, Tensor]:
    """Find all pairs inside of the cutoff in a batch: vectorised where all systems are open.

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
    if not bool(pbc.any()):
        pair_i, pair_j = open_pairs(positions, sizes, cutoff)
        return pair_i, pair_j, torch.zeros((pair_i.shape[0], 3), dtype=torch.int64, device=positions.device)
    found_i: List[Tensor] = []
    found_j: List[Tensor] = []
    found_shift: List[Tensor] = []
    start = 0
    for k in range(sizes.shape[0]):
        stop = start + int(sizes[k])
        i, j, shift = neighbours(positions[start:stop], cell[k], pbc[k], cutoff)
        found_i.append(i + start)
        found_j.append(j + start)
        found_shift.append(shift)
        start = stop
    return torch.cat(found_i), torch.cat(found_j), torch.cat(found_shift)
