"""Pairs of small open systems for the loader: those of `graph.neighbours.open_pairs`, found faster.

Coordinates are looked at one by one and the receiving atom's are repeated, not gathered; vectors come with the pairs.
NumPy's calls cost less than torch's, which matters with arrays as short as these.
"""

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


def open_pairs_and_vectors(
    positions: NDArray[np.float64], sizes: Integers, cutoff: float
) -> tuple[Integers, Integers, NDArray[np.float64]]:
    """Find all pairs inside of the cutoff in a batch of open systems, and their vectors.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system
    sizes : (n_systems,) number of atoms of each system
    cutoff : Angstrom

    Returns
    -------
    pair_i, pair_j : (n_pairs,), sorted by i, then by j
    vectors : (n_pairs, 3) Angstrom, r_j - r_i
    """
    partners = np.repeat(sizes, sizes)  # (n_atoms,) atoms of the same system, itself included
    first_atom = np.repeat(np.cumsum(sizes) - sizes, sizes)
    first_candidate = np.cumsum(partners) - partners
    n_candidates = int(partners.sum())
    pair_j = np.repeat(first_atom - first_candidate, partners)
    pair_j += np.arange(n_candidates)
    columns = np.ascontiguousarray(positions.T)  # (3, n_atoms)
    difference = np.empty((3, n_candidates))
    for column, found in zip(columns, difference, strict=True):
        np.take(column, pair_j, out=found, mode="clip")  # other modes go through a buffer
        found -= np.repeat(column, partners)
    squared = difference[0] * difference[0]
    for found in difference[1:]:
        squared += found * found
    near = squared < cutoff * cutoff
    near[first_candidate + np.arange(len(partners)) - first_atom] = False  # itself
    inside = np.flatnonzero(near)
    pair_i = np.repeat(np.arange(len(partners)), partners)
    vectors = np.empty((len(inside), 3))
    for k in range(3):
        vectors[:, k] = difference[k][inside]
    return pair_i[inside], pair_j[inside], vectors
