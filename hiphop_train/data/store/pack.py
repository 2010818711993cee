"""Packing of data sets in chunks, atomic and resumable.

Memory does not grow with the size of the set. The folder is written under a temporary name and renamed when it is
complete. An interrupted packing is resumed.
"""

import json
import math
import os
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from hiphop_train.data.formats.base import Reader
from hiphop_train.data.formats.collector import Factors
from hiphop_train.data.store.fingerprint import Fingerprint
from hiphop_train.data.store.layout import (
    OPTIONAL,
    REQUIRED,
    TYPES,
    UNITS,
    VERSION,
    Advance,
    PackedSet,
    array_shape,
    byte_range,
    chunk_starts,
    is_packed,
    open_packed,
)
from hiphop_train.data.structures import Names, Structures
from hiphop_train.errors import DataError
from hiphop_train.targets import TARGETS

CHUNK_ATOMS = 1_000_000
"""Number of atoms per chunk, exceeded by at most one block."""


def identity(reader: Reader) -> dict[str, Any]:
    """Return the identity of a packed set's source: the reader's configuration, sizes and times of its files."""
    settings = {key: value for key, value in vars(reader).items() if not key.startswith("_") and key != "download"}
    if "factors" in settings:
        settings |= _factors(settings.pop("factors"))
    files = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in reader.files()]
    named = {"version": 1, "reader": type(reader).__name__, "settings": settings, "files": files}
    plain: dict[str, Any] = json.loads(json.dumps(named, sort_keys=True, default=str))
    return plain


def _factors(factors: Factors) -> dict[str, float]:
    """Name factors as in existing packed sets."""
    names = {"forces": "force"}
    return {"length_factor": factors.length} | {f"{names.get(key, key)}_factor": f for key, f in factors.labels.items()}


def pack(
    reader: Reader, folder: Path, advance: Advance = lambda n: None, say: Callable[[str], None] = lambda text: None
) -> PackedSet:
    """Pack a data set, unless it is packed already; of several processes, one packs and the others wait.

    Parameters
    ----------
    reader : reads the source
    folder : of the packed set
    advance : progress callback, called with the number of structures after each chunk
    say : called with messages for the user

    Raises
    ------
    DataError
        if the source is not as declared, or the folder cannot be written or exists and is not this packed set
    """
    made_of = identity(reader)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            lock.acquire(timeout=1)
        except Timeout:
            say(f"waiting for another process that is packing {folder}")
            lock.acquire()
        with lock:
            if is_packed(folder):
                found = open_packed(folder)
                if found.meta["made_of"] == made_of:
                    return found
                raise DataError(
                    f"{folder} was packed from other files or settings; remove it, or give another folder: "
                    "data.packed=FOLDER"
                )
            if folder.exists() and any(folder.iterdir()):
                raise DataError(f"{folder} exists and is not a packed set; give another folder: data.packed=FOLDER")
            partial = folder.with_name(f"{folder.name}.partial")
            _fill(reader, partial, made_of, advance, say)
            if folder.exists():
                folder.rmdir()
            partial.rename(folder)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror or error}); free some space or give another folder: "
            "data.packed=FOLDER, or read without packing: data.pack=never"
        ) from error
    return open_packed(folder)


def _fill(reader: Reader, partial: Path, made_of: dict[str, Any], advance: Advance, say: Callable[[str], None]) -> None:
    dtype = "<f4"
    while True:
        with _Writer(partial, made_of, dtype) as writer:
            if writer.n_blocks:
                say(f"resuming {partial} after {writer.n_structures:,} structures")
                advance(writer.n_structures)
            exact = _append_all(reader, writer, advance)
            if exact:
                writer.finish()
                return
        say("positions of the source exceed float32 precision; starting over in float64")
        shutil.rmtree(partial)
        dtype = "<f8"


def _append_all(reader: Reader, writer: "_Writer", advance: Advance) -> bool:
    """Write all blocks; return False if the positions need a wider type than they are written in."""
    waiting: list[Structures] = []
    n_waiting = 0
    number = 0
    for number, block in enumerate(reader.blocks(), start=1):
        if number <= writer.n_blocks:
            continue
        structures = block()
        if structures is not None:
            if writer.positions_type == "<f4" and structures.positions.dtype != np.float32:
                return False
            waiting.append(structures)
            n_waiting += len(structures.numbers)
        if n_waiting >= CHUNK_ATOMS:
            writer.append(waiting, number)
            advance(sum(map(len, waiting)))
            waiting, n_waiting = [], 0
    writer.append(waiting, number)
    advance(sum(map(len, waiting)))
    if writer.n_structures == 0:
        raise DataError(f"{reader.files()[0]} contains no structures with the requested labels")
    return True


