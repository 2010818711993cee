"""COMP6v1, the benchmark set of the ANI potentials: HDF5 files in the pyanitools layout.

Smith et al., J. Chem. Phys. 148, 241733 (2018). The array named ``forces`` holds energy gradients.
"""

from pathlib import Path

import h5py
import numpy as np
from ase.data import atomic_numbers

from hiphop_train.data.reader import Reader, dataset, open_hdf5
from hiphop_train.data.structures import Collector, Structures, concatenate
from hiphop_train.errors import DataError
from hiphop_train.units import ENERGY, FORCE_SIGN, LENGTH, EnergyUnit, ForceSign, LengthUnit


class COMP6Reader(Reader):
    """Read every COMP6v1 file found below a folder.

    Parameters
    ----------
    root : folder that holds the files, at any depth
    subsets : benchmark name -> file names, as published
    energy_unit, length_unit, force_sign : what the files hold; forces are in energy_unit / length_unit
    download : how to get the files, shown when none is found
    """

    def __init__(
        self,
        root: str,
        subsets: dict[str, list[str]],
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        download: str = "",
    ) -> None:
        self.root = root
        self.subsets = subsets
        self.energy_factor = ENERGY[energy_unit]
        self.length_factor = LENGTH[length_unit]
        self.force_factor = self.energy_factor / self.length_factor * FORCE_SIGN[force_sign]
        self.download = download

    def read(self) -> Structures:
        """Return all conformations of all subsets that are there; conformers of one molecule share a group."""
        root = Path(self.root).expanduser()
        names = {name: subset for subset, files in self.subsets.items() for name in files}
        files = sorted(file for file in root.rglob("*.h5") if file.name in names) if root.is_dir() else []
        if not files:
            raise DataError(
                f"{root} holds no COMP6v1 file (looked for {', '.join(sorted(names))})\n"
                f"  download them: {self.download}\n  or say where they are: data.root=FOLDER"
            )
        parts = [self._read_file(file, names[file.name]) for file in files]
        return concatenate(parts, str(root))

    def _read_file(self, file: Path, subset: str) -> Structures:
        found = Collector(str(file), self.energy_factor, self.length_factor, self.force_factor, may_miss=False)

        def visit(name: str, node: object) -> None:
            if isinstance(node, h5py.Group) and "species" in node:
                species = dataset(node, "species", file, "the COMP6v1 layout")
                if species.dtype.kind != "S":
                    raise DataError(f"{file}, group {name}: 'species' has type {species.dtype}; expected symbols")
                symbols = [s.decode() for s in species.tolist()]
                unknown = [s for s in symbols if s not in atomic_numbers]
                if unknown:
                    raise DataError(f"{file}, group {name}: '{unknown[0]}' is no element")
                numbers = np.array([atomic_numbers[s] for s in symbols], np.int64)
                positions = dataset(node, "coordinates", file, "the COMP6v1 layout").astype(np.float64)
                energy = dataset(node, "energies", file, "the COMP6v1 layout").astype(np.float64)
                forces = dataset(node, "forces", file, "the COMP6v1 layout").astype(np.float64)
                found.add(f"{file.stem}/{name}", numbers, positions, energy, forces)

        with open_hdf5(file) as handle:
            handle.visititems(visit)
        return found.finish(subset)

    def missing(self, structures: Structures) -> list[str]:
        """Names of the published files that were not found; published totals hold only when there are none."""
        stems = {name.split("/")[0] for name in structures.group_names}
        return [file for files in self.subsets.values() for file in files if Path(file).stem not in stems]
