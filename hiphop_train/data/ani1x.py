"""The layout of the ANI-1x release: one group per formula, one array per label and level of theory.

Smith et al., Sci. Data 7, 134 (2020). Missing labels are NaN; a group may hold several isomers.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from hiphop_train.data.reader import Reader, dataset, locate, open_hdf5, require_file
from hiphop_train.data.structures import Collector, Structures
from hiphop_train.errors import DataError
from hiphop_train.units import ENERGY, FORCE_SIGN, LENGTH, EnergyUnit, ForceSign, LengthUnit


class ANI1xReader(Reader):
    """Read a file in the ANI-1x release layout; conformations without the energy asked for are left out.

    Parameters
    ----------
    path : HDF5 file
    energy_key, forces_key : names of the arrays; without `forces_key` the set has energies only
    energy_unit, length_unit, force_sign : what the file holds; forces are in energy_unit / length_unit
    groups_path : JSON whose list ``molecule`` names the molecule of each conformation with an energy, in the file's
        order; without it the formula is the group
    download : how to get the file, shown when it is missing
    """

    def __init__(
        self,
        path: str,
        energy_key: str,
        forces_key: str | None,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        groups_path: str | None = None,
        download: str = "",
    ) -> None:
        self.path = path
        self.energy_key = energy_key
        self.forces_key = forces_key
        self.energy_factor = ENERGY[energy_unit]
        self.length_factor = LENGTH[length_unit]
        self.force_factor = self.energy_factor / self.length_factor * FORCE_SIGN[force_sign]
        self.groups_path = groups_path
        self.download = download

    def read(self) -> Structures:
        """Return all conformations with an energy, in the file's order."""
        file = require_file(self.path, "data.path", self.download)
        found = Collector(str(file), self.energy_factor, self.length_factor, self.force_factor)
        with open_hdf5(file) as handle:
            for formula, group in handle.items():
                numbers = dataset(group, "atomic_numbers", file, "the ANI-1x layout").astype(np.int64)
                positions = dataset(group, "coordinates", file, "the ANI-1x layout").astype(np.float64)
                energy = dataset(group, self.energy_key, file, "data.reader.energy_key").astype(np.float64)
                forces = None
                if self.forces_key is not None:
                    forces = dataset(group, self.forces_key, file, "data.reader.forces_key").astype(np.float64)
                known = ~np.isnan(energy)
                lengths = {array.shape[:1] for array in (positions, energy, forces) if array is not None}
                if lengths == {known.shape}:  # otherwise the collector says what is wrong
                    if not known.any():
                        continue
                    positions, energy = positions[known], energy[known]
                    forces = None if forces is None else forces[known]
                found.add(formula, numbers, positions, energy, forces)
        structures = found.finish(file.name)
        if self.forces_key is not None and not structures.has_forces.any():
            raise DataError(
                f"{file}: all forces under '{self.forces_key}' are missing (NaN); to train on energies alone say "
                "data.reader.forces_key=null"
            )
        return structures if self.groups_path is None else self._regroup(structures, locate(self.groups_path))

    def _regroup(self, structures: Structures, file: Path) -> Structures:
        try:
            names = json.loads(file.read_text())["molecule"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DataError(f"{file} (data.reader.groups_path) cannot be read ({problem})") from error
        if not isinstance(names, list):
            raise DataError(f"{file} (data.reader.groups_path): 'molecule' is no list")
        if len(names) != len(structures):
            raise DataError(
                f"{file} names {len(names)} conformations, but {self.path} holds {len(structures)}; "
                "set data.reader.groups_path=null to take formulas as groups"
            )
        found, group = np.unique(names, return_inverse=True)
        return replace(structures, group=group.astype(np.int64), group_names=tuple(found.tolist()))
