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
"""Name of a label; None: ASE's own label; False: it is not read."""

VOIGT = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
"""Indices of the components of a symmetric tensor among six numbers, in ASE's order xx yy zz yz xz xy."""
ASYMMETRY = 1e-5, 1e-3
"""Largest asymmetry of a stress due to rounding: eV/Angstrom^3, and relative to the largest component."""

UNDEFINED = {"cell": "not periodic in three directions", "molecule": "periodic"}
"""Description of structures without such a target, by `Target.per`."""


@dataclass
class _Seen:
    """Labels found so far in one file."""

    structures: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    """Labels of structures for which the target is not defined: stress of a molecule, dipole of a crystal."""
    keys: set[str] = field(default_factory=set)


class ASEReader(Reader):
    """Read files with ASE, optionally different ones for training, validation and test.

    Parameters
    ----------
    path : training file, a pattern (``data/*.xyz``) or a list of files
    format : ASE's name of the format; null: guessed by ASE from name and content
    energy_unit, length_unit, force_sign : of the files; forces are in energy_unit / length_unit
    val_path, test_path : further files, whose structures form these splits
    energy_key, forces_key, stress_key, dipole_key : names of the labels in the file; null: ASE's own energy, forces,
        stress and dipole; false: no stress, no dipole
    ignore_cell : treat all structures as open, even if the file gives cells
    virial_key : name of virials, which are read instead of stresses: stress = -virial / volume
    stress_unit, stress_sign, virial_unit, dipole_unit : of the files

    Notes
    -----
    Any label may be missing in a structure, which is then trained on the others. A file without any label is refused.
    Cells are used in periodic directions only. Stress and virial have six components in the order xx yy zz yz xz xy, or
    nine in row-major order. Labels of undefined targets are ignored: stress unless a structure is periodic in three
    directions, dipole if it is periodic.
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
            raise DataError(f"data.format={format} is not a format of ASE{did_you_mean(format, ioformats)}")
        if virial_key is not None and stress_key:
            raise ConfigError(
                f"data.stress_key={stress_key} and data.virial_key={virial_key} exclude each other: stress is computed "
                "from virials; give one of the two"
            )
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.format = format
        self.keys: dict[str, Key] = {
            **dict.fromkeys(TARGETS),
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
        """Yield the files, whose subsets are named train, val and test."""
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
                raise DataError(f"{where} has no atoms")
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
        """Return the labels of a structure by target, each with the target's shape, in the units of the file."""
        results = atoms.calc.results if atoms.calc is not None else {}
        labels = {}
        for key, name in self.keys.items():
            if name is False:
                continue
            target = TARGETS[key]
            own = atoms.arrays if target.per == "atom" else atoms.info
            value = results.get(key) if name is None else {**results, **own}.get(name)
            if value is None:
                continue
            if not target.is_defined(atoms.pbc[None])[0]:
                seen.ignored[key] += 1
                continue
            array = np.asarray(value)
            is_number = target.shape == () and target.per != "atom"
            if array.dtype.kind not in "fiu" or (is_number and array.size != 1):
                expected = "a number" if is_number else "an array of numbers"
                raise DataError(f"{where}: {key} is {str(value)[:40]!r}; expected {expected}")
            array = array.astype(np.float64)
            if np.isnan(array).any():
                raise DataError(f"{where}: {key} is NaN; omit missing labels instead")
            if is_number:
                array = array.reshape(())
            elif key == "stress":
                array = self._stress(array, where, float(atoms.cell.volume))
            labels[key] = array
        return labels

    def _stress(self, array: NDArray[np.float64], where: str, volume: float) -> NDArray[np.float64]:
        """Return a stress, or a virial over volume, (6,), (9,) or (3, 3) as a symmetric (3, 3)."""
        what = "virial" if self.has_virial else "stress"
        if array.shape not in ((6,), (9,), (3, 3)):
            raise DataError(
                f"{where}: {what} has shape {array.shape}; expected 6 numbers (xx yy zz yz xz xy), 9 in row-major "
                "order, or 3 x 3"
            )
        array = array[VOIGT] if array.shape == (6,) else array.reshape(3, 3)
        if self.has_virial and volume > 0:  # without volume the cell is refused
            array = array / volume
        absolute, relative = ASYMMETRY
        allowed = absolute / abs(self.factors.of("stress")) + relative * np.abs(array).max()
        if np.abs(array - array.T).max() > allowed:
            raise DataError(
                f"{where}: {what} is not symmetric: {array.tolist()}; if it is another quantity, name the right one "
                "(data.stress_key=KEY or data.virial_key=KEY), or do not read it: data.stress_key=false"
            )
        return 0.5 * (array + array.T)

    def _check_labels(self, file: Path, seen: _Seen) -> None:
        """Raise `DataError` if a file lacks a requested label."""
        if seen.structures == 0:
            return
        keys = f"keys in the file: {', '.join(sorted(seen.keys - {'numbers', 'positions'})) or 'none'}"
        reasons = {
            key: f"{n} structures are {UNDEFINED[TARGETS[key].per]}; their {key} is ignored"
            for key, n in seen.ignored.items()
        }
        for key, name in self.keys.items():
            if name and seen.labels[key] == 0:
                what = "virial" if key == "stress" and self.has_virial else key
                reason = reasons.get(key, f"{keys}{did_you_mean(name, seen.keys)}")
                raise DataError(f"{file}: no structure has {what} under data.{what}_key={name}; {reason}")
        if not seen.labels:
            raise DataError(
                f"{file}: no structure has an energy or forces; {keys}; "
                "name them with data.energy_key=KEY data.forces_key=KEY"
            )
        if not self.ignore_cell:
            for reason in reasons.values():
                print(f"{file}: {reason}", flush=True)


