"""Targets: the quantities that a potential is trained on and judged by, each described by one record.

Readers, packed sets, batches, loss, metrics, reports, checks and export go through these records; none of them knows a
target by name where a record will do. Labels and outputs carry a target under its ``key``.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hiphop_train.units import DEBYE, GPA, KCAL_PER_MOL

Per = Literal["structure", "atom", "cell", "molecule"]
"""What has one entry: every structure, every atom, every structure that is periodic in all three directions, or every
structure that is periodic in none."""


@dataclass(frozen=True)
class Target:
    """One quantity.

    Attributes
    ----------
    key : under which labels and outputs hold it
    per : what has one entry
    shape : of an entry
    unit : inside of this package
    reported_unit : in losses, metrics and reports
    reported_factor : units inside per reported unit
    extensive : whether it is the sum over two systems far apart
    rank : of the Cartesian tensor that it is: under a rotation R each index transforms by R
    is_odd : whether it changes sign under inversion of all positions
    is_symmetric : whether it is a symmetric 3 x 3 tensor, of whose entries six are independent
    decimals : of the reported unit, in tables
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
        """Return for which structures the target is defined (n,), given their periodic directions (n, 3)."""
        n_periodic = pbc.sum(axis=1)
        required = {"cell": n_periodic == 3, "molecule": n_periodic == 0}
        defined: NDArray[np.bool_] = required.get(self.per, n_periodic >= 0)
        return defined

    def array_shape(self, n_structures: int, n_atoms: int) -> tuple[int, ...]:
        """Shape of the array that holds an entry for all of so many structures with so many atoms."""
        return (n_atoms if self.per == "atom" else n_structures, *self.shape)

    @property
    def components(self) -> list[int]:
        """Indices of an entry's independent components in the flattened entry.

        Those of a symmetric tensor are xx, yy, zz, yz, xz and xy: an error of a shear counts once.
        """
        return [0, 4, 8, 5, 2, 1] if self.is_symmetric else list(range(math.prod(self.shape)))

    @property
    def milli_unit(self) -> str:
        """Unit that errors are reported in beside `reported_unit`: meV where the unit has eV, else none (empty)."""
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
    """Return the arguments of `Potential.forward` under which the outputs hold those targets."""
    return {"forces": "forces" in keys, "virial": "stress" in keys}
