"""The layout of ANI-1: HDF5 files of pyanitools, with energies only and high-energy conformers in separate arrays.

Smith et al., Sci. Data 4, 170193 (2017). The SMILES in the files can disagree with the geometry and are not read.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py

from hiphop_train.data.formats.base import Block, Reader, find_files, slices
from hiphop_train.data.formats.collector import collect, declared
from hiphop_train.data.formats.hdf5 import Column, Conformations, element_numbers, leaf_groups
from hiphop_train.data.structures import Structures
from hiphop_train.units import EnergyUnit, LengthUnit

LAYOUT = "the ANI-1 layout"


class ANI1Reader(Reader):
    """Read files in the ANI-1 layout; conformers of one molecule share a group.

    Parameters
    ----------
    root : folder with the files, at any depth
    names : of the files to read; all must exist
    energy_unit, length_unit : of the files
    high_energy : whether to read also the high-energy conformers, which are stored separately
    download : download instructions, shown if a file is missing
    """

    def __init__(
        self,
        root: str,
        names: list[str],
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        high_energy: bool,
        download: str = "",
    ) -> None:
        self.root = root
        self.names = names
        self.factors = declared(energy_unit, length_unit)
        self.high_energy = high_energy
        self.download = download

    def files(self) -> list[Path]:
        """Return all files."""
        return find_files(self.root, self.names, self.download)

    def blocks(self) -> Iterator[Block]:
        """Yield the molecules of all files, high-energy conformers of each after the others."""
        first = 0
        for file in self.files():
            for name, group in leaf_groups(file, "species"):
                n_atoms = max((1, *Column(group, "species", file, LAYOUT, "SO").shape[:1]))
                for suffix in ("", "HE") if self._has_high_energy(group) else ("",):
                    keys = {"positions": f"coordinates{suffix}", "energy": f"energies{suffix}"}
                    conformations = Conformations(group, file, keys, LAYOUT)
                    for part in slices(conformations.n, n_atoms):
                        yield partial(self._read, file, name.rsplit("/", 1)[-1], conformations, part, first)
                    first += conformations.n

    def _has_high_energy(self, group: h5py.Group) -> bool:
        return self.high_energy and ("coordinatesHE" in group or "energiesHE" in group)

    def _read(self, file: Path, name: str, conformations: Conformations, part: slice, first: int) -> Structures | None:
        numbers = element_numbers(conformations.group, "species", file, LAYOUT, "SO")
        arrays = conformations.read(part)
        return collect(file, file.name, name, numbers, arrays, self.factors, first + part.start, part.start)
