"""Statistics fitted to the training labels, in one visible step between data set-up and fit."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError


@dataclass(frozen=True, eq=False)
class Statistics:
    """What the potential takes from the training labels.

    Attributes
    ----------
    e0 : (n_elements,) float64, eV, energy of an atom of each element in the least-squares sense
    scale : eV, natural unit of the network's energies: the root mean square of the force components times 1 Angstrom,
        or without forces the residual of the E0 fit per square root of atoms
    rank : rank of the composition matrix; below the number of elements, E0 is the smallest of many equal fits
    residual : eV, standard deviation of energies after E0
    """

    e0: NDArray[np.float64]
    scale: float
    rank: int
    residual: float

    def plain(self) -> dict[str, Any]:
        """Return plain numbers, for checkpoints."""
        return {"e0": self.e0.tolist(), "scale": self.scale, "rank": self.rank, "residual": self.residual}


def fit_statistics(structures: Structures, elements: list[int]) -> Statistics:
    """Fit E0 by float64 least squares on composition, and the energy scale.

    Parameters
    ----------
    structures : training structures
    elements : atomic numbers of the model's types
    """
    known = structures.has_energy
    composition = structures.composition(elements)[known]
    energy = structures.energy[known]
    e0: NDArray[np.float64] = np.zeros(len(elements))
    rank, residual, per_atom = 0, 0.0, energy
    if len(energy):
        solution = np.linalg.lstsq(composition, energy, rcond=1e-10)
        e0, rank = solution[0].astype(np.float64), int(solution[2])
        left = energy - composition @ e0
        residual = float(left.std())
        per_atom = left / np.sqrt(structures.sizes[known])
    with_forces = np.repeat(structures.has_forces, structures.sizes)
    if with_forces.any():
        scale = float(np.sqrt(np.mean(structures.forces[with_forces] ** 2)))
    elif len(energy):
        scale = float(np.sqrt(np.mean(per_atom**2)))
    else:
        raise DataError(f"{structures.source}: the training split has neither energies nor forces")
    return Statistics(e0=e0, scale=scale if scale > 0 else 1.0, rank=rank, residual=residual)
