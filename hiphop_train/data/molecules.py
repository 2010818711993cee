"""Identification of molecules by a hash of their connectivity, for millions of structures.

Two atoms are bonded if their distance is below `BOND_FACTOR` times the sum of their covalent radii (Cordero et al.
2008, the table of ASE). Atoms are coloured by their element, and colours are refined by those of bonded neighbours
(Weisfeiler and Leman, 1968), for all structures at once; the hash of a structure combines the colours of all its atoms,
independent of their order. Molecules that the refinement cannot distinguish (decalin and bicyclopentyl) count as one,
which keeps them in the same split.

The factor was chosen on the embedded tiny set, where the molecule is known: of 1,655 monomers from molecular dynamics
at 300 to 1000 K, the number whose graph differs from that of most conformers of the same molecule is

    factor      1.10 1.15 1.20 1.25 1.28 1.30 1.32 1.33 1.35 1.40
    differing    528  176   56   23    8    7    3    8   21   32

Below, stretched X-H bonds are missed; above, second neighbours in small rings count as bonded. At 1.30, in the middle
of the plateau, 7 of 1,655 differ (none equals another molecule of the set), and all 396 dimers have exactly two
fragments, both known (`scripts/connectivity.py`).
"""

from collections.abc import Callable

import numpy as np
import torch
from ase.data import covalent_radii
from numpy.typing import NDArray

from hiphop_train.data.hashes import GOLDEN_RATIO, Hashes, mix, sum_rows
from hiphop_train.data.structures import Structures
from hiphop_train.graph.neighbours import open_pairs

BOND_FACTOR = 1.30
"""A bond is shorter than this times the sum of the two covalent radii (dimensionless)."""
N_REFINEMENTS = 12
"""Range of the colours in bonds, enough to distinguish drug-like molecules."""
BLOCK_ATOMS = 200_000
"""Atoms processed together."""


def molecule_hashes(structures: Structures, advance: Callable[[int], None] = lambda n: None) -> Hashes:
    """Return hashes that are equal for conformers of the same molecule (or set of molecules).

    Parameters
    ----------
    structures : as read; bonds across the faces of a periodic cell are ignored
    advance : progress callback, called with the number of structures after each block

    Returns
    -------
    hashes : (n,)
    """
    size = max(1, int(BLOCK_ATOMS * len(structures) / max(1, len(structures.numbers))))
    found = []
    for block in structures.blocks(size):
        found.append(_hashes(block))
        advance(len(block))
    return np.concatenate(found) if found else np.zeros(0, np.uint64)


def _hashes(structures: Structures) -> Hashes:
    first, second = _bonds(structures)
    colour = mix(structures.numbers.astype(np.uint64) + np.uint64(0x51ED270B))
    for _ in range(N_REFINEMENTS):
        neighbours = np.zeros_like(colour)
        np.add.at(neighbours, first, mix(colour[second]))
        colour = mix(colour * GOLDEN_RATIO + neighbours)
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
