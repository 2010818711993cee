"""Files of any format that ASE reads: labels from the calculator or from named keys."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from pathlib import Path
from typing import Literal

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, ioformats
from numpy.typing import NDArray

from hiphop_train.data.formats.base import BLOCK_ATOMS, Block, Reader, locate, require_file
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.formats.extxyz import extxyz_blocks
from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError, did_you_mean
from hiphop_train.targets import TARGETS
from hiphop_train.units import DipoleUnit, EnergyUnit, ForceSign, LengthUnit, StressSign, StressUnit

Paths = str | list[str]
Key = str | Literal[False] | None
"""Name of a label; None: what ASE itself takes for it; False: it is not read."""

VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
"""Places of the components of a symmetric tensor among six numbers, in ASE's order xx yy zz yz xz xy."""
ASYMMETRY = 1e-5, 1e-3
"""eV/Angstrom^3 and share of the largest component by which opposite components of a stress may differ: rounding."""


@dataclass
class _Seen:
    """What the structures read so far of one file had."""

    structures: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    not_periodic: int = 0
    """Structures whose stress means nothing."""
    keys: set[str] = field(default_factory=set)


class ASEReader(Reader):
    """Read files with ASE, optionally different ones for training, validation and test.

    Parameters
    ----------
    path : training file, a pattern of several (``data/*.xyz``) or a list
    format : ASE's name of the format; null: as ASE guesses from name and content
    energy_unit, length_unit, force_sign : of the files; forces are in energy_unit / length_unit
    val_path, test_path : further files, whose structures then make these splits
    energy_key, forces_key, stress_key, dipole_key : names of the labels in the file; null: ASE's own energy, forces,
        stress and dipole; false: no stress, no dipole
    ignore_cell : treat all structures as open, whatever box the file gives
    virial_key : name of virials, which are read instead of stresses: stress = -virial / volume
    stress_unit, stress_sign, virial_unit, dipole_unit : of the files

    Notes
    -----
    Every label may be missing in some structures: each trains on those it has. A file without a single label is
    refused. A box counts only in its periodic directions. Stress and virial have six components in the order xx yy zz
    yz xz xy, or nine row by row; those of structures that are not periodic in three directions are ignored.
    """

    def __init__(
        self,
        path: Paths,
        format: str | None,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        val_path: Paths | None = None,
        test_path: Paths | None = None,
        energy_key: str | None = None,
        forces_key: str | None = None,
        ignore_cell: bool = False,
        stress_key: Key = None,
        virial_key: str | None = None,
        dipole_key: Key = None,
        stress_unit: StressUnit = "eV/angstrom^3",
        stress_sign: StressSign = "tension_positive",
        virial_unit: EnergyUnit = "eV",
        dipole_unit: DipoleUnit = "e*angstrom",
    ) -> None:
        if format is not None and format not in ioformats:
            raise DataError(f"data.format={format}: ASE knows no such format{did_you_mean(format, ioformats)}")
        if virial_key is not None and stress_key:
            raise ConfigError(
                f"data.stress_key={stress_key} and data.virial_key={virial_key}: stress is computed from virials where "
                "these are named; give one of the two"
            )
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.format = format
        self.keys = {
            "energy": energy_key,
            "forces": forces_key,
            "stress": virial_key or stress_key,
            "dipole": dipole_key,
        }
        self.has_virial = virial_key is not None
        self.factors = declared(
            energy_unit,
            length_unit,
            force_sign,
            stress_unit,
            stress_sign,
            dipole_unit,
            virial_unit if self.has_virial else None,
        )
        self.ignore_cell = ignore_cell

    def files(self) -> list[Path]:
        """Return the files of all splits."""
        return [file for files in self._files().values() for file in files]

    def blocks(self) -> Iterator[Block]:
        """Go through the files, whose subsets are named train, val and test."""
        first = 0
        for subset, files in self._files().items():
            for file in files:
                format = self.format or _guess(file)
                seen = _Seen()
                start = first
                for n, frames in (extxyz_blocks if format == "extxyz" else partial(_others, format=format))(file):
                    yield partial(self._read, file, subset, frames, first, start, seen)
                    first += n
                self._check_labels(file, seen)

    def _files(self) -> dict[str, list[Path]]:
        keys = {"train": "data.path", "val": "data.val_path", "test": "data.test_path"}
        return {subset: _expand(paths, keys[subset]) for subset, paths in self.paths.items() if paths is not None}

    def _read(
        self, file: Path, subset: str, frames: "Iterator[Atoms]", first: int, start: int, seen: _Seen
    ) -> Structures | None:
        found = Collector(str(file), self.factors, first=first)
        for k, atoms in enumerate(frames, first - start):
            where = f"{file}, structure {k}"
            if len(atoms) == 0:
                raise DataError(f"{where}: has no atoms")
            if self.ignore_cell:
                atoms.pbc = False
            labels = self._labels(atoms, where, seen)
            seen.structures += 1
            seen.labels.update(labels.keys())
            seen.keys.update(atoms.info, atoms.arrays)
            periodic = bool(atoms.pbc.any())
            found.source = where
            found.add(
                str(atoms.symbols.formula.format("hill")),
                atoms.numbers.astype(np.int64),
                atoms.positions[None],
                {key: array[None] for key, array in labels.items()},
                atoms.cell.array[None] if periodic else None,
                atoms.pbc[None] if periodic else None,
            )
        found.source = str(file)
        return found.finish(subset) if found.blocks else None

    def _labels(self, atoms: Atoms, where: str, seen: _Seen) -> dict[str, NDArray[np.float64]]:
        """Return the labels of a structure by target, each with the shape of one entry, in the units of the file."""
        results = atoms.calc.results if atoms.calc is not None else {}
        labels = {}
        for key, name in self.keys.items():
            if name is False:
                continue
            own = atoms.arrays if TARGETS[key].per == "atom" else atoms.info
            value = results.get(key) if name is None else {**results, **own}.get(name)
            if value is None:
                continue
            array = np.asarray(value)
            is_number = TARGETS[key].shape == ()
            if array.dtype.kind not in "fiu" or (is_number and array.size != 1):
                expected = "a number" if is_number else "an array of numbers"
                raise DataError(f"{where}: its {key} is not {expected}, but {str(value)[:40]!r}")
            array = array.astype(np.float64)
            if np.isnan(array).any():
                raise DataError(f"{where}: its {key} is NaN; leave a missing label out instead")
            if is_number:
                array = array.reshape(())
            elif key == "stress":
                if not atoms.pbc.all():
                    seen.not_periodic += 1
                    continue
                array = self._stress(array, where, float(atoms.cell.volume))
            labels[key] = array
        return labels

    def _stress(self, array: NDArray[np.float64], where: str, volume: float) -> NDArray[np.float64]:
        """Return a stress or virial (6,), (9,) or (3, 3) as a symmetric (3, 3), a virial over volume."""
        what = "virial" if self.has_virial else "stress"
        if array.shape not in ((6,), (9,), (3, 3)):
            raise DataError(
                f"{where}: its {what} has shape {array.shape}; expected 6 numbers (xx yy zz yz xz xy), 9 row by row, "
                "or 3 x 3"
            )
        array = array[VOIGT] if array.shape == (6,) else array.reshape(3, 3)
        if self.has_virial and volume > 0:  # without volume the cell is refused
            array = array / volume
        absolute, relative = ASYMMETRY
        allowed = absolute / abs(self.factors.of("stress")) + relative * np.abs(array).max()
        if np.abs(array - array.T).max() > allowed:
            raise DataError(
                f"{where}: its {what} is not symmetric: {array.tolist()}; it may be another quantity: name the right "
                "one (data.stress_key=KEY or data.virial_key=KEY), or read none: data.stress_key=false"
            )
        return 0.5 * (array + array.T)

    def _check_labels(self, file: Path, seen: _Seen) -> None:
        """Raise when a file that was read has nothing of what was requested."""
        if seen.structures == 0:
            return
        keys = f"keys in the file: {', '.join(sorted(seen.keys - {'numbers', 'positions'})) or 'none'}"
        open_ones = f"{seen.not_periodic} structures are not periodic in three directions, and their stress is ignored"
        for key, name in self.keys.items():
            if name and seen.labels[key] == 0:
                what = "virial" if key == "stress" and self.has_virial else key
                near = f"{keys}{did_you_mean(name, seen.keys)}"
                reason = open_ones if key == "stress" and seen.not_periodic else near
                raise DataError(f"{file}: no structure has {what} under data.{what}_key={name}; {reason}")
        if not seen.labels:
            raise DataError(
                f"{file}: no structure has an energy or forces; {keys}; "
                "name them with data.energy_key=KEY data.forces_key=KEY"
            )
        if seen.not_periodic and not self.ignore_cell:
            print(f"{file}: {open_ones}", flush=True)


