"""Bonded fragments of a structure and a canonical name for their connectivity.

A molecule-wise split, a duplicate check or the pairing of conformers needs to know which structures are the same
molecule. The release files do not say: a group of ANI-1x is a formula, and isomers share it. This module reads the
bonds off the geometry and names each bonded fragment by its element-labelled graph, the same name for every
conformer, orientation and atom order.

Two atoms are bonded when their distance is below `hiphop_train.data.molecules.BOND_FACTOR` times the sum of their
covalent radii (Cordero et al. 2008, the table of ASE).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import ArrayLike, NDArray

from hiphop_train.data.molecules import BOND_FACTOR
from hiphop_train.errors import DataError

_LABEL_CHARACTERS = 6


class Fragment(NamedTuple):
    """One bonded fragment of a structure.

    Attributes
    ----------
    atoms
        Indices of its atoms in the structure, ascending, int64 (n_fragment_atoms,).
    key
        Canonical name of its connectivity, `FORMULA-label`, for instance `C2H6O1-3fa9c1`.
    """

    atoms: NDArray[np.int64]
    key: str


def bond_matrix(numbers: ArrayLike, positions: ArrayLike, factor: float = BOND_FACTOR) -> NDArray[np.bool_]:
    """Return which atoms of one open (not periodic) structure are bonded.

    Parameters
    ----------
    numbers
        Atomic numbers (n_atoms,).
    positions
        Cartesian coordinates in Angstrom (n_atoms, 3).
    factor
        A bond is shorter than this times the sum of the two covalent radii.

    Returns
    -------
    bool (n_atoms, n_atoms), symmetric, false on the diagonal.

    Raises
    ------
    DataError
        If the shapes do not fit together, a coordinate is not finite, or an element has no covalent radius.
    """
    species = np.asarray(numbers, dtype=np.int64)  # (n_atoms,)
    points = np.asarray(positions, dtype=np.float64)  # (n_atoms, 3)
    if species.ndim != 1 or points.shape != (len(species), 3):
        raise DataError(
            f"connectivity needs numbers of shape (n_atoms,) and positions of shape (n_atoms, 3), "
            f"got {species.shape} and {points.shape}; pass one structure at a time"
        )
    if not np.isfinite(points).all():
        raise DataError("connectivity needs finite positions, got NaN or infinity; drop the structure first")
    if species.size and not (species.min() >= 1 and species.max() < len(covalent_radii)):
        raise DataError(
            f"connectivity needs atomic numbers from 1 to {len(covalent_radii) - 1}, got {species.min()} to "
            f"{species.max()}; padding atoms must be removed first"
        )
    radii = covalent_radii[species]  # (n_atoms,) Angstrom
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)  # (n_atoms, n_atoms)
    bonded: NDArray[np.bool_] = distances < factor * (radii[:, None] + radii[None])
    np.fill_diagonal(bonded, False)
    return bonded


def fragments(numbers: ArrayLike, positions: ArrayLike, factor: float = BOND_FACTOR) -> list[Fragment]:
    """Split one structure into its bonded fragments.

    Parameters
    ----------
    numbers
        Atomic numbers (n_atoms,).
    positions
        Cartesian coordinates in Angstrom (n_atoms, 3); open boundaries.
    factor
        A bond is shorter than this times the sum of the two covalent radii.

    Returns
    -------
    One `Fragment` per connected part of the bond graph, in the order of their first atoms; every atom is in one.
    """
    species = np.asarray(numbers, dtype=np.int64)
    steps = _graph_distances(bond_matrix(species, positions, factor))  # (n_atoms, n_atoms)
    found: list[Fragment] = []
    unseen = np.ones(len(species), dtype=bool)
    while unseen.any():
        atoms = np.flatnonzero(steps[np.argmax(unseen)] >= 0)  # (n_fragment_atoms,)
        unseen[atoms] = False
        found.append(Fragment(atoms, _connectivity_key(species[atoms], steps[np.ix_(atoms, atoms)])))
    return found


def molecule_key(numbers: ArrayLike, positions: ArrayLike, factor: float = BOND_FACTOR) -> str:
    """Name the connectivity of one structure: the sorted keys of its fragments joined by `+`.

    Equal for all conformers of the same molecules, whatever their orientation and order of atoms; different for
    isomers. The characters are letters, digits, `-` and `+`, so that the key may stand in file names and overrides.

    Parameters
    ----------
    numbers
        Atomic numbers (n_atoms,).
    positions
        Cartesian coordinates in Angstrom (n_atoms, 3); open boundaries.
    factor
        A bond is shorter than this times the sum of the two covalent radii.
    """
    return "+".join(sorted(fragment.key for fragment in fragments(numbers, positions, factor)))


def _graph_distances(bonded: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the smallest number of bonds between every two atoms, -1 where no path exists, (n_atoms, n_atoms)."""
    n_atoms = len(bonded)
    steps = np.where(np.eye(n_atoms, dtype=bool), 0, -1).astype(np.int64)
    reached = np.eye(n_atoms, dtype=bool)
    for step in range(1, n_atoms):
        frontier = (reached.astype(np.int64) @ bonded.astype(np.int64) > 0) & ~reached
        if not frontier.any():
            break
        steps[frontier] = step
        reached |= frontier
    return steps


def _connectivity_key(species: NDArray[np.int64], steps: NDArray[np.int64]) -> str:
    """Name a connected graph by Weisfeiler-Lehman colour refinement.

    Atoms start with their element and the elements found at every number of bonds from them, which tells apart some
    graphs that plain refinement from elements does not (decalin and bicyclopentyl). Then each colour is replaced by
    a hash of itself and the sorted colours of its neighbours, as many times as the fragment has atoms. Graphs that
    are equal always get the same key; a few highly symmetric cages of equal formula may share one.

    Parameters
    ----------
    species
        Atomic numbers (n_fragment_atoms,).
    steps
        Number of bonds between every two atoms, (n_fragment_atoms, n_fragment_atoms); 1 means bonded.
    """
    n_atoms = len(species)
    colours = [
        _digest(f"{species[i]}:" + ",".join(f"{s}.{z}" for s, z in sorted(zip(steps[i], species, strict=True))))
        for i in range(n_atoms)
    ]
    neighbours = [np.flatnonzero(steps[i] == 1) for i in range(n_atoms)]
    for _ in range(n_atoms):
        colours = [_digest(colours[i] + "".join(sorted(colours[j] for j in neighbours[i]))) for i in range(n_atoms)]
    counts = Counter(chemical_symbols[z] for z in species)
    formula = "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))
    return f"{formula}-{_digest(''.join(sorted(colours)))[:_LABEL_CHARACTERS]}"


def _digest(text: str) -> str:
    """Hash a text the same way in every process and on every machine."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()
