"""The layout of the ANI-1x release: one group per formula, one array per label and level of theory.

Smith et al., Sci. Data 7, 134 (2020). Missing labels are NaN; a group may contain several isomers.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NotRequired

import h5py
import numpy as np
from pydantic import ConfigDict
from typing_extensions import TypedDict

from hiphop_train.data.formats.base import Block, Reader, locate, require_file, slices
from hiphop_train.data.formats.collector import Collector, declared, refuse_zeros
from hiphop_train.data.formats.hdf5 import Conformations, element_numbers, members, open_hdf5
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError, did_you_mean
from hiphop_train.targets import TARGETS
from hiphop_train.units import DipoleUnit, EnergyUnit, ForceSign, LengthUnit

LAYOUT = "the ANI-1x layout"


class LevelKeys(TypedDict):
    """Names of the arrays of one level of theory, by target; null where it has none."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    energy: str
    forces: str | None
    dipole: NotRequired[str | None]


class ANI1xReader(Reader):
    """Read a file in the ANI-1x release layout; conformations without the requested energy are skipped.

    Parameters
    ----------
    path : HDF5 file
    levels : levels of theory in the file, and the names of their arrays
    level : the level of theory to read, or several: then a conformation appears once for each level at which it has an
        energy
    energy_unit, length_unit, force_sign, dipole_unit : of the file; forces are in energy_unit / length_unit
    groups_path : JSON file whose list ``molecule`` names the molecule of each conformation, in the file's order; if
        None, formulas are the groups
    download : download instructions, shown if the file is missing
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
        dipole_unit: DipoleUnit | None = None,
    ) -> None:
        wanted = [level] if isinstance(level, str) else level
        for name in wanted:
            if name not in levels:
                raise ConfigError(
                    f"data.level: '{name}' is not a level of theory of {path}{did_you_mean(name, levels)}\n"
                    f"  allowed: {', '.join(levels)}, or several: 'data.level=[{','.join(levels)}]'"
                )
        if not wanted or len(set(wanted)) < len(wanted):
            raise ConfigError(f"data.level={level!r}: give one level of theory, or several different ones")
        self.path = path
        self.levels = {name: _given(levels[name]) for name in wanted}
        has_dipoles = any("dipole" in keys for keys in self.levels.values())
        if has_dipoles and dipole_unit is None:
            raise ConfigError("data.reader.dipole_unit must be given if data.reader.levels names an array of dipoles")
        self.factors = declared(energy_unit, length_unit, force_sign, dipole_unit=dipole_unit if has_dipoles else None)
        self.groups_path = groups_path
        self.download = download

    def files(self) -> list[Path]:
        """Return the one file."""
        return [require_file(self.path, "data.path", self.download)]

    def blocks(self) -> Iterator[Block]:
        """Yield the groups, conformations in the file's order."""
        (file,) = self.files()
        molecules = self._molecules()
        counts: Counter[tuple[str, str]] = Counter()  # of known labels, by level of theory and target
        first, n_skipped = 0, 0

        def read(conformations: Conformations, part: slice, first: int) -> Structures | None:
            nonlocal n_skipped
            n_skipped -= 1
            structures = self._read(file, conformations, part, first, molecules)
            if structures is not None:
                for theory, name in enumerate(structures.theory_names):
                    for key in structures.labels:
                        counts[name, key] += int((structures.has(key) & (structures.theory == theory)).sum())
            return structures

        with open_hdf5(file) as handle:
            for _, group in members(handle, file):
                conformations = self._conformations(group, file)
                n_atoms = element_numbers(group, "atomic_numbers", file, LAYOUT, "iu").size
                for part in slices(conformations.n, n_atoms):
                    n_skipped += 1
                    yield partial(read, conformations, part, first)
                first += conformations.n
        if molecules is not None and len(molecules) != first:
            raise DataError(
                f"{locate(self.groups_path or '')} names {len(molecules)} conformations, but {file} contains {first}; "
                "set data.reader.groups_path=null to use formulas as groups"
            )
        for name, keys in self.levels.items():
            for key, array in keys.items():
                if array is not None and n_skipped == 0 and counts[name, key] == 0 < counts[name, "energy"]:
                    raise DataError(
                        f"{file}: all {key} labels under '{array}' are missing (NaN); to train without them: "
                        f"data.reader.levels.{name}.{key}=null"
                    )

    def _conformations(self, group: h5py.Group, file: Path) -> Conformations:
        """All arrays, labels under 'level.target'; some groups lack dipoles."""
        keys, settings = {"positions": "coordinates"}, {}
        for name, labels in self.levels.items():
            for key, array in labels.items():
                if array is not None and (key in ("energy", "forces") or array in group):
                    keys[f"{name}.{key}"], settings[f"{name}.{key}"] = array, f"data.reader.levels.{name}.{key}"
        return Conformations(group, file, keys, LAYOUT, settings)

    def _read(
        self, file: Path, conformations: Conformations, part: slice, first: int, molecules: list[str] | None
    ) -> Structures | None:
        found = Collector(str(file), self.factors)
        group = conformations.group
        numbers = element_numbers(group, "atomic_numbers", file, LAYOUT, "iu")
        arrays = conformations.read(part)
        running = np.arange(first + part.start, first + part.stop)
        for name in self.levels:
            labels = {key: arrays[f"{name}.{key}"] for key in TARGETS if f"{name}.{key}" in arrays}
            refuse_zeros(f"{file}, group {group.name}", labels, part.start)
            energy, positions, here = labels["energy"], arrays["positions"], running
            known = ~np.isnan(energy.astype(np.float64))
            if known.ndim == 1 and not known.any():
                continue
            if known.ndim == 1 and not known.all():
                positions, here = positions[known], running[known]
                labels = {key: array[known] for key, array in labels.items()}
            found.add(group.name.strip("/"), numbers, positions, labels, theory=name, conformation=here)
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
            raise DataError(f"{file} (data.reader.groups_path): 'molecule' is not a list")
        return [str(name) for name in names]


def _given(keys: LevelKeys) -> dict[str, str | None]:
    """Drop optional targets that are not read."""
    named = {key: array if array is None else str(array) for key, array in keys.items()}
    return {key: array for key, array in named.items() if array is not None or key in ("energy", "forces")}


def _regroup(structures: Structures, molecules: list[str]) -> Structures:
    """Use the molecules as groups; a list of the wrong length is refused at the end of the file."""
    last = len(molecules) - 1
    names = [molecules[min(k, last)] if molecules else "" for k in structures.conformation]
    found, group = np.unique(names, return_inverse=True)
    return replace(structures, group=group.astype(np.int64), group_names=tuple(found.tolist()))