def _expand(paths: Paths, key: str) -> list[Path]:
    """Return the files that a path, a pattern or a list of these means."""
    files: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths:
        place = locate(path)
        matching = [] if place.is_file() else [Path(name) for name in sorted(glob(str(place))) if Path(name).is_file()]
        files += matching or [require_file(path, key)]
    if not files or len(set(files)) < len(files):
        raise DataError(f"{key}={paths!r}: {'names a file twice' if files else 'names no file'}")
    return files


def _guess(file: Path) -> str:
    try:
        return str(filetype(str(file)))
    except UnknownFileTypeError as error:
        raise DataError(f"{file}: ASE does not recognize its format; name it with data.format=NAME") from error
    except Exception as error:
        raise _unreadable(file, "a file of structures", error) from error


def _unreadable(file: Path, what: str, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as {what}: {type(error).__name__}: {error}")


def _others(file: Path, format: str) -> Iterator[tuple[int, Iterator[Atoms]]]:
    """Number and content of the blocks of a file in any format."""
    if format == "db" and file.suffix == ".db":
        _require_database(file)
    try:
        structures = ase.io.iread(str(file), index=":", format=format, do_not_split_by_at_sign=True)
        block: list[Atoms] = []
        n_atoms = 0
        for atoms in structures:
            block.append(atoms)
            n_atoms += len(atoms)
            if n_atoms >= BLOCK_ATOMS:
                yield len(block), iter(block)
                block, n_atoms = [], 0
    except Exception as error:  # ASE raises whatever its parsers meet
        raise _unreadable(file, format, error) from error
    if block:
        yield len(block), iter(block)


def _require_database(file: Path) -> None:
    """Raise unless a file is an ASE database: ASE would create its tables in any other, and in an empty file."""
    log = file.with_name(f"{file.name}-wal")
    # without a log SQLite need not look for one, and leaves none behind
    address = f"{file.resolve().as_uri()}?mode=ro{'' if log.exists() else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.Error as error:
        raise DataError(
            f"{file} cannot be read as an SQLite database, which .db stands for with ASE: {error}; if it is another "
            "kind of file, name it with data.format=NAME, or fetch it again"
        ) from error
    if "systems" not in tables:
        shown = ", ".join(tables[:10]) + (", ..." if len(tables) > 10 else "")
        raise DataError(
            f"{file} is not an ASE database: it has no table 'systems', but {shown or 'no tables at all'}; "
            "convert it to one, or to extended XYZ, with the program that wrote it"
        )
