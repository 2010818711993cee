"""Atomic energies: published values, and the fit to a data set."""

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hiphop_train.data.checks.results import deviations
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

FAR_OFF = 10.0
"""Robust standard deviations beyond which an energy is excluded from the second fit."""


@dataclass(frozen=True, eq=False)
class AtomFit:
    """Atomic energies from a least-squares fit.

    Attributes
    ----------
    elements : atomic numbers
    e0 : (n_elements,) eV
    rank : of the compositions; if below the number of elements, E0 is the solution of minimal norm
    residual : (n,) eV per atom, energies minus E0
    """

    elements: list[int]
    e0: NDArray[np.float64]
    rank: int
    residual: NDArray[np.float64]


def reference_residual(
    reference: dict[int, float],
    energy: NDArray[np.float64],
    composition: NDArray[np.int32],
    compositions: NDArray[np.int32],
) -> NDArray[np.float64]:
    """(n,) eV per atom, energies minus reference energies of atoms; NaN where an element has none.

    Parameters
    ----------
    reference : atomic number -> Hartree
    energy : (n,) eV
    composition : (n,) rows of `compositions`
    compositions : (n_compositions, 119) number of atoms of each atomic number
    """
    base = reference_sums(reference, compositions)
    residual: NDArray[np.float64] = (energy - base[composition]) / compositions.sum(axis=1)[composition]
    return residual


def reference_sums(reference: dict[int, float], compositions: NDArray[np.int32]) -> NDArray[np.float64]:
    """(n_compositions,) eV, reference energies (Hartree) summed over atoms; NaN where an element has none."""
    table = np.zeros(compositions.shape[1])
    known = np.zeros(compositions.shape[1], np.bool_)
    for number, value in reference.items():
        table[number], known[number] = value * HARTREE, True
    base: NDArray[np.float64] = compositions @ table
    base[(compositions[:, ~known] > 0).any(axis=1)] = np.nan
    return base


def fit_atoms(energy: NDArray[np.float64], composition: NDArray[np.int32], compositions: NDArray[np.int32]) -> AtomFit:
    """Fit E0 in float64, twice: the second time without outliers.

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
        # one row per composition, weighted by its number of structures, has the same solution as one per structure
        n = np.bincount(composition[kept], minlength=len(matrix))
        mean = np.bincount(composition[kept], energy[kept], len(matrix)) / np.maximum(n, 1)
        root = np.sqrt(n)
        solution = np.linalg.lstsq(matrix * root[:, None], mean * root, rcond=1e-10)
        e0, rank = solution[0].astype(np.float64), int(solution[2])
        residual = (energy - (matrix @ e0)[composition]) / sizes[composition]
        kept = np.abs(deviations(residual)) <= FAR_OFF
    return AtomFit(elements, e0, rank, residual)
