"""Statistics fitted to the training labels, in a separate step between data set-up and training.

They are sums over the structures, computed in blocks, so the set may be larger than memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError
from hiphop_train.units import HARTREE

GSAE: dict[str, dict[str, float]] = {
    "gsae": {
        "H": -0.4993212,
        "C": -37.8338334,
        "N": -54.5732825,
        "O": -75.0424519,
        "F": -99.6949007,
        "S": -398.0814169,
        "Cl": -460.1167006,
    },
    "gsae_tz": {
        "H": -0.5013925,
        "C": -37.8459781,
        "N": -54.5915914,
        "O": -75.0768759,
        "F": -99.7471707,
        "S": -398.1079973,
        "Cl": -460.1467777,
    },
}
"""Energies of isolated atoms in their ground states, Hartree: ``gsae`` in wB97X/6-31G(d) (ANI-1x, ANI-2x, COMP6),
``gsae_tz`` in wB97X/def2-TZVPP."""

AtomEnergies = Literal["fit", "gsae", "gsae_tz"] | dict[str, float]
"""E0: fitted, named, or given in eV by element."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the training labels that the potential uses.

    Attributes
    ----------
    e0 : (n_theories, n_elements) float64, eV, energy of an atom of each element, from least squares or as given
    scale : eV, unit of the network's energies: the root mean square of the force components times 1 Angstrom, or
        without forces the residual of the E0 fit per square root of the number of atoms
    rank : of the composition matrix, the lowest over levels of theory; if below the number of elements, E0 is the
        solution of minimal norm
    residual : eV, standard deviation of energies after E0
    fitted : whether E0 was fitted
    """

    e0: NDArray[np.float64]
    scale: float
    rank: int
    residual: float
    fitted: bool = True

    def plain(self) -> dict[str, Any]:
        """Return plain numbers, for checkpoints."""
        return {**vars(self), "e0": self.e0.tolist()}


class _Sums:
    """Sums over the energies at one level of theory, by composition; sufficient for a fit of E0."""

    def __init__(self) -> None:
        self.of_composition: dict[bytes, NDArray[np.float64]] = {}  # number, mean, sum of squares about the mean

    def add(self, composition: NDArray[np.float64], energy: NDArray[np.float64]) -> None:
        """Add compositions (n, n_elements) with energies (n,)."""
        if not len(energy):
            return
        kinds, which, count = np.unique(composition, axis=0, return_inverse=True, return_counts=True)
        which = which.reshape(-1)
        mean = np.bincount(which, energy) / count
        spread = np.bincount(which, (energy - mean[which]) ** 2)
        for kind, n, m, s in zip(kinds, count, mean, spread, strict=True):
            n0, m0, s0 = self.of_composition.get(kind.tobytes(), np.zeros(3))
            merged = n0 + n
            step = m - m0
            self.of_composition[kind.tobytes()] = np.array(
                [merged, m0 + step * n / merged, s0 + s + step**2 * n0 * n / merged]
            )

    def table(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Compositions (n, n_elements), and for each the number, mean and sum of squared deviations of energies."""
        kinds = np.array([np.frombuffer(key) for key in self.of_composition])
        count, mean, squares = np.array(list(self.of_composition.values())).T
        return kinds, count, mean, squares


def fit_statistics(
    structures: Structures, elements: Sequence[int], index: NDArray[np.int64] | None = None, e0: AtomEnergies = "fit"
) -> Statistics:
    """Fit E0 by float64 least squares on composition, for each level of theory, and the energy scale.

    Parameters
    ----------
    structures : all structures
    elements : atomic numbers of the model's types
    index : training structures; by default all
    e0 : source of E0
    """
    sums = [_Sums() for _ in structures.theory_names]
    squares, n_components = 0.0, 0
    index = np.arange(len(structures)) if index is None else index
    for start in range(0, len(index), 50_000):
        block = structures.take(np.sort(index[start : start + 50_000]))
        known = block.has_energy
        composition = block.composition(elements)
        for theory, of_theory in enumerate(sums):
            chosen = known & (block.theory == theory)
            of_theory.add(composition[chosen], block.energy[chosen])
        forces = block.forces[np.repeat(block.has_forces, block.sizes)].astype(np.float64)
        squares += float((forces**2).sum())
        n_components += forces.size
    named = None if e0 == "fit" else _given(e0, elements, structures)
    fits = [_fit(of_theory, len(elements), named) for of_theory in sums]
    n_energies = sum(fit[3] for fit in fits)
    if n_components:
        scale = (squares / n_components) ** 0.5
    elif n_energies:
        scale = (sum(fit[4] for fit in fits) / n_energies) ** 0.5
    else:
        raise DataError(f"{structures.source}: the training split has neither energies nor forces")
    residual = (sum(fit[2] for fit in fits) / max(1, n_energies)) ** 0.5
    return Statistics(
        e0=np.stack([fit[0] for fit in fits]),
        scale=scale if scale > 0 else 1.0,
        rank=min((fit[1] for fit in fits if fit[3]), default=0),
        residual=residual,
        fitted=named is None,
    )


def _fit(
    sums: _Sums, n_elements: int, named: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], int, float, int, float]:
    """E0, rank, sum of squared deviations of residuals, number of energies, sum of squared residuals per atom."""
    if not sums.of_composition:
        return np.zeros(n_elements) if named is None else named, 0, 0.0, 0, 0.0
    composition, count, mean, squares = sums.table()
    weight = np.sqrt(count)
    solution = np.linalg.lstsq(composition * weight[:, None], mean * weight, rcond=1e-10)
    e0 = solution[0].astype(np.float64) if named is None else named
    residual = mean - composition @ e0
    centre = float((count * residual).sum() / count.sum())
    spread = float((squares + count * (residual - centre) ** 2).sum())
    sizes = composition.sum(axis=1)
    per_atom = float(((squares + count * residual**2) / sizes).sum())
    return e0, int(solution[2]), spread, int(count.sum()), per_atom


def _given(e0: str | dict[str, float], elements: Sequence[int], structures: Structures) -> NDArray[np.float64]:
    """E0 (n_elements,) in eV, by name or as given."""
    if len(structures.theory_names) > 1:
        raise ConfigError(
            f"data.e0={e0!r}: with several levels of theory ({', '.join(structures.theory_names)}) E0 must be fitted: "
            "data.e0=fit"
        )
    table = {symbol: value * HARTREE for symbol, value in GSAE[e0].items()} if isinstance(e0, str) else e0
    symbols = [chemical_symbols[number] for number in elements]
    missing = [symbol for symbol in symbols if symbol not in table]
    if missing:
        raise ConfigError(
            f"data.e0={e0!r} has no energy of {', '.join(missing)}, only of {', '.join(table)}; give all, in eV: "
            f"'data.e0={{{','.join(f'{symbol}:...' for symbol in symbols)}}}', or data.e0=fit"
        )
    return np.array([table[symbol] for symbol in symbols])
