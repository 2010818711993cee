"""The layout of Transition1x: reaction paths, one HDF5 group per reaction, in groups per split.

Schreiner et al., Sci. Data 9, 779 (2022). Reactant, product and transition state are subgroups of their reaction.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from hiphop_train.data.formats.base import Block, Reader, require_file
from hiphop_train.data.formats.collector import Collector, declared, refuse_zeros
from hiphop_train.data.formats.hdf5 import Conformations, element_numbers, members, open_hdf5
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError, did_you_mean
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the Transition1x layout"
KEYS = {"positions": "positions", "energy": "wB97x_6-31G(d).energy", "forces": "wB97x_6-31G(d).forces"}


class Transition1xReader(Reader):
    """Read a Transition1x file; a reaction is a group, and the published splits are the subsets.

    Parameters
    ----------
    path : HDF5 file
    subsets : splits to read; the file's ``data`` repeats the same structures
    energy_unit, length_unit, force_sign : of the file; forces are in energy_unit / length_unit
    download : download instructions, shown if the file is missing
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
        """Yield the reactions of all splits, the path of each before its end points and its transition state."""
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
                        groups = [group, *(child for _, child in members(group, file))]
                        parts = [Conformations(each, file, KEYS, LAYOUT) for each in groups]
                        yield partial(self._read, file, subset, f"{formula}/{name}", parts, first)
                        first += sum(part.n for part in parts)

    def _read(self, file: Path, subset: str, name: str, parts: list[Conformations], first: int) -> Structures | None:
        found = Collector(str(file), self.factors, may_miss=False, first=first)
        path = None
        for part in parts:
            arrays = part.read()
            refuse_zeros(f"{file}, group {part.group.name}", arrays)
            numbers = element_numbers(part.group, "atomic_numbers", file, LAYOUT, "iu")
            running = np.arange(first, first + part.n)
            first += part.n
            positions = arrays["positions"]
            if positions.ndim == 3 and path is None:
                path = positions
            elif positions.ndim == 3 and path is not None and positions.shape[1:] == path.shape[1:]:
                new = ~np.array([(path == one).all(axis=(1, 2)).any() for one in positions], np.bool_)
                arrays, running = {key: array[new] for key, array in arrays.items()}, running[new]
            found.source = f"{file}, {part.group.name}"
            found.add(name, numbers, arrays.pop("positions"), arrays, conformation=running)
        found.source = str(file)
        return found.finish(subset) if found.blocks else None
