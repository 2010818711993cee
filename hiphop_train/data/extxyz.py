"""Extended XYZ, read with ASE: energies and forces from the calculator or from named keys."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from hiphop_train.data.reader import Block, Reader, require_file
from hiphop_train.data.structures import Collector, Structures
from hiphop_train.errors import DataError
from hiphop_train.units import ENERGY, FORCE_SIGN, LENGTH, EnergyUnit, ForceSign, LengthUnit


class ExtxyzReader(Reader):
    """Read one extended XYZ file, or one each for training, validation and test.

    Parameters
    ----------
    path : training file
    val_path, test_path : further files, whose structures then make these splits
    energy_key, forces_key : names of the labels in the file; by default what ASE takes for energy and forces
    energy_unit, length_unit, force_sign : what the files hold; forces are in energy_unit / length_unit
    ignore_cell : treat all structures as open, whatever box the file gives

    Notes
    -----
    A structure without forces trains on its energy alone; one without energy, on its forces alone. A file without
    a single label is refused.
    """

    def __init__(
        self,
        path: str,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        val_path: str | None = None,
        test_path: str | None = None,
        energy_key: str | None = None,
        forces_key: str | None = None,
        ignore_cell: bool = False,
    ) -> None:
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.energy_key = energy_key
        self.forces_key = forces_key
        self.energy_factor = ENERGY[energy_unit]
        self.length_factor = LENGTH[length_unit]
        self.force_factor = self.energy_factor / self.length_factor * FORCE_SIGN[force_sign]
        self.ignore_cell = ignore_cell

    def files(self) -> list[Path]:
        """Return the files of all splits."""
        keys = {"train": "data.path", "val": "data.val_path", "test": "data.test_path"}
        return [require_file(path, keys[subset]) for subset, path in self.paths.items() if path is not None]

    def blocks(self) -> Iterator[Block]:
        """Go through the files, whose subsets are named train, val and test."""
        given = [subset for subset, path in self.paths.items() if path is not None]
        first = 0
        for file, subset in zip(self.files(), given, strict=True):
            structures = self._read_file(file, subset, first)
            first += len(structures)
            yield partial(_same, structures)

    def _read_file(self, file: Path, subset: str, first: int) -> Structures:
        try:
            frames = ase.io.read(file, index=":", format="extxyz")
        except Exception as error:  # ASE raises whatever its parser meets: ValueError, KeyError, IndexError, XYZError
            raise DataError(f"{file} cannot be read as extended XYZ: {type(error).__name__}: {error}") from error
        found = Collector(str(file), self.energy_factor, self.length_factor, self.force_factor, first=first)
        n_forces = n_energies = 0
        for k, atoms in enumerate(frames):
            if len(atoms) == 0:
                raise DataError(f"{file}, structure {k}: has no atoms")
            energy, forces = self._labels(atoms, f"{file}, structure {k}")
            n_energies += energy is not None
            n_forces += forces is not None
            periodic = bool(atoms.pbc.any()) and not self.ignore_cell
            found.add(
                str(atoms.symbols.formula.format("hill")),
                atoms.numbers.astype(np.int64),
                atoms.positions[None],
                np.array([np.nan if energy is None else energy]),
                None if forces is None else forces[None],
                atoms.cell.array[None] if periodic else None,
                atoms.pbc[None] if periodic else None,
            )
        if n_energies + n_forces == 0:
            keys = sorted({key for atoms in frames for key in (*atoms.info, *atoms.arrays)} - {"numbers", "positions"})
            raise DataError(
                f"{file}: no structure has an energy or forces; keys in the file: {', '.join(keys) or 'none'}; "
                "name them with data.energy_key=KEY data.forces_key=KEY"
            )
        if self.forces_key is not None and n_forces == 0:
            raise DataError(f"{file}: no structure has forces under data.forces_key={self.forces_key}")
        return found.finish(subset)

    def _labels(self, atoms: Atoms, where: str) -> tuple[float | None, NDArray[np.float64] | None]:
        results = atoms.calc.results if atoms.calc is not None else {}
        energy = results.get("energy") if self.energy_key is None else {**results, **atoms.info}.get(self.energy_key)
        forces = results.get("forces") if self.forces_key is None else {**results, **atoms.arrays}.get(self.forces_key)
        if self.energy_key is not None and energy is None:
            raise DataError(f"{where}: no energy under '{self.energy_key}'; its keys: {', '.join(sorted(atoms.info))}")
        try:
            energy = None if energy is None else float(energy)
            forces = None if forces is None else np.asarray(forces, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where}: energy or forces are not numbers ({error})") from error
        if (energy is not None and np.isnan(energy)) or (forces is not None and np.isnan(forces).any()):
            raise DataError(f"{where}: its energy or forces are NaN; leave a missing label out instead")
        return energy, forces


def _same(structures: Structures) -> Structures:
    return structures
