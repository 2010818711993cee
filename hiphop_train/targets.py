"""Targets: the quantities that a potential is trained on and judged by, each described by one record.

Readers, packed sets, batches, loss, metrics, reports, checks and export go through these records; none of them knows a
target by name where a record will do. Labels and outputs carry a target under its ``key``.
"""

from dataclasses import dataclass
from typing import Literal

from hiphop_train.units import KCAL_PER_MOL

Per = Literal["structure", "atom", "cell"]
"""What has one entry each: every structure, every atom, or every structure that is periodic in three directions."""


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

    def array_shape(self, n_structures: int, n_atoms: int) -> tuple[int, ...]:
        """Shape of the array that holds an entry for all of so many structures with so many atoms."""
        return (n_atoms if self.per == "atom" else n_structures, *self.shape)


TARGETS: dict[str, Target] = {
    target.key: target
    for target in (
        Target("energy", "structure", (), "eV", "kcal/mol", KCAL_PER_MOL, True, 0, False),
        Target("forces", "atom", (3,), "eV/angstrom", "kcal/mol/angstrom", KCAL_PER_MOL, False, 1, True),
        Target("stress", "cell", (3, 3), "eV/angstrom^3", "GPa", 1 / 160.21766208, False, 2, False),
        Target("dipole", "structure", (3,), "e*angstrom", "debye", 1 / 4.803204712, True, 1, True),
    )
}
"""All targets by key, in the order of tables. Stress is ASE's: the derivative of the energy with respect to a symmetric
strain, divided by the volume; a virial is minus stress times volume."""
