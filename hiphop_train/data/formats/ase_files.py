"""Files of any format that ASE reads: energies and forces from the calculator or from named keys.

Extended XYZ is cut into pieces here, and each is read by ASE; other formats are read by ASE structure by structure.
"""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from glob import glob
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, ioformats, open_with_compression
from numpy.typing import NDArray

from hiphop_train.data.formats.base import BLOCK_ATOMS, Block, Reader, locate, require_file
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError, did_you_mean
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit

Paths = str | list[str]

LONGEST_LINE = 10_000_000
"""Characters; nothing that is text has longer ones."""
PLAIN = "species:S:1:pos:R:3"
"""Columns of an XYZ file that does not say what they are."""


@dataclass
class _Seen:
    """What the structures of one file had, as far as they were read."""

    structures: int = 0
    energies: int = 0
    forces: int = 0
    keys: set[str] = field(default_factory=set)


class ASEReader(Reader):
    """Read files with ASE, some or others each for training, validation and test.

    Parameters
    ----------
    path : training file, a pattern of several (``data/*.xyz``) or a list
    format : ASE's name of the format; null: as ASE guesses from name and content
    energy_unit, length_unit, force_sign : what the files hold; forces are in energy_unit / length_unit
    val_path, test_path : further files, whose structures then make these splits
    energy_key, forces_key : names of the labels in the file; by default what ASE takes for energy and forces
    ignore_cell : treat all structures as open, whatever box the file gives

    Notes
    -----
    A structure without forces trains on its energy alone; one without energy, on its forces alone. A file without
    a single label is refused. A box counts only in its periodic directions.
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
    ) -> None:
        if format is not None and format not in ioformats:
            raise DataError(f"data.format={format}: ASE knows no such format{did_you_mean(format, ioformats)}")
        self.paths = {"train": path, "val": val_path, "test": test_path}
        self.format = format
        self.energy_key = energy_key
        self.forces_key = forces_key
        self.factors = declared(energy_unit, length_unit, force_sign)
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
                for n, frames in (_extxyz if format == "extxyz" else partial(_others, format=format))(file):
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
            if len(atoms) == 0:
                raise DataError(f"{file}, structure {k}: has no atoms")
            energy, forces = self._labels(atoms, f"{file}, structure {k}")
            seen.structures += 1
            seen.energies += energy is not None
            seen.forces += forces is not None
            seen.keys.update(atoms.info, atoms.arrays)
            periodic = bool(atoms.pbc.any()) and not self.ignore_cell
            found.source = f"{file}, structure {k}"
            found.add(
                str(atoms.symbols.formula.format("hill")),
                atoms.numbers.astype(np.int64),
                atoms.positions[None],
                {
                    "energy": None if energy is None else np.array([energy]),
                    "forces": None if forces is None else forces[None],
                },
                atoms.cell.array[None] if periodic else None,
                atoms.pbc[None] if periodic else None,
            )
        found.source = str(file)
        return found.finish(subset) if found.blocks else None

    def _labels(self, atoms: Atoms, where: str) -> tuple[float | None, NDArray[np.float64] | None]:
        results = atoms.calc.results if atoms.calc is not None else {}
        energy = results.get("energy") if self.energy_key is None else {**results, **atoms.info}.get(self.energy_key)
        forces = results.get("forces") if self.forces_key is None else {**results, **atoms.arrays}.get(self.forces_key)
        if energy is not None:
            value = np.asarray(energy)
            if value.dtype.kind not in "fiu" or value.size != 1:
                raise DataError(f"{where}: its energy is no number, but {energy!r}")
            energy = float(value.reshape(-1)[0])
        if forces is not None:
            forces = np.asarray(forces)
            if forces.dtype.kind not in "fiu":
                raise DataError(f"{where}: its forces are no numbers, but of type {forces.dtype}")
            forces = forces.astype(np.float64)
        if (energy is not None and np.isnan(energy)) or (forces is not None and np.isnan(forces).any()):
            raise DataError(f"{where}: its energy or forces are NaN; leave a missing label out instead")
        return energy, forces

    def _check_labels(self, file: Path, seen: _Seen) -> None:
        """Raise when a file that was read has nothing of what was asked for."""
        if seen.structures == 0:
            return
        keys = f"keys in the file: {', '.join(sorted(seen.keys - {'numbers', 'positions'})) or 'none'}"
        for what, key, number in (("energy", self.energy_key, seen.energies), ("forces", self.forces_key, seen.forces)):
            if key is not None and number == 0:
                near = did_you_mean(key, seen.keys)
                raise DataError(f"{file}: no structure has {what} under data.{what}_key={key}; {keys}{near}")
        if seen.energies + seen.forces == 0:
            raise DataError(
                f"{file}: no structure has an energy or forces; {keys}; "
                "name them with data.energy_key=KEY data.forces_key=KEY"
            )


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
    """Number and content of the pieces of a file in any format."""
    if format == "db" and file.suffix == ".db":
        _require_database(file)
    try:
        structures = ase.io.iread(str(file), index=":", format=format, do_not_split_by_at_sign=True)
        piece: list[Atoms] = []
        n_atoms = 0
        for atoms in structures:
            piece.append(atoms)
            n_atoms += len(atoms)
            if n_atoms >= BLOCK_ATOMS:
                yield len(piece), iter(piece)
                piece, n_atoms = [], 0
    except Exception as error:  # ASE raises whatever its parsers meet
        raise _unreadable(file, format, error) from error
    if piece:
        yield len(piece), iter(piece)


def _require_database(file: Path) -> None:
    """Raise unless a file is a database of ASE's: ASE would create its tables in any other, and in an empty file."""
    log = file.with_name(f"{file.name}-wal")
    # where nothing waits in a log, SQLite need not look for one, and leaves none behind
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
            f"{file} is no database of ASE's: it has no table 'systems', but {shown or 'no tables at all'}; "
            "convert it to one, or to extended XYZ, with the program that wrote it"
        )


