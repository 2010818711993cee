"""Targets: the quantities that a potential is trained and evaluated on, each described by one record.

Readers, packed sets, batches, loss, metrics, reports, checks and export iterate over these records instead of naming
targets. Labels and outputs contain a target under its ``key``.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiphop_train.units import DEBYE, GPA, KCAL_PER_MOL

Per = Literal["structure", "atom", "cell", "molecule"]
"""One entry per structure, per atom, per structure that is periodic in all three directions ("cell"), or per structure
that is periodic in none ("molecule")."""


@dataclass(frozen=True)
class Target:
    """One quantity.

    Attributes
    ----------
    key : of the target in labels and outputs
    per : see `Per`
    shape : of an entry
    unit : internal unit
    reported_unit : unit in losses, metrics and reports
    reported_factor : internal units per reported unit
    extensive : whether it is additive over two systems far apart
    rank : as a Cartesian tensor: under a rotation R each index transforms by R
    is_odd : whether it changes sign under inversion of all positions
    is_symmetric : whether it is a symmetric 3 x 3 tensor, with six independent components
    decimals : number of decimals in tables, in the reported unit
    """

    key: str
    per: Per
    shape: tuple[int, ...]
    unit: str
    reported_unit: str
    reported_factor: float
    extensive: bool
    rank: int
    is_odd: bool
    is_symmetric: bool = False
    decimals: int = 2

    def is_defined(self, pbc: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return whether the target is defined for each structure (n,), given their periodic directions (n, 3)."""
        n_periodic = pbc.sum(axis=1)
        required = {"cell": n_periodic == 3, "molecule": n_periodic == 0}
        defined: NDArray[np.bool_] = required.get(self.per, n_periodic >= 0)
        return defined

    def array_shape(self, n_structures: int, n_atoms: int) -> tuple[int, ...]:
        """Shape of the array of all entries, given the numbers of structures and of atoms in total."""
        return (n_atoms if self.per == "atom" else n_structures, *self.shape)

    @property
    def components(self) -> list[int]:
        """Indices of the independent components in the flattened entry.

        Those of a symmetric tensor are xx, yy, zz, yz, xz and xy, so that errors of shear components count once.
        """
        return [0, 4, 8, 5, 2, 1] if self.is_symmetric else list(range(math.prod(self.shape)))

    @property
    def milli_unit(self) -> str:
        """Second unit of reported errors, with meV for units with eV; otherwise empty."""
        return f"m{self.unit}" if self.unit.startswith("eV") else ""


TARGETS: dict[str, Target] = {
    target.key: target
    for target in (
        Target("energy", "structure", (), "eV", "kcal/mol", KCAL_PER_MOL, True, 0, False),
        Target("forces", "atom", (3,), "eV/angstrom", "kcal/mol/angstrom", KCAL_PER_MOL, False, 1, True),
        Target("stress", "cell", (3, 3), "eV/angstrom^3", "GPa", GPA, False, 2, False, True, 3),
        Target("dipole", "molecule", (3,), "e*angstrom", "debye", DEBYE, True, 1, True, decimals=3),
    )
}
"""All targets by key, in the order of tables. Stress is ASE's: the derivative of the energy with respect to a symmetric
strain, divided by the volume; a virial is minus stress times volume."""


def derivatives(keys: Collection[str]) -> dict[str, bool]:
    """Return the arguments of `Potential.forward` for outputs that contain the given targets."""
    return {"forces": "forces" in keys, "virial": "stress" in keys}
