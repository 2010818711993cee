"""Hashes that distinguish geometries."""

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

GRID = 1e-4
"""Angstrom; positions that round to the same multiple of this count as equal."""

GOLDEN_RATIO = np.uint64(0x9E3779B97F4A7C15)
"""2**64 divided by the golden ratio, the increment of splitmix64."""


def mix(values: Hashes) -> Hashes:
    """Hash 64-bit integers (the finaliser of splitmix64: Steele, Lea, Flood, OOPSLA 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = values ^ (values >> np.uint64(31))
    return mixed


def chain(hashes: Hashes, values: Hashes) -> Hashes:
    """Extend each hash by one more number; the order matters."""
    return mix(hashes + values + GOLDEN_RATIO)


def sum_rows(values: Hashes, offsets: NDArray[np.int64]) -> Hashes:
    """Sum 64-bit numbers of atoms (n_atoms,) over each structure, modulo 2^64; no structure may be empty."""
    if len(offsets) < 2:
        return np.zeros(0, np.uint64)
    sums: Hashes = np.add.reduceat(values, offsets[:-1])
    return sums


def index_within(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n_atoms,) index of each atom in its structure."""
    index: NDArray[np.int64] = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
    return index


def geometry_hashes(numbers: NDArray[np.uint8], positions: NDArray[np.float64], offsets: NDArray[np.int64]) -> Hashes:
    """Return hashes that are equal for equal lists of atoms at equal positions (to `GRID`, up to rounding).

    Parameters
    ----------
    numbers : (n_atoms,) atomic numbers
    positions : (n_atoms, 3) Angstrom
    offsets : (n + 1,) atoms of structure k are [offsets[k], offsets[k + 1])

    Returns
    -------
    hashes : (n,)
    """
    state = numbers.astype(np.uint64) + (index_within(offsets).astype(np.uint64) << np.uint64(8))
    for axis in range(3):
        steps = np.rint(positions[:, axis].astype(np.float64) / GRID).astype(np.int64).view(np.uint64)
        state = mix(state + GOLDEN_RATIO) ^ steps
    return mix(sum_rows(mix(state), offsets))