def _extxyz(file: Path) -> Iterator[tuple[int, Iterator[Atoms]]]:
    """Number and content of the pieces of an extended XYZ file."""
    first, piece, n_atoms = 0, [], 0
    for frame in _frames(file):
        piece.append(frame)
        n_atoms += len(frame) - 2
        if n_atoms >= BLOCK_ATOMS:
            yield len(piece), _parse(file, piece, first)
            first, piece, n_atoms = first + len(piece), [], 0
    if piece:
        yield len(piece), _parse(file, piece, first)


def _frames(file: Path) -> Iterator[list[str]]:
    """Lines of each structure of an extended XYZ file: ASE would take its word for any number of atoms."""
    try:
        with open_with_compression(str(file), "r") as stream:
            lines = _lines(stream)
            line = next(lines, "")
            k = 0
            while line.strip():
                try:
                    n_atoms = int(line)
                except ValueError:
                    n_atoms = 0
                if n_atoms < 1:
                    raise DataError(f"{file}, structure {k}: expected its number of atoms, found {line.strip()[:40]!r}")
                frame = [line]
                for line in lines:
                    frame.append(line)
                    if len(frame) == n_atoms + 2:
                        break
                else:
                    raise DataError(f"{file}, structure {k}: ends after {len(frame) - 2} of {n_atoms} atoms; truncated")
                line = next(lines, "")
                while line.startswith("VEC"):  # the lattice, as ADF writes it
                    frame.append(line)
                    line = next(lines, "")
                yield frame
                k += 1
            rest = next((line for line in chain([line], lines) if line.strip()), None)
            if rest is not None:
                raise DataError(f"{file}, after structure {k - 1}: an empty line, and then {rest.strip()[:40]!r}")
            if k == 0:
                raise DataError(f"{file}: holds no structures; it is empty")
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise _unreadable(file, "extended XYZ", error) from error


def _lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if not line.endswith("\n"):
            raise ValueError(
                "the last line does not end, so that its last number may have been cut; if the file is complete, put a "
                "line break there"
                if len(line) < LONGEST_LINE
                else "a line of more than ten million characters"
            )
        yield line


def _parse(file: Path, piece: list[list[str]], first: int) -> Iterator[Atoms]:
    """Read structures from their lines."""
    for k, frame in enumerate(piece, first):
        _check_columns(f"{file}, structure {k}", frame)
        try:
            (atoms,) = ase.io.iread(StringIO("".join(frame)), index=":", format="extxyz")
        except Exception as error:  # ASE raises whatever its parser meets: ValueError, KeyError, IndexError, XYZError
            problem = f"{type(error).__name__}: {error}"
            raise DataError(f"{file}, structure {k} cannot be read as extended XYZ: {problem}") from error
        yield atoms


def _check_columns(where: str, frame: list[str]) -> None:
    """Every atom must have the declared columns: ASE passes over what is too much, and goes without positions."""
    found = re.search(r"(?:^|\s)Properties\s*=\s*[\"{]?([^\s\"{}]+)", frame[1])
    properties = PLAIN if found is None else found.group(1)
    declared = properties.split(":")
    columns: dict[str, Any] = dict(zip(declared[::3], zip(declared[1::3], declared[2::3], strict=False), strict=False))
    if columns.get("pos") != ("R", "3"):
        raise DataError(f"{where}: Properties={properties} declares no positions (pos:R:3)")
    width = sum(int(number) if number.isdecimal() else 0 for number in declared[2::3])
    n_atoms = int(frame[0])
    widths = [len(line.split()) for line in frame[2 : n_atoms + 2]]
    atom = next((atom for atom, number in enumerate(widths) if number != width), None)
    if atom is None:
        return
    says = f"where Properties={properties} declares" if found else "but its second line has no Properties=, which means"
    more = widths[0] - width
    advice = ""
    if more > 0 and len(set(widths)) == 1:  # all alike: columns that nobody declared, and no damage
        name = "forces:R:3" if more == 3 and "forces" not in columns else f"NAME:R:{more}"
        advice = f"; say in its second line what the others are, as in Properties={properties}:{name}, or delete them"
    raise DataError(f"{where}: atom {atom} has {widths[atom]} columns, {says} {width}{advice}")
