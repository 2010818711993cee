"""Units: eV, Angstrom and eV/Angstrom internally; values are converted once, when a file is read.

Constants are CODATA 2018.
"""

from typing import Literal

HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Angstrom
KCAL_PER_MOL = HARTREE / 627.5094740631  # eV
KJ_PER_MOL = KCAL_PER_MOL / 4.184  # eV
GPA = 1 / 160.2176634  # eV/Angstrom^3
DEBYE = 1 / 4.803204712  # elementary charge times Angstrom

EnergyUnit = Literal["eV", "hartree", "kcal/mol", "kJ/mol", "meV"]
LengthUnit = Literal["angstrom", "bohr"]
ForceSign = Literal["force", "gradient"]
StressUnit = Literal["eV/angstrom^3", "hartree/bohr^3", "GPa", "kbar", "bar"]
StressSign = Literal["tension_positive", "compression_positive"]
DipoleUnit = Literal["e*angstrom", "e*bohr", "debye"]

ENERGY: dict[str, float] = {
    "eV": 1.0,
    "hartree": HARTREE,
    "kcal/mol": KCAL_PER_MOL,
    "kJ/mol": KJ_PER_MOL,
    "meV": 1e-3,
}
"""eV per unit of energy."""

LENGTH: dict[str, float] = {"angstrom": 1.0, "bohr": BOHR}
"""Angstrom per unit of length."""

FORCE_SIGN: dict[str, float] = {"force": 1.0, "gradient": -1.0}
"""Factor from stored values to forces: some files store dE/dx under the name ``forces``."""

STRESS: dict[str, float] = {
    "eV/angstrom^3": 1.0,
    "hartree/bohr^3": HARTREE / BOHR**3,
    "GPa": GPA,
    "kbar": 0.1 * GPA,
    "bar": 1e-4 * GPA,
}
"""eV/Angstrom^3 per unit of stress."""

STRESS_SIGN: dict[str, float] = {"tension_positive": 1.0, "compression_positive": -1.0}
"""Factor from stored values to the derivative of the energy with respect to strain per volume, as in ASE: VASP and
others store its negative."""

DIPOLE: dict[str, float] = {"e*angstrom": 1.0, "e*bohr": BOHR, "debye": DEBYE}
"""Elementary charge times Angstrom per unit of dipole."""
