"""The layout of the ANI-1x release: one group per formula, one array per label and level of theory.

Smith et al., Sci. Data 7, 134 (2020). Missing labels are NaN; a group may hold several isomers.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict

from hiphop_train.data.formats.base import (
    Block,
    Column,
    Reader,
    locate,
    members,
    open_hdf5,
    refuse_zeros,
    require_file,
    rows,
    slices,
)
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError, did_you_mean
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit


class LevelKeys(TypedDict):
    """Names of the arrays of one level of theory; without forces it has energies only."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    energy: str
    forces: str | None


class ANI1xReader(Reader):
    """Read a file in the ANI-1x release layout; conformations without the energy asked for are left out.

    Parameters
    ----------
    path : HDF5 file
    levels : levels of theory that the file holds, and the names of their arrays
    level : the level to read, or several: then a conformation is there once for each level that it has an energy of
    energy_unit, length_unit, force_sign : what the file holds; forces are in energy_unit / length_unit
    groups_path : JSON whose list ``molecule`` names the molecule of each conformation, in the file's order; without it
        the formula is the group
    download : how to get the file, shown when it is missing
    """

    def __init__(
        self,
        path: str,
        levels: dict[str, LevelKeys],
        level: str | list[str],
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        groups_path: str | None = None,
        download: str = "",
    ) -> None:
        wanted = [level] if isinstance(level, str) else level
        for name in wanted:
            if name not in levels:
                raise ConfigError(
                    f"data.level: '{name}' is no level of {path}{did_you_mean(name, levels)}\n"
                    f"  allowed: {', '.join(levels)}, or several: 'data.level=[{','.join(levels)}]'"
                )
        if not wanted or len(set(wanted)) < len(wanted):
            raise ConfigError(f"data.level={level!r}: give one level, or several different ones")
        self.path = path
        self.levels = {name: levels[name] for name in wanted}
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.groups_path = groups_path
        self.download = download

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path", self.download)]

    def blocks(self) -> Iterator[Block]:
        """Go through the groups, conformations in the file's order."""
        (file,) = self.files()
        molecules = self._molecules()
        found = dict.fromkeys(self.levels, (0, 0))  # conformations with energies, with forces
        first = 0

        def read(group: h5py.Group, part: slice, first: int) -> Structures | None:
            structures = self._read(file, group, part, first, molecules)
            if structures is not None:
                for theory, name in enumerate(structures.theory_names):
                    here = structures.theory == theory
                    n, n_forces = found[name]
                    found[name] = n + int(here.sum()), n_forces + int(structures.has_forces[here].sum())
            return structures

        with open_hdf5(file) as handle:
            for _, group in members(handle, file):
                numbers, positions, _ = self._columns(file, group)
                n = rows({"coordinates": positions}, f"{file}, group {group.name}")
                for part in slices(n, max(1, numbers.shape[0] if numbers.shape else 1)):
                    yield partial(read, group, part, first)
                first += n
        if molecules is not None and len(molecules) != first:
            raise DataError(
                f"{locate(self.groups_path or '')} names {len(molecules)} conformations, but {file} holds {first}; "
                "set data.reader.groups_path=null to take formulas as groups"
            )
        for name, (n, n_forces) in found.items():
            if n > 0 and n_forces == 0 and self.levels[name]["forces"] is not None:
                raise DataError(
                    f"{file}: all forces under '{self.levels[name]['forces']}' are missing (NaN); to train on energies "
                    f"alone say data.reader.levels.{name}.forces=null"
                )

    def _columns(self, file: Path, group: h5py.Group) -> tuple[Column, Column, dict[str, tuple[Column, Column | None]]]:
        labels = {}
        for name, keys in self.levels.items():
            place = f"data.reader.levels.{name}"
            energy = Column(group, keys["energy"], file, f"{place}.energy")
            key = keys["forces"]
            forces = None if key is None else Column(group, key, file, f"{place}.forces")
            labels[name] = energy, forces
        layout = "the ANI-1x layout"
        return (
            Column(group, "atomic_numbers", file, layout, "iu"),
            Column(group, "coordinates", file, layout),
            labels,
        )

    def _read(
        self, file: Path, group: h5py.Group, part: slice, first: int, molecules: list[str] | None
    ) -> Structures | None:
        found = Collector(str(file), self.factors)
        numbers, positions, labels = self._columns(file, group)
        atoms, coordinates = numbers.read(), positions.read(part)
        running = np.arange(first + part.start, first + part.stop)
        for name, (energy_column, forces_column) in labels.items():
            columns = {"coordinates": positions, energy_column.key: energy_column}
            if forces_column is not None:
                columns[forces_column.key] = forces_column
            rows(dict(columns), f"{file}, group {group.name}")
            energy = energy_column.read(part)
            forces = None if forces_column is None else forces_column.read(part)
            refuse_zeros(f"{file}, group {group.name}", energy, forces, part.start)
            known = ~np.isnan(energy.astype(np.float64))
            if known.ndim == 1 and not known.any():
                continue
            if known.ndim == 1 and not known.all():
                kept = coordinates[known], energy[known], None if forces is None else forces[known], running[known]
            else:
                kept = coordinates, energy, forces, running
            here = {"energy": kept[1], "forces": kept[2]}
            found.add(group.name.strip("/"), atoms, kept[0], here, theory=name, conformation=kept[3])
        if not found.blocks:
            return None
        structures = found.finish(file.name)
        return structures if molecules is None else _regroup(structures, molecules)

    def _molecules(self) -> list[str] | None:
        if self.groups_path is None:
            return None
        file = locate(self.groups_path)
        try:
            names = json.loads(file.read_text())["molecule"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            problem = f"{type(error).__name__}: {error}"
            raise DataError(f"{file} (data.reader.groups_path) cannot be read ({problem})") from error
        if not isinstance(names, list):
            raise DataError(f"{file} (data.reader.groups_path): 'molecule' is no list")
        return [str(name) for name in names]


def _regroup(structures: Structures, molecules: list[str]) -> Structures:
    """Take the molecules for groups; a list that is too short is refused once its length is known to be wrong."""
    last = len(molecules) - 1
    names = [molecules[min(k, last)] if molecules else "" for k in structures.conformation]
    found, group = np.unique(names, return_inverse=True)
    return replace(structures, group=group.astype(np.int64), group_names=tuple(found.tolist()))
