"""QM9: one text file per molecule, as published in one archive; energies only.

Ramakrishnan et al., Sci. Data 1, 140022 (2014). Numbers may be written as ``1.2*^-6``.
"""

import bz2
import tarfile
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
from ase.data import atomic_numbers

from hiphop_train.data.formats.base import Block, Reader, locate
from hiphop_train.data.formats.collector import Collector, declared
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from hiphop_train.units import EnergyUnit, LengthUnit

Property = Literal["homo", "lumo", "gap", "zpve", "U0", "U", "H", "G"]

COLUMNS = ["A", "B", "C", "mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "U0", "U", "H", "G", "Cv"]
"""Meaning of the numbers in the second line, after the name."""

BLOCK_MOLECULES = 10_000
"""Molecules read together."""
LONGEST = 1_000_000
"""Largest size of a molecule's file, bytes; real ones have a few thousand."""


class QM9Reader(Reader):
    """Read QM9, its archive or the folder of its files; each molecule is a group.

    Parameters
    ----------
    path : ``dsgdb9nsd.xyz.tar.bz2``, or a folder of files ``dsgdb9nsd_*.xyz``
    property : published energy used as the label; U0 is the internal energy at 0 K, G the free energy at 298.15 K
    energy_unit, length_unit : of the files
    exclude : file with the numbers of molecules to exclude, in the first column, such as the published list of doubtful
        geometries
    download : download instructions, shown if the file is missing
    """

    def __init__(
        self,
        path: str,
        property: Property,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        exclude: str | None,
        download: str = "",
    ) -> None:
        self.path = path
        self.property = property
        self.factors = declared(energy_unit, length_unit)
        self.exclude = exclude
        self.download = download

    def files(self) -> list[Path]:
        """Return the archive, or all files of the folder."""
        path = locate(self.path)
        files = sorted(path.glob("dsgdb9nsd_*.xyz")) if path.is_dir() else [path] if path.is_file() else []
        if not files:
            what = "contains no file dsgdb9nsd_*.xyz" if path.is_dir() else "does not exist"
            advice = self.download.format(path=path, folder=path.parent)
            raise DataError(f"{path} {what}\n  download it: {advice}\n  or give its path: data.path=PATH")
        return files

    def blocks(self) -> Iterator[Block]:
        """Yield the molecules in blocks."""
        excluded = self._excluded()
        files = self.files()
        texts = ((file, file.name, _content(file)) for file in files)
        molecules = iter(texts if locate(self.path).is_dir() else _archived(files[0]))
        first = 0
        while block := list(islice(molecules, BLOCK_MOLECULES)):
            yield partial(self._read, block, excluded, first)
            first += len(block)

    def _excluded(self) -> set[int]:
        """Numbers of the molecules to exclude."""
        if self.exclude is None:
            return set()
        file = locate(self.exclude)
        try:
            lines = [line.split() for line in file.read_text().splitlines()]
        except (OSError, ValueError) as error:
            raise DataError(f"{file} (data.exclude) cannot be read ({type(error).__name__}: {error})") from error
        found = {int(line[0]) for line in lines if line and line[0].isdecimal() and line[1:] != ["compounds"]}
        if not found:
            raise DataError(f"{file} (data.exclude) contains no number of a molecule in its first column")
        return found

    def _read(self, block: list[tuple[Path, str, bytes]], excluded: set[int], first: int) -> Structures | None:
        source = block[0][0]
        found = Collector(str(source), self.factors, may_miss=False, first=first)
        for k, (file, name, content) in enumerate(block):
            where = f"{file}, {name}" if file.name != name else str(file)
            found.source = where
            number, values, symbols, positions = _molecule(content, where)
            if number in excluded:
                continue
            found.add(
                f"gdb {number}",
                np.array([atomic_numbers[symbol] for symbol in symbols]),
                np.array([positions]),
                {"energy": np.array([values[COLUMNS.index(self.property)]])},
                conformation=np.array([first + k]),
            )
        found.source = str(source)
        return found.finish(locate(self.path).name) if found.blocks else None


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()[: LONGEST + 1]
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error


def _archived(file: Path) -> Iterator[tuple[Path, str, bytes]]:
    """Yield file, name and content of each molecule of the archive."""
    try:
        with bz2.open(file) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    name = Path(member.name).name
                    if not (name.startswith("dsgdb9nsd_") and name.endswith(".xyz")):
                        continue
                    if not member.isfile() or member.size > LONGEST:
                        raise DataError(f"{file}, {name} is not the file of a molecule ({member.size} bytes)")
                    content = archive.extractfile(member)
                    yield file, name, content.read() if content is not None else b""
            while stream.read(1_000_000):  # to the end, to compare the checksum
                pass
    except (tarfile.TarError, OSError, EOFError, ValueError, MemoryError) as error:
        raise DataError(
            f"{file} cannot be read as tar.bz2: it is truncated, damaged or another kind of file "
            f"({type(error).__name__}: {error}); compare its size and checksum with the source and fetch it again"
        ) from error


def _molecule(content: bytes, where: str) -> tuple[int, list[float], list[str], list[list[float]]]:
    """Return number, properties, elements and positions in a molecule's file."""
    try:
        lines = content.decode("ascii").rstrip().split("\n")
        n_atoms = int(lines[0])
        tag, number, *values = lines[1].split()
        if n_atoms < 1 or len(lines) != n_atoms + 5 or tag != "gdb" or len(values) != len(COLUMNS):
            raise ValueError(f"{len(lines)} lines for {n_atoms} atoms, {len(values)} of {len(COLUMNS)} properties")
        atoms = [line.split() for line in lines[2 : n_atoms + 2]]
        if any(len(atom) != 5 or atom[0] not in atomic_numbers for atom in atoms):
            raise ValueError("an atom's line is not: element x y z charge")
        positions = [[_number(value) for value in atom[1:4]] for atom in atoms]
        return int(number), [_number(value) for value in values], [atom[0] for atom in atoms], positions
    except (ValueError, IndexError) as error:
        raise DataError(f"{where} is not a molecule of QM9: {error}") from error


def _number(text: str) -> float:
    return float(text.replace("*^", "e"))
