"""COMP6v1, the benchmark set of the ANI potentials: HDF5 files in the pyanitools layout.

Smith et al., J. Chem. Phys. 148, 241733 (2018). The array named ``forces`` contains energy gradients.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from hiphop_train.data.formats.base import Block, Reader
from hiphop_train.data.formats.collector import collect, declared
from hiphop_train.data.formats.hdf5 import Conformations, element_numbers, leaf_groups
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the COMP6v1 layout"
KEYS = {"positions": "coordinates", "energy": "energies", "forces": "forces"}


class COMP6Reader(Reader):
    """Read every COMP6v1 file found below a folder.

    Parameters
    ----------
    root : folder with the files, at any depth
    subsets : benchmark name -> file names, as published
    energy_unit, length_unit, force_sign : of the files; forces are in energy_unit / length_unit
    download : download instructions, shown if no file is found
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
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.download = download

    def files(self) -> list[Path]:
        """Return all published files that exist."""
        root = Path(self.root).expanduser()
        names = self._subset_of_file()
        files = sorted(file for file in root.rglob("*.h5") if file.name in names) if root.is_dir() else []
        if not files:
            raise DataError(
                f"{root} contains no COMP6v1 file (looked for {', '.join(sorted(names))})\n"
                f"  download them: {self.download}\n  or give their folder: data.root=FOLDER"
            )
        return files

    def blocks(self) -> Iterator[Block]:
        """Yield all molecules of all files; conformers of one molecule share a group."""
        names = self._subset_of_file()
        first = 0
        for file in self.files():
            for name, group in leaf_groups(file, "species"):
                conformations = Conformations(group, file, KEYS, LAYOUT)
                yield partial(self._read, file, names[file.name], f"{file.stem}/{name}", conformations, first)
                first += conformations.n

    def _subset_of_file(self) -> dict[str, str]:
        return {name: subset for subset, files in self.subsets.items() for name in files}

    def _read(self, file: Path, subset: str, name: str, conformations: Conformations, first: int) -> Structures | None:
        numbers = element_numbers(conformations.group, "species", file, LAYOUT, "SO")
        return collect(file, subset, name, numbers, conformations.read(), self.factors, first, 0)

    def missing(self, structures: Structures) -> list[str]:
        """Names of the published files that were not found; published totals refer to the complete set."""
        stems = {name.split("/")[0] for name in structures.group_names}
        return [file for files in self.subsets.values() for file in files if Path(file).stem not in stems]
