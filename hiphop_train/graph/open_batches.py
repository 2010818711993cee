"""Pairs and their vectors for batches of small open systems, for the loader: NumPy, in one pass."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def open_pair_vectors(
    positions: NDArray[np.float64], sizes: NDArray[np.int64], cutoff: float, dtype: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Find the pairs of `hiphop_train.graph.neighbours.open_pairs`, in the same order, with their vectors.

    Vectors are by-products of the search: this takes less than half the time of a search followed by a gather.

    Parameters
    ----------
    positions : (n_atoms, 3) Angstrom, system after system
    sizes : (n_systems,) number of atoms of each system
    cutoff : Angstrom
    dtype : NumPy's floating-point type of the vectors; differences are computed in double precision, then rounded

    Returns
    -------
    pair_i, pair_j : (n_pairs,) int64
    vectors : (n_pairs, 3) Angstrom, from i to j
    """
    n_atoms = len(positions)
    partners = np.repeat(sizes, sizes)  # (n_atoms,) candidates of each atom, itself included
    first_atom = np.repeat(np.cumsum(sizes) - sizes, sizes)
    first_candidate = np.cumsum(partners) - partners
    atoms = np.arange(n_atoms)
    pair_i = np.repeat(atoms, partners)
    pair_j = np.arange(len(pair_i))
    pair_j += np.repeat(first_atom - first_candidate, partners)
    vectors = np.take(positions, pair_j, axis=0)
    vectors -= np.repeat(positions, partners, axis=0)
    squared = np.einsum("pk,pk->p", vectors, vectors)
    squared[first_candidate + atoms - first_atom] = np.inf  # itself
    inside = np.flatnonzero(squared < cutoff * cutoff)
    return pair_i.take(inside), pair_j.take(inside), vectors.astype(dtype).take(inside, axis=0)
