"""Packed data sets: flat arrays in memory-mapped files.

A packed set is a folder with one file per array, little-endian and without headers, and meta.json with types, lengths
and checksums, names of groups, subsets and levels of theory, and the source. `data.store.pack` writes them.
"""

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hiphop_train.data.structures import PER_ATOM, Structures
from hiphop_train.errors import DataError
from hiphop_train.targets import TARGETS

VERSION = 2
READABLE = (1, 2)
"""Version 1 had energy and forces only, and stored in ``has_forces.bin`` what NaN indicates too."""
UNITS = {"length": "angstrom"} | {target.key: target.unit for target in TARGETS.values()}
REQUIRED = {
    "offsets": "<i8",
    "numbers": "|u1",
    "positions": "<f4",  # <f8 if the source has more digits
    "forces": "<f4",
    "energy": "<f8",
    "group": "<i4",
    "subset": "<i2",
    "level": "<i2",  # of theory
    "conformation": "<i8",
    "geometry": "<u8",
}
OPTIONAL = {"cell": "<f8", "pbc": "|b1"} | {
    target.key: "<f4" if target.per == "atom" else "<f8" for target in TARGETS.values() if target.key not in REQUIRED
}
"""Arrays stored only if a structure is periodic, or has the label."""
TYPES = REQUIRED | OPTIONAL
ENTRIES = {"positions": (3,), "cell": (3, 3), "pbc": (3,)}
"""Shapes of the entries of arrays that are neither numbers nor labels."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class PackedSet:
    """A packed set.

    Attributes
    ----------
    structures : mapped into memory
    fingerprint : of geometry and labels
    meta : contents of meta.json
    """

    structures: Structures
    fingerprint: str
    meta: dict[str, Any]


def is_packed(path: Path) -> bool:
    """Whether a path is a packed set."""
    return (path / "meta.json").is_file()


def chunk_starts(entries: list[dict[str, Any]]) -> list[tuple[dict[str, Any], int, int]]:
    """Return each chunk with the numbers of structures and atoms before it."""
    found, n_structures, n_atoms = [], 0, 0
    for entry in entries:
        found.append((entry, n_structures, n_atoms))
        n_structures += entry["n_structures"]
        n_atoms += entry["n_atoms"]
    return found


def array_shape(name: str, n_structures: int, n_atoms: int) -> tuple[int, ...]:
    """Shape of an array."""
    if name in TARGETS:
        return TARGETS[name].array_shape(n_structures, n_atoms)
    if name == "offsets":
        return (n_structures + 1,)
    return (n_atoms if name in PER_ATOM else n_structures, *ENTRIES.get(name, ()))


def byte_range(name: str, dtype: str, entry: dict[str, Any], n_structures: int, n_atoms: int) -> tuple[int, int]:
    """First byte of a chunk in its file, and the first after it; the file of offsets begins with an extra zero."""
    size = np.dtype(dtype).itemsize
    if name == "offsets":
        start = (n_structures + 1) * size
        return start, start + entry["n_structures"] * size
    start = int(np.prod(array_shape(name, n_structures, n_atoms))) * size
    return start, start + int(np.prod(array_shape(name, entry["n_structures"], entry["n_atoms"]))) * size


def open_packed(folder: Path) -> PackedSet:
    """Map a packed set into memory.

    Raises
    ------
    DataError
        if it is damaged, judging by meta.json and the lengths of the files; `verify` reads everything
    """
    meta = _read_meta(folder)
    n_structures, n_atoms = meta["n_structures"], meta["n_atoms"]
    arrays: dict[str, Any] = {}
    for name, dtype in meta["arrays"].items():
        file, shape = folder / f"{name}.bin", array_shape(name, n_structures, n_atoms)
        expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found = file.stat().st_size if file.is_file() else 0
        if found != expected:
            raise _damaged(folder, f"{file.name} has {found} bytes, expected {expected}")
        arrays[name] = np.memmap(file, np.dtype(dtype), "r", shape=shape)
    if "cell" not in arrays:
        arrays["cell"] = np.broadcast_to(np.zeros((3, 3)), (n_structures, 3, 3))
        arrays["pbc"] = np.broadcast_to(np.zeros(3, np.bool_), (n_structures, 3))
    arrays.pop("has_forces", None)
    structures = Structures(
        source=", ".join(file for file, *_ in meta["made_of"]["files"][:3]),
        group_names=tuple(meta["group_names"]),
        subset_names=tuple(meta["subset_names"]),
        theory=arrays.pop("level"),
        theory_names=tuple(meta["level_names"]),
        labels={key: arrays.pop(key) for key in TARGETS if key in arrays},
        **arrays,
    )
    if structures.offsets[0] != 0 or structures.offsets[-1] != n_atoms:
        raise _damaged(folder, "offsets.bin and meta.json do not agree")
    return PackedSet(structures, meta["fingerprint"], meta)


def verify(folder: Path, advance: Advance = lambda n: None) -> PackedSet:
    """Compare a whole packed set with its checksums.

    Parameters
    ----------
    folder : of the packed set
    advance : progress callback, called with the number of structures after each chunk

    Raises
    ------
    DataError
        if it is damaged; names the file and the structures
    """
    found = open_packed(folder)
    for entry, n_structures, n_atoms in chunk_starts(found.meta["chunks"]):
        for name, checksum in entry["checksums"].items():
            start, stop = byte_range(name, found.meta["arrays"][name], entry, n_structures, n_atoms)
            with (folder / f"{name}.bin").open("rb") as file:
                file.seek(start)
                if zlib.crc32(file.read(stop - start)) != checksum:
                    last = n_structures + entry["n_structures"] - 1
                    raise _damaged(
                        folder, f"{name}.bin differs from its checksum, in structures {n_structures} to {last}"
                    )
        advance(entry["n_structures"])
    return found


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / "meta.json").read_text())
        meta: dict[str, Any] = content["meta"]
        if zlib.crc32(json.dumps(meta).encode()) != content["checksum"]:
            raise ValueError("its checksum is wrong")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"meta.json cannot be read ({error})") from error
    if meta["version"] not in READABLE:
        readable = " and ".join(map(str, READABLE))
        raise DataError(
            f"{folder} has version {meta['version']}, but this code reads {readable}; remove it to pack it again"
        )
    return meta


def _damaged(folder: Path, problem: str) -> DataError:
    return DataError(f"{folder} is damaged: {problem}; remove the folder to pack it again")
