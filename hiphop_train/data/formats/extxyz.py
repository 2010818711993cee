"""Extended XYZ: divided into blocks and checked here, parsed by ASE."""

import re
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import IO, Any

import ase.io
from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import open_with_compression

from hiphop_train.data.formats.base import BLOCK_ATOMS
from hiphop_train.errors import DataError

_comment: Callable[[str], dict[str, Any]] = key_val_str_to_dict
LONGEST_LINE = 10_000_000
"""Characters; longer lines are not text."""
PLAIN = "species:S:1:pos:R:3"
"""Columns of an XYZ file without a declaration."""


def extxyz_blocks(file: Path) -> Iterator[tuple[int, Iterator[Atoms]]]:
    """Yield number of structures and content of the blocks of an extended XYZ file."""
    first, block, n_atoms = 0, [], 0
    for frame in _frames(file):
        block.append(frame)
        n_atoms += len(frame) - 2
        if n_atoms >= BLOCK_ATOMS:
            yield len(block), _parse(file, block, first)
            first, block, n_atoms = first + len(block), [], 0
    if block:
        yield len(block), _parse(file, block, first)


def _frames(file: Path) -> Iterator[list[str]]:
    """Yield the lines of each structure of an extended XYZ file; ASE would not check the declared number of atoms."""
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
                while line.startswith("VEC"):  # lattice vectors written by ADF
                    frame.append(line)
                    line = next(lines, "")
                yield frame
                k += 1
            rest = next((line for line in chain([line], lines) if line.strip()), None)
            if rest is not None:
                raise DataError(f"{file}, after structure {k - 1}: an empty line followed by {rest.strip()[:40]!r}")
            if k == 0:
                raise DataError(f"{file} is empty")
    except (OSError, EOFError, ValueError, MemoryError) as error:
        raise DataError(f"{file} cannot be read as extended XYZ: {type(error).__name__}: {error}") from error


def _lines(stream: IO[str]) -> Iterator[str]:
    while line := stream.readline(LONGEST_LINE):
        if not line.endswith("\n"):
            raise ValueError(
                "the last line has no line break, so its last number may be truncated; if the file is complete, add one"
                if len(line) < LONGEST_LINE
                else "a line of more than ten million characters"
            )
        yield line


def _parse(file: Path, block: list[list[str]], first: int) -> Iterator[Atoms]:
    """Read structures from their lines."""
    for k, frame in enumerate(block, first):
        _check_columns(f"{file}, structure {k}", frame)
        try:
            (atoms,) = ase.io.iread(StringIO("".join(frame)), index=":", format="extxyz")
            if atoms.calc is not None and "stress" in atoms.calc.results:  # ASE keeps only six of nine components
                atoms.calc.results["stress"] = _comment(frame[1])["stress"]
        except Exception as error:  # ASE's parser raises ValueError, KeyError, IndexError, XYZError
            problem = f"{type(error).__name__}: {error}"
            if isinstance(error, KeyError) and str(error.args[0]).isalpha() and len(error.args[0]) <= 3:
                problem = f"'{error.args[0]}' is not an element"
            raise DataError(f"{file}, structure {k} cannot be read as extended XYZ: {problem}") from error
        yield atoms


def _check_columns(where: str, frame: list[str]) -> None:
    """Check that every atom has the declared columns: ASE ignores surplus ones, and accepts files without positions."""
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
    source = f"Properties={properties} declares" if found else "without Properties= in the second line they must be"
    more = widths[0] - width
    advice = ""
    if more > 0 and len(set(widths)) == 1:  # all alike: undeclared columns, not damage
        name = "forces:R:3" if more == 3 and "forces" not in columns else f"NAME:R:{more}"
        advice = f"; declare the others in the second line, as in Properties={properties}:{name}, or delete them"
    raise DataError(f"{where}: atom {atom} has {widths[atom]} columns, but {source} {width}{advice}")
