"""The layout of ANI-1: HDF5 files in the pyanitools layout, energies only, high-energy conformers in arrays apart.

Smith et al., Sci. Data 4, 170193 (2017). What the files say as SMILES can disagree with the geometry: it is not read.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py

from hiphop_train.data.formats.base import (
    Block,
    Column,
    Reader,
    element_numbers,
    find_files,
    leaves,
    open_hdf5,
    refuse_zeros,
    rows,
    slices,
)
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.units import EnergyUnit, LengthUnit

LAYOUT = "the ANI-1 layout"


class ANI1Reader(Reader):
    """Read files in the ANI-1 layout; conformers of one molecule share a group.

    Parameters
    ----------
    root : folder that holds the files, at any depth
    names : of the files to read; all of them must be there
    energy_unit, length_unit : what the files hold
    high_energy : whether to read the conformers that the set keeps apart for their high energies, too
    download : how to get the files, shown when one is missing
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
        """Go through the molecules of all files, high-energy conformers of each after the others."""
        first = 0
        for file in self.files():
            with open_hdf5(file) as handle:
                for name, group in leaves(handle, file, "species"):
                    numbers = Column(group, "species", file, LAYOUT, "SO")
                    for suffix in ("", "HE") if self._has_high_energy(group) else ("",):
                        positions = Column(group, f"coordinates{suffix}", file, LAYOUT)
                        energy = Column(group, f"energies{suffix}", file, LAYOUT)
                        n = rows({positions.key: positions, energy.key: energy}, f"{file}, group {group.name}")
                        for part in slices(n, max((1, *numbers.shape[:1]))):
                            read = partial(self._read, file, name, group, positions, energy, part)
                            yield partial(read, first + part.start)
                        first += n

    def _has_high_energy(self, group: h5py.Group) -> bool:
        return self.high_energy and ("coordinatesHE" in group or "energiesHE" in group)

    def _read(
        self, file: Path, name: str, group: h5py.Group, positions: Column, energy: Column, part: slice, first: int
    ) -> Structures | None:
        found = Collector(str(file), self.factors, may_miss=False, first=first)
        energies = energy.read(part)
        refuse_zeros(f"{file}, group {name}", energies, None, part.start)
        numbers = element_numbers(group, "species", file, LAYOUT, "SO")
        found.add(name.rsplit("/", 1)[-1], numbers, positions.read(part), {"energy": energies})
        return found.finish(file.name) if found.blocks else None