class _Writer:
    """Appends to the files of an unfinished set; a journal records each complete chunk."""

    def __init__(self, folder: Path, made_of: dict[str, Any], positions_type: str) -> None:
        self.folder = folder
        self.made_of = made_of
        self.n_blocks = self.n_structures = self.n_atoms = 0
        self.chunks: list[dict[str, Any]] = []
        self.names = Names()
        self.fingerprint = Fingerprint()
        self.positions_type = positions_type
        self.arrays = list(REQUIRED)
        self._resume()
        self.files: dict[str, BinaryIO] = {}
        self.journal = (folder / "journal.jsonl").open("a")
        if self.journal.tell() == 0:
            self._note({"version": VERSION, "made_of": made_of, "positions": self.positions_type})

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.journal.close()
        for file in self.files.values():
            file.close()

    def _resume(self) -> None:
        """Resume an earlier attempt if it is intact; otherwise start over."""
        lines = []
        if (self.folder / "journal.jsonl").is_file():
            for line in (self.folder / "journal.jsonl").read_text().splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    break  # the attempt was interrupted in this line
        head = {"version": VERSION, "made_of": self.made_of}
        known = bool(lines) and all(lines[0].get(key) == value for key, value in head.items())
        if not known or not all(map(self._is_intact, chunk_starts(lines[1:]))):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            return
        self.positions_type = lines[0]["positions"]
        for entry in lines[1:]:
            self._count(entry)
        for name in self.arrays:
            with (self.folder / f"{name}.bin").open("ab") as file:
                file.truncate(self._length(name))
        with (self.folder / "journal.jsonl").open("w") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in lines)

    def _count(self, entry: dict[str, Any]) -> None:
        self.n_blocks = entry["n_blocks"]
        self.n_structures += entry["n_structures"]
        self.n_atoms += entry["n_atoms"]
        self.arrays += [name for name in entry["checksums"] if name not in self.arrays]
        self.fingerprint = Fingerprint(entry["fingerprint"])
        for kind, known in self._known_names().items():
            for name in entry[kind]:
                known[tuple(name) if kind == "groups" else name] = len(known)
        self.chunks.append({key: entry[key] for key in ("n_structures", "n_atoms", "checksums")})

    def _is_intact(self, end: tuple[dict[str, Any], int, int]) -> bool:
        """Whether a chunk in the files matches its checksums in the journal."""
        entry, n_structures, n_atoms = end
        for name, checksum in entry["checksums"].items():
            start, stop = byte_range(name, self._type(name), entry, n_structures, n_atoms)
            try:
                with (self.folder / f"{name}.bin").open("rb") as file:
                    file.seek(start)
                    if zlib.crc32(file.read(stop - start)) != checksum:
                        return False
            except OSError:
                return False
        return True

    def append(self, parts: list[Structures], n_blocks: int) -> None:
        """Write a chunk of structures, then its line in the journal."""
        if not parts:
            return
        before = {kind: len(known) for kind, known in self._known_names().items()}
        renamed = [self.names.rename(part) for part in parts]
        for name in OPTIONAL:
            if name not in self.arrays and any(_holds(part, name) for part in renamed):
                self._backfill(name)
        for part in renamed:
            self.fingerprint.update(part)
        sizes = np.concatenate([part.sizes for part in renamed])
        checksums = {}
        for name in self.arrays:
            if name == "offsets":
                array: NDArray[Any] = np.cumsum(sizes) + self.n_atoms
            else:
                array = np.concatenate([_array(part, name) for part in renamed])
            data = np.ascontiguousarray(array, self._type(name)).tobytes()
            if name not in self.files:
                self.files[name] = (self.folder / f"{name}.bin").open("ab")
            if name == "offsets" and self.files[name].tell() == 0:
                self.files[name].write(bytes(8))
            self.files[name].write(data)
            self.files[name].flush()
            checksums[name] = zlib.crc32(data)
        entry: dict[str, Any] = {
            "n_blocks": n_blocks,
            "n_structures": len(sizes),
            "n_atoms": int(sizes.sum()),
            "checksums": checksums,
            "fingerprint": self.fingerprint.state,
            **{kind: list(known)[before[kind] :] for kind, known in self._known_names().items()},
        }
        self._note(entry)
        self.n_blocks = n_blocks
        self.n_structures += entry["n_structures"]
        self.n_atoms += entry["n_atoms"]
        self.chunks.append({key: entry[key] for key in ("n_structures", "n_atoms", "checksums")})

    def _backfill(self, name: str) -> None:
        """Create an optional array with unknown labels or open cells for the structures so far."""
        self.arrays.append(name)
        size = math.prod(array_shape(name, self.n_structures, self.n_atoms))
        blank = np.full(min(size, CHUNK_ATOMS), np.nan if name in TARGETS else 0, TYPES[name])
        with (self.folder / f"{name}.bin").open("wb") as file:
            for start in range(0, size, CHUNK_ATOMS):
                blank[: size - start].tofile(file)

    def finish(self) -> None:
        """Write meta.json and flush all files to the disk."""
        meta = {
            "version": VERSION,
            "units": UNITS,
            "made_of": self.made_of,
            "fingerprint": self.fingerprint.hexdigest(),
            "n_structures": self.n_structures,
            "n_atoms": self.n_atoms,
            "arrays": {name: self._type(name) for name in self.arrays},
            "chunks": self.chunks,
            "group_names": self.names.group_names,
            "subset_names": self.names.subset_names,
            "level_names": self.names.theory_names,
        }
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        content = {"checksum": zlib.crc32(json.dumps(meta).encode()), "meta": meta}
        with (self.folder / "meta.json").open("w") as text:
            json.dump(content, text)
            text.flush()
            os.fsync(text.fileno())
        self.journal.close()
        (self.folder / "journal.jsonl").unlink()

    def _note(self, entry: dict[str, Any]) -> None:
        self.journal.write(json.dumps(entry) + "\n")
        self.journal.flush()

    def _known_names(self) -> dict[str, dict[Any, int]]:
        """Known names, by their keys in the journal."""
        return {"groups": self.names.groups, "subsets": self.names.subsets, "levels": self.names.theories}

    def _type(self, name: str) -> str:
        return self.positions_type if name == "positions" else TYPES[name]

    def _length(self, name: str) -> int:
        whole = {"n_structures": self.n_structures, "n_atoms": self.n_atoms}
        return byte_range(name, self._type(name), whole, 0, 0)[1]


def _holds(structures: Structures, name: str) -> bool:
    """Whether an optional array is needed."""
    return bool(structures.has(name).any() if name in TARGETS else structures.pbc.any())


def _array(structures: Structures, name: str) -> NDArray[Any]:
    if name in TARGETS:
        return structures.label(name)
    array: NDArray[Any] = structures.theory if name == "level" else getattr(structures, name)
    return array
