"""The layout of ANI-2x and COMP6v2: one HDF5 group per number of atoms, atomic numbers for each conformation.

Devereux et al., J. Chem. Theory Comput. 16, 4192 (2020). Groups mix molecules of all kinds; charges, which are not
read, have a column more than there are atoms, for their sum.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.formats.base import (
    Block,
    Column,
    Reader,
    find_files,
    hill_formula,
    leaves,
    open_hdf5,
    refuse_zeros,
    rows,
    slices,
)
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the layout by number of atoms"


class ANI2xReader(Reader):
    """Read files in the layout by number of atoms; the formula is the group.

    Parameters
    ----------
    root : folder that holds the files, at any depth
    names : of the files to read; all of them must be there
    energy_unit, length_unit, force_sign : what the files hold; forces are in energy_unit / length_unit
    forces : whether to read forces: some levels of theory have none
    download : how to get the files, shown when one is missing
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
        """Go through the groups of all files, conformations in the files' order."""
        keys = {"species": "iu", "coordinates": "f", "energies": "f"} | ({"forces": "f"} if self.forces else {})
        first = 0
        for file in self.files():
            with open_hdf5(file) as handle:
                for name, group in leaves(handle, file, "species"):
                    columns = {key: Column(group, key, file, LAYOUT, kinds) for key, kinds in keys.items()}
                    n = rows(dict(columns), f"{file}, group {group.name}")
                    n_atoms = columns["species"].shape[-1] if columns["species"].shape else 1
                    for part in slices(n, n_atoms, columns["coordinates"].chunk_rows):
                        yield partial(self._read, file, name, columns, part, first + part.start)
                    first += n

    def _read(self, file: Path, name: str, columns: dict[str, Column], part: slice, first: int) -> Structures | None:
        found = Collector(str(file), self.factors, may_miss=False, first=first)
        arrays = {key: column.read(part) for key, column in columns.items()}
        numbers, positions, energy = (arrays[key] for key in ("species", "coordinates", "energies"))
        refuse_zeros(f"{file}, group {name}", energy, arrays.get("forces"), part.start)
        found.add(name, np.atleast_2d(numbers), positions, {"energy": energy, "forces": arrays.get("forces")})
        if not found.blocks:
            return None
        group, formulas = _formulas(numbers)
        return replace(found.finish(file.name), group=group, group_names=formulas)


def _formulas(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Index of the formula of each row of atomic numbers, and all formulas, in the order of their appearance."""
    new = np.ones(len(numbers), np.bool_)
    new[1:] = (numbers[1:] != numbers[:-1]).any(axis=1)
    known: dict[str, int] = {}
    of_run = [known.setdefault(hill_formula(row), len(known)) for row in numbers[new]]
    return np.array(of_run, np.int64)[np.cumsum(new) - 1], tuple(known)
