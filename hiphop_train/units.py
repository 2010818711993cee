"""Units: eV, Angstrom and eV/Angstrom inside; conversion happens once, where a file is read.

Constants are CODATA 2018.
"""

from typing import Literal

HARTREE = 27.211386245988  # eV
BOHR = 0.529177210903  # Angstrom
KCAL_PER_MOL = HARTREE / 627.5094740631  # eV
KJ_PER_MOL = KCAL_PER_MOL / 4.184  # eV

EnergyUnit = Literal["eV", "hartree", "kcal/mol", "kJ/mol", "meV"]
LengthUnit = Literal["angstrom", "bohr"]
ForceSign = Literal["force", "gradient"]

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
"""What stored values are multiplied with to become forces: some files store dE/dx under the name ``forces``."""
