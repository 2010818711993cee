"""The layout of SPICE: one HDF5 group per molecule, lengths in bohr, gradients instead of forces.

Eastman et al., Sci. Data 10, 11 (2023). Molecules may be charged, as given by their SMILES.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import h5py

from hiphop_train.data.formats.base import Block, Reader, require_file, slices
from hiphop_train.data.formats.collector import collect, declared
from hiphop_train.data.formats.hdf5 import Column, Conformations, dataset, element_numbers, leaf_groups
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the SPICE layout"
KEYS = {"positions": "conformations", "energy": "dft_total_energy", "forces": "dft_total_gradient"}


class SPICEReader(Reader):
    """Read a SPICE file; conformers of one molecule share a group, and the parts of the set are the subsets.

    Parameters
    ----------
    path : HDF5 file
    energy_unit, length_unit, force_sign : of the file; a file that states other units is refused
    charged : whether to read charged molecules too; models do not depend on the total charge
    download : download instructions, shown if the file is missing
    """

    def __init__(
        self,
        path: str,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        charged: bool,
        download: str = "",
    ) -> None:
        self.path = path
        self.units = {
            KEYS["positions"]: str(length_unit),
            KEYS["energy"]: str(energy_unit),
            KEYS["forces"]: f"{energy_unit}/{length_unit}",
        }
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.charged = charged
        self.download = download

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path", self.download)]

    def blocks(self) -> Iterator[Block]:
        """Yield the molecules, and print how many were skipped."""
        (file,) = self.files()
        first, n_kept, n_molecules, n_conformations = 0, 0, 0, 0
        for name, group in leaf_groups(file, "atomic_numbers"):
            conformations = Conformations(group, file, KEYS, LAYOUT)
            for column in conformations.columns.values():
                _check_units(column, self.units[column.key])
            n = conformations.n
            if n == 0:
                continue  # all conformers were filtered out by the authors, and shapes are lost
            if not self.charged and total_charge(_text(group, "smiles", file)) != 0:
                n_molecules, n_conformations = n_molecules + 1, n_conformations + n
            else:
                for part in slices(n, max((1, *conformations.columns["positions"].shape[1:2]))):
                    yield partial(self._read, file, name, conformations, part, first + part.start)
                n_kept += n
            first += n
        if n_molecules:
            skipped = f"{file}: {n_molecules} charged molecules ({n_conformations} conformations) are skipped"
            advice = "total charge is not modelled; to read them, set data.charged=true"
            if n_kept == 0:
                raise DataError(f"{skipped}, and none are left: {advice}")
            print(f"{skipped}: {advice}", flush=True)

    def _read(self, file: Path, name: str, conformations: Conformations, part: slice, first: int) -> Structures | None:
        numbers = element_numbers(conformations.group, "atomic_numbers", file, LAYOUT, "iu")
        subset = _text(conformations.group, "subset", file)
        return collect(file, subset, name, numbers, conformations.read(part), self.factors, first, part.start)


def total_charge(smiles: str) -> int:
    """Return the total charge of a molecule, the sum of the charges in the brackets of its SMILES."""
    charges = re.findall(r"\[[^\]]*?(\++|-+)(\d*)(?::\d+)?\]", smiles)
    return sum((1 if signs[0] == "+" else -1) * (int(digits) if digits else len(signs)) for signs, digits in charges)


def _check_units(column: Column, declared: str) -> None:
    stated = column.units()
    if stated is not None and stated.lower() != declared.lower():
        raise DataError(
            f"{column.where}: data set '{column.key}' is in {stated}, but the configuration declares "
            f"{declared}; correct data.reader.energy_unit or data.reader.length_unit"
        )


def _text(group: h5py.Group, key: str, file: Path) -> str:
    values = dataset(group, key, file, LAYOUT, "SO").reshape(-1).tolist()
    if len(values) != 1 or not isinstance(values[0], bytes | str):
        raise DataError(f"{file}, group {group.name}: data set '{key}' has {len(values)} values; expected one string")
    return values[0].decode(errors="replace") if isinstance(values[0], bytes) else values[0]
