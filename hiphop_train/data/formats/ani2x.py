"""The layout of ANI-2x and COMP6v2: one HDF5 group per number of atoms, atomic numbers for each conformation.

Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020). Groups mix different molecules; charges, which are not read,
have one column more than the number of atoms, for their sum.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.formats.base import Block, Reader, find_files, hill_formula, slices
from hiphop_train.data.formats.collector import collect, declared
from hiphop_train.data.formats.hdf5 import Conformations, leaf_groups
from hiphop_train.data.structures import Structures
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the layout by number of atoms"


class ANI2xReader(Reader):
    """Read files in the layout by number of atoms; the formula is the group.

    Parameters
    ----------
    root : folder with the files, at any depth
    names : of the files to read; all must exist
    energy_unit, length_unit, force_sign : of the files; forces are in energy_unit / length_unit
    forces : whether to read forces, which some levels of theory lack
    download : download instructions, shown if a file is missing
    """

    def __init__(
        self,
        root: str,
        names: list[str],
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        forces: bool = True,
        download: str = "",
    ) -> None:
        self.root = root
        self.names = names
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.forces = forces
        self.download = download

    def files(self) -> list[Path]:
        """Return all files."""
        return find_files(self.root, self.names, self.download)

    def blocks(self) -> Iterator[Block]:
        """Yield the groups of all files, conformations in the files' order."""
        keys = {"numbers": "species", "positions": "coordinates", "energy": "energies"}
        keys |= {"forces": "forces"} if self.forces else {}
        first = 0
        for file in self.files():
            for name, group in leaf_groups(file, "species"):
                conformations = Conformations(group, file, keys, LAYOUT)
                n_atoms = max((1, *conformations.columns["numbers"].shape[1:]))
                for part in slices(conformations.n, n_atoms, conformations.columns["positions"].chunk_rows):
                    yield partial(self._read, file, name, conformations, part, first + part.start)
                first += conformations.n

    def _read(self, file: Path, name: str, conformations: Conformations, part: slice, first: int) -> Structures | None:
        arrays = conformations.read(part)
        numbers = arrays.pop("numbers")
        found = collect(file, file.name, name, np.atleast_2d(numbers), arrays, self.factors, first, part.start)
        if found is None:
            return None
        group, formulas = _formulas(numbers)
        return replace(found, group=group, group_names=formulas)


def _formulas(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Index of the formula of each row of atomic numbers, and all formulas in order of appearance."""
    new = np.ones(len(numbers), np.bool_)
    new[1:] = (numbers[1:] != numbers[:-1]).any(axis=1)
    known: dict[str, int] = {}
    of_run = [known.setdefault(hill_formula(row), len(known)) for row in numbers[new]]
    return np.array(of_run, np.int64)[np.cumsum(new) - 1], tuple(known)
