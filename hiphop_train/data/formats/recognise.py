"""Recognition of the configuration in conf/data that reads a file, by its content."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hiphop_train.data.formats.hdf5 import open_hdf5
from hiphop_train.data.store.layout import is_packed
from hiphop_train.errors import DataError
from hiphop_train.files import absence

LEVELS = {"dz": "wb97x_dz.energy", "tz": "wb97x_tz.energy", "ccx": "ccsd(t)_cbs.energy"}
"""Levels of theory of conf/data/ani1x.yaml and the arrays that indicate them."""
GROUPS_READ = 20
"""Number of groups of an HDF5 file that are inspected."""
DATA_SUFFIXES = (".h5", ".hdf5", ".npz", ".xyz", ".extxyz", ".mat", ".traj", ".db")


@dataclass(frozen=True)
class Recognised:
    """The configuration recognised for a file.

    Attributes
    ----------
    choice : name of a file in conf/data
    why : evidence, for messages
    settings : keys of the data section required by the content
    """

    choice: str
    why: str
    settings: dict[str, Any] = field(default_factory=dict)


def recognise(path: Path) -> Recognised:
    """Inspect a file, or the first file of a folder, and return the configuration that reads it.

    Units and sign are those of the configuration, since the layout does not determine them.
    """
    if is_packed(path):
        return Recognised("packed", "it has a meta.json, like packed sets")
    if path.is_dir():
        return _recognise_folder(path)
    if not path.is_file():
        raise DataError(f"{path} {absence(path)}; to fetch a published set: hiphop-data download NAME")
    with path.open("rb") as handle:
        start = handle.read(4096)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _recognise_hdf5(path)
    if start.startswith(b"PK\x03\x04") and path.suffix == ".npz":
        return _recognise_npz(path)
    if start.startswith(b"MATLAB"):
        return Recognised("qm7", "it is a MATLAB file, like that of QM7")
    if start.startswith(b"BZh") and path.name.endswith(".tar.bz2"):
        return Recognised("qm9", "it is a .tar.bz2 archive, like that of QM9")
    lines = start.decode(errors="replace").splitlines()
    if len(lines) > 1 and lines[0].strip().isdigit():
        if lines[1].startswith("gdb "):
            why = "its second line begins with gdb, as in QM9, whose files are read by the folder"
            return Recognised("qm9", why, {"path": str(path.parent)})
        return Recognised("extxyz", "its first line is a number of atoms")
    if not start:
        raise DataError(f"{path} is empty; fetch it again")
    if start.startswith(b"SQLite format 3") and b"CREATE TABLE systems" not in start:
        raise unknown(path, "it is an SQLite file, but not an ASE database")
    if b"\0" not in start or start.startswith((b"SQLite format 3", b"- of Ulm")):
        return Recognised("ase", "it has none of the known layouts, so ASE reads it")
    raise unknown(path, "its first bytes match no known format")


def unknown(path: Path, found: str) -> DataError:
    """Return the error for a file of unknown layout."""
    return DataError(
        f"{path}: layout not recognised: {found}\n"
        "  give the configuration that reads it: data=NAME, and settings that differ: data.reader.KEY=VALUE"
    )


def _recognise_folder(path: Path) -> Recognised:
    files = sorted(file for file in path.rglob("*") if file.suffix in DATA_SUFFIXES)
    if not files:
        raise DataError(f"{path} is a folder without data files ({', '.join(DATA_SUFFIXES)})")
    if files[0].name.startswith("dsgdb9nsd_"):
        return Recognised("qm9", f"it contains {files[0].name}")  # a single file would set `path`
    first = recognise(files[0])
    return Recognised(first.choice, f"{first.why} ({files[0].name}, the first of {len(files)} files)", first.settings)


def _recognise_npz(path: Path) -> Recognised:
    try:
        with np.load(path, allow_pickle=False) as archive:
            keys = set(archive.files)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as npz: {error}; fetch it again") from error
    if {"nuclear_charges", "coords", "energies"} <= keys:
        return Recognised("rmd17", "it contains nuclear_charges, coords and energies")
    if {"z", "R", "E"} <= keys:
        return Recognised("md17", "it contains z, R and E")
    raise unknown(path, f"it contains {', '.join(sorted(keys)) or 'nothing'}")


def _leaves(group: h5py.Group, path: str = "") -> Iterator[tuple[str, dict[str, h5py.Dataset]]]:
    """Yield groups with arrays, at any depth."""
    arrays = {}
    for name in group:
        try:
            child = group[name]
        except (KeyError, OSError, RuntimeError):
            continue  # a broken link
        if isinstance(child, h5py.Dataset):
            arrays[name] = child
        elif isinstance(child, h5py.Group) and path.count("/") < 8:
            yield from _leaves(child, f"{path}/{name}")
    if arrays:
        yield path, arrays


def _recognise_hdf5(path: Path) -> Recognised:
    with open_hdf5(path) as file:
        keys: set[str] = set()
        kinds: dict[str, tuple[str, int]] = {}
        names = []
        try:
            for k, (name, arrays) in enumerate(_leaves(file)):
                keys |= set(arrays)
                names.append(name)
                kinds |= {key: (array.dtype.kind, len(array.shape or ())) for key, array in arrays.items()}
                if k + 1 == GROUPS_READ:
                    break
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{path} cannot be read as HDF5 ({error}); it is damaged: fetch it again") from error
    if not names:
        raise unknown(path, "it contains no arrays")
    return _by_keys(path, keys, kinds, names)


def _by_keys(path: Path, keys: set[str], kinds: dict[str, tuple[str, int]], names: list[str]) -> Recognised:
    """Compare names of arrays with those of the published layouts."""
    where = f"group {names[0] or '/'}"
    if {"conformations", "dft_total_energy"} <= keys:
        return Recognised("spice", f"{where} contains conformations and dft_total_energy")
    if {"positions", "wB97x_6-31G(d).energy"} <= keys:
        return Recognised("transition1x", f"{where} contains positions and wB97x_6-31G(d).energy")
    if {"atomic_numbers", "coordinates"} <= keys:
        levels = [level for level, key in LEVELS.items() if key in keys]
        if levels:
            listed = ", ".join(LEVELS[level] for level in levels)
            return Recognised("ani1x", f"{where} contains atomic_numbers, coordinates, {listed}", {"level": levels})
        if "gfn2_xtb.energy" in keys:
            return Recognised("methane", f"{where} contains gfn2_xtb.energy")
    if {"coordinates", "energies", "species"} <= keys:
        kind, rank = kinds["species"]
        if kind in "iu" and rank == 2:
            if {"cm5_atomic_charges", "hirshfeld_atomic_charges"} & keys:
                return Recognised("comp6v2", f"{where} contains atomic numbers of each conformation, and charges")
            energies_only = {} if "forces" in keys else {"reader.forces": False}
            return Recognised("ani2x", f"{where} contains atomic numbers of each conformation", energies_only)
        if "forces" in keys:
            return Recognised("comp6", f"{where} contains species as symbols, coordinates, energies and forces")
        return Recognised("ani1", f"{where} contains species as symbols, coordinates and energies, no forces")
    raise unknown(path, f"{where} contains {', '.join(sorted(keys))}")