def _expand(paths: Paths, key: str) -> list[Path]:
    """Return the files given by a path, a pattern or a list of these."""
    files: list[Path] = []
    for path in [paths] if isinstance(paths, str) else paths:
        file = locate(path)
        matching = [] if file.is_file() else [Path(name) for name in sorted(glob(str(file))) if Path(name).is_file()]
        files += matching or [require_file(path, key)]
    if not files or len(set(files)) < len(files):
        raise DataError(f"{key}={paths!r}: {'names a file twice' if files else 'names no file'}")
    return files


def _guess(file: Path) -> str:
    try:
        return str(filetype(str(file)))
    except UnknownFileTypeError as error:
        raise DataError(f"{file}: ASE does not recognise its format; name it with data.format=NAME") from error
    except Exception as error:
        raise _unreadable(file, "a file of structures", error) from error


def _unreadable(file: Path, what: str, error: Exception) -> DataError:
    return DataError(f"{file} cannot be read as {what}: {type(error).__name__}: {error}")


def _others(file: Path, format: str) -> Iterator[tuple[int, Iterator[Atoms]]]:
    """Yield number of structures and content of the blocks of a file in any format."""
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
    except Exception as error:  # ASE parsers raise many kinds
        raise _unreadable(file, format, error) from error
    if block:
        yield len(block), iter(block)


def _require_database(file: Path) -> None:
    """Raise unless a file is an ASE database: ASE would create its tables in any other or empty file."""
    log = file.with_name(f"{file.name}-wal")
    # without a log, `immutable` keeps SQLite from creating one
    address = f"{file.resolve().as_uri()}?mode=ro{'' if log.exists() else '&immutable=1'}"
    try:
        with closing(sqlite3.connect(address, uri=True)) as connection:
            tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except sqlite3.Error as error:
        raise DataError(
            f"{file} cannot be read as an SQLite database, which .db means in ASE: {error}; if it has another format, "
            "name it with data.format=NAME, otherwise fetch it again"
        ) from error
    if "systems" not in tables:
        shown = ", ".join(tables[:10]) + (", ..." if len(tables) > 10 else "")
        raise DataError(
            f"{file} is not an ASE database: no table 'systems'; present: {shown or 'none'}; "
            "convert it to one, or to extended XYZ, with the program that wrote it"
        )
