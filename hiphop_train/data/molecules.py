"""Which structures are the same molecule: their connectivity as a number, for millions of structures at a time.

The bonds are those of `data.connectivity`. The atoms of a structure get colours that begin with their element and are
refined by those of their bonded neighbours (Weisfeiler and Leman, 1968), all structures at once; a structure's number
is a hash of the colours of all its atoms, whatever their order. Molecules that the refinement cannot tell apart
(decalin and bicyclopentyl) count as one, which keeps them on one side of a split.
"""

from collections.abc import Callable

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import NDArray

from hiphop_train.data.connectivity import BOND_FACTOR
from hiphop_train.data.hashes import Hashes, mix, sum_rows
from hiphop_train.data.structures import Structures
from hiphop_train.graph.neighbours import open_pairs

N_REFINEMENTS = 12
"""Colours know their surroundings so many bonds far: more than what tells molecules of drug size apart."""

PIECE_ATOMS = 200_000
"""So many atoms at a time."""


def molecule_hashes(structures: Structures, advance: Callable[[int], None] = lambda n: None) -> Hashes:
    """Return numbers that are equal for conformers of the same molecule or molecules.

    Parameters
    ----------
    structures : as read; bonds across the faces of a periodic cell are not seen
    advance : called with the number of structures after each piece

    Returns
    -------
    hashes : (n,)
    """
    size = max(1, int(PIECE_ATOMS * len(structures) / max(1, len(structures.numbers))))
    found = []
    for piece in structures.pieces(size):
        found.append(_hashes(piece))
        advance(len(piece))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _hashes(structures: Structures) -> Hashes:
    first, second = _bonds(structures)
    colour = mix(structures.numbers.astype(np.uint64) + np.uint64(0x51ED270B))
    for _ in range(N_REFINEMENTS):
        heard = np.zeros_like(colour)
        np.add.at(heard, first, mix(colour[second]))
        colour = mix(colour * np.uint64(0x9E3779B97F4A7C15) + heard)
    return mix(sum_rows(colour, structures.offsets))


def _bonds(structures: Structures) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both directions of all bonds, as indices of atoms."""
    radii = covalent_radii[structures.numbers]  # (n_atoms,) Angstrom
    longest = 2 * BOND_FACTOR * float(radii.max())
    positions = torch.from_numpy(structures.positions.astype(np.float64))
    pairs = open_pairs(positions, torch.from_numpy(structures.sizes), longest)
    first, second = (index.numpy() for index in pairs)
    difference = structures.positions[first].astype(np.float64) - structures.positions[second]
    bonded = (difference**2).sum(axis=1) < (BOND_FACTOR * (radii[first] + radii[second])) ** 2
    return first[bonded], second[bonded]
