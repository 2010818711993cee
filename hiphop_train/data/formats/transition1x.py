"""The layout of Transition1x: reaction paths, one HDF5 group per reaction, in groups per split.

Schreiner et al., Sci. Data 9, 779 (2022). Reactant, product and transition state stand in groups of their own below
their reaction's.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from hiphop_train.data.formats.base import (
    Block,
    Column,
    Reader,
    element_numbers,
    members,
    open_hdf5,
    refuse_zeros,
    require_file,
    rows,
)
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError, did_you_mean
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the Transition1x layout"
ENERGIES, FORCES = "wB97x_6-31G(d).energy", "wB97x_6-31G(d).forces"


class Transition1xReader(Reader):
    """Read a Transition1x file; a reaction is a group, and the published splits are the subsets.

    Parameters
    ----------
    path : HDF5 file
    subsets : splits to read; the file's ``data`` holds the same structures once more
    energy_unit, length_unit, force_sign : what the file holds; forces are in energy_unit / length_unit
    download : how to get the file, shown when it is missing
    """

    def __init__(
        self,
        path: str,
        subsets: list[str],
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        download: str = "",
    ) -> None:
        self.path = path
        self.subsets = subsets
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.download = download

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path", self.download)]

    def blocks(self) -> Iterator[Block]:
        """Go through the reactions of all splits, the path of each before its ends and its transition state."""
        (file,) = self.files()
        first = 0
        with open_hdf5(file) as handle:
            present = dict(members(handle, file))
            for subset in self.subsets:
                if subset not in present:
                    raise DataError(
                        f"{file}: no group '{subset}' (set by data.reader.subsets); present: "
                        f"{', '.join(sorted(present)) or 'none'}{did_you_mean(subset, present)}"
                    )
                for formula, reactions in members(present[subset], file):
                    for name, group in members(reactions, file):
                        parts = [group, *(child for _, child in members(group, file))]
                        yield partial(self._read, file, subset, f"{formula}/{name}", parts, first)
                        first += sum(_rows(part, file) for part in parts)

    def _read(self, file: Path, subset: str, name: str, parts: list[h5py.Group], first: int) -> Structures | None:
        found = Collector(str(file), self.factors, may_miss=False, first=first)
        path = None
        for part in parts:
            arrays = {key: column.read() for key, column in _columns(part, file).items()}
            positions, energy, forces = (arrays[key] for key in ("positions", ENERGIES, FORCES))
            refuse_zeros(f"{file}, group {part.name}", energy, forces)
            numbers = element_numbers(part, "atomic_numbers", file, LAYOUT, "iu")
            running = np.arange(first, first + energy.size)
            first += energy.size
            if (
                path is not None
                and positions.ndim == 3
                and positions.shape[1:] == path.shape[1:]
                and positions.shape == forces.shape
                and energy.shape == positions.shape[:1]
            ):
                new = ~np.array([(path == one).all(axis=(1, 2)).any() for one in positions], np.bool_)
                positions, energy, forces, running = positions[new], energy[new], forces[new], running[new]
            if path is None and positions.ndim == 3:
                path = positions
            found.source = f"{file}, {part.name}"
            found.add(name, numbers, positions, {"energy": energy, "forces": forces}, conformation=running)
        found.source = str(file)
        return found.finish(subset) if found.blocks else None


def _columns(group: h5py.Group, file: Path) -> dict[str, Column]:
    return {key: Column(group, key, file, LAYOUT) for key in ("positions", ENERGIES, FORCES)}


def _rows(group: h5py.Group, file: Path) -> int:
    return rows(dict(_columns(group, file)), f"{file}, group {group.name}")
