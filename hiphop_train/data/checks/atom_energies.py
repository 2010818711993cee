"""Energies of atoms: named ones, and the fit to a data set of any size."""

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hiphop_train.data.statistics import GSAE as GSAE_BY_SYMBOL
from hiphop_train.units import HARTREE

GSAE = {atomic_numbers[symbol]: energy for symbol, energy in GSAE_BY_SYMBOL["gsae"].items()}
"""Hartree, ground states of single atoms at wB97X/6-31G(d), six Cartesian d functions (torchani's constants)."""

LINEAR_FIT = {
    1: -0.5978583944,
    6: -38.0893387805,
    7: -54.7119682986,
    8: -75.1910677474,
    9: -99.8034850678,
    16: -398.1577125335,
    17: -460.1681939421,
}
"""Hartree, least-squares fit to ANI-2x, wB97X/6-31G(d) (torchani's constants)."""


@dataclass(frozen=True, eq=False)
class AtomFit:
    """Energies of atoms in the least-squares sense.

    Attributes
    ----------
    elements : atomic numbers
    e0 : (n_elements,) eV
    rank : of the compositions; below the number of elements, E0 is the smallest of many equal fits
    residual : (n,) eV per atom, energies less E0
    """

    elements: list[int]
    e0: NDArray[np.float64]
    rank: int
    residual: NDArray[np.float64]


def named_residual(
    named: dict[int, float],
    energy: NDArray[np.float64],
    composition: NDArray[np.int32],
    compositions: NDArray[np.int32],
) -> NDArray[np.float64]:
    """(n,) eV per atom, energies less named ones of atoms; NaN where an element has none.

    Parameters
    ----------
    named : atomic number -> Hartree
    energy : (n,) eV
    composition : (n,) rows of `compositions`
    compositions : (n_compositions, 119) number of atoms of each atomic number
    """
    base, sizes = named_sums(named, compositions)
    left: NDArray[np.float64] = (energy - base[composition]) / sizes[composition]
    return left


def named_sums(
    named: dict[int, float], compositions: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum named energies (Hartree) over the atoms of compositions; returns eV, NaN where one has none, and sizes."""
    table = np.zeros(compositions.shape[1])
    known = np.zeros(compositions.shape[1], np.bool_)
    for number, value in named.items():
        table[number], known[number] = value * HARTREE, True
    base = compositions @ table
    base[(compositions[:, ~known] > 0).any(axis=1)] = np.nan
    return base, compositions.sum(axis=1).astype(np.float64)


def fit_atoms(energy: NDArray[np.float64], composition: NDArray[np.int32], compositions: NDArray[np.int32]) -> AtomFit:
    """Fit E0 in float64, twice: the second time without what lies far off.

    Parameters
    ----------
    energy : (n,) eV, all known
    composition : (n,) rows of `compositions`
    compositions : (n_compositions, 119) number of atoms of each atomic number
    """
    elements = [int(number) for number in np.flatnonzero(compositions[np.unique(composition)].any(axis=0))]
    matrix = compositions[:, elements].astype(np.float64)
    sizes = matrix.sum(axis=1)
    kept = np.ones(len(energy), np.bool_)
    for _ in range(2):
        # one row for each composition, weighted by its structures, has the same solution as a row for each structure
        n = np.bincount(composition[kept], minlength=len(matrix))
        mean = np.bincount(composition[kept], energy[kept], len(matrix)) / np.maximum(n, 1)
        root = np.sqrt(n)
        solution = np.linalg.lstsq(matrix * root[:, None], mean * root, rcond=1e-10)
        e0, rank = solution[0].astype(np.float64), int(solution[2])
        residual = (energy - (matrix @ e0)[composition]) / sizes[composition]
        centre, spread = robust(residual)
        if spread > 0:
            kept = np.abs(residual - centre) <= 10 * spread
    return AtomFit(elements, e0, rank, residual)


def robust(values: NDArray[np.floating]) -> tuple[float, float]:
    """Median, and the median absolute deviation from it as that of a standard deviation; NaN left out."""
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    centre = float(np.median(known))
    return centre, 1.4826 * float(np.median(np.abs(known - centre)))
