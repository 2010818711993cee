"""What every reader declares, and what those of HDF5 files share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError, did_you_mean

BLOCK_ATOMS = 500_000
"""About how many atoms a reader takes into memory at once."""

Block = Callable[[], Structures | None]
"""Reads one piece of a data set; None where it holds nothing that was asked for."""


class Reader(ABC):
    """Read a data set from disk into eV, Angstrom and true forces, piece by piece.

    Its public attributes are what its configuration says: they tell data sets apart.
    """

    packed: Path | None = None
    """Folder of a set that is packed already."""

    @abstractmethod
    def files(self) -> list[Path]:
        """Return the files that will be read; raises `DataError`, with the way to get it, where one is missing."""

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Go through the pieces, each to be read by a call before the next is asked for, or passed over.

        The division into pieces, in the order of the files, is a function of files and configuration. Raises
        `DataError` with file, place and advice when a file is not as declared.
        """

    @final
    def read(self) -> Structures:
        """Return all structures in memory."""
        found = [structures for block in self.blocks() if (structures := block()) is not None]
        source = ", ".join(map(str, self.files()[:3]))
        if not found:
            raise DataError(f"{source}: holds no structures with the labels asked for")
        return concatenate(found, found[0].source if len(self.files()) == 1 else source)


EMBEDDED = Path(__file__).parent / "tiny"


def locate(path: str) -> Path:
    """Return the place of a file; ``embedded:NAME`` means a file of the data that comes with the package."""
    if path.startswith("embedded:"):
        return EMBEDDED / path.removeprefix("embedded:")
    return Path(path).expanduser()


def require_file(path: str, key: str, download: str = "") -> Path:
    """Return the path of an existing file, or raise with the way to get it.

    Parameters
    ----------
    path : path of the file
    key : configuration key that sets it
    download : command or address that brings it
    """
    file = locate(path)
    if file.is_file():
        return file
    what = "is a folder, not a file" if file.is_dir() else "does not exist"
    advice = f"\n  download it: {download.format(path=file, folder=file.parent)}" if download else ""
    raise DataError(f"{file} {what}{advice}\n  or say where it is: {key}=PATH")


def slices(n: int, n_atoms: int) -> Iterator[slice]:
    """Divide n conformations of n_atoms atoms into pieces of at most about `BLOCK_ATOMS` atoms."""
    size = max(1, BLOCK_ATOMS // max(1, n_atoms))
    for start in range(0, n, size):
        yield slice(start, min(n, start + size))


@contextmanager
def hdf5_errors(file: Path) -> Iterator[None]:
    """Whatever HDF5 cannot read inside becomes a `DataError`."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{file} cannot be read as HDF5: it is truncated, damaged or another kind of file "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}); "
            "compare its size and checksum with the source and fetch it again"
        ) from error


@contextmanager
def open_hdf5(file: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading."""
    with hdf5_errors(file):
        handle = h5py.File(file, "r")
    with handle:
        yield handle


def members(group: h5py.Group, file: Path) -> list[tuple[str, h5py.Group]]:
    """Name and content of the groups in a group, in HDF5's order."""
    with hdf5_errors(file):
        return [(name, group[name]) for name in group if isinstance(group[name], h5py.Group)]


class Column:
    """One array of a group, declared and checked before it is read.

    Parameters
    ----------
    group : where it is
    key : its name
    file : for messages
    config_key : what decides on the name, for messages
    kinds : kinds of numpy types that are allowed: f, i, u numbers, S bytes, O strings
    """

    def __init__(self, group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "fiu") -> None:
        with hdf5_errors(file):
            where = f"{file}, group {group.name}"
            node = group.get(key)
            if not isinstance(node, h5py.Dataset):
                present = sorted(map(str, group))
                raise DataError(
                    f"{where}: no data set '{key}' (set by {config_key}); present: {', '.join(present)}"
                    f"{did_you_mean(key, present)}"
                )
            if node.dtype.kind not in kinds:
                expected = "text" if kinds == "SO" else "numbers"
                raise DataError(f"{where}: data set '{key}' has type {node.dtype}; expected {expected}")
            if node.shape is None:
                raise DataError(f"{where}: data set '{key}' is empty")
            size, stored = int(np.prod(node.shape, dtype=object)), node.id.get_storage_size()
            # gzip packs a thousandfold at most, so a declared size beyond that is damage (or filled with a constant)
            if size * node.dtype.itemsize > 2000 * stored + 1_000_000:
                raise DataError(
                    f"{where}: data set '{key}' declares {size} values but the file holds {stored} bytes of it; "
                    "it is truncated or damaged: compare its size and checksum with the source and fetch it again"
                )
            self.node, self.file, self.key, self.where = node, file, key, where
            self.shape: tuple[int, ...] = node.shape

    def read(self, part: slice = slice(None)) -> NDArray[Any]:
        """Read rows."""
        with hdf5_errors(self.file):
            return np.asarray(self.node[part] if self.shape else self.node[()])


def dataset(group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "fiu") -> NDArray[Any]:
    """Read a whole array of a group, or raise naming file, group, key and what is there instead."""
    return Column(group, key, file, config_key, kinds).read()


def element_numbers(group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "iuSO") -> NDArray[np.int64]:
    """Read atomic numbers that are stored as numbers or as symbols."""
    values = dataset(group, key, file, config_key, kinds)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    symbols = [s.decode(errors="replace") if isinstance(s, bytes) else str(s) for s in values.reshape(-1).tolist()]
    unknown = [s for s in symbols if s not in atomic_numbers]
    if unknown:
        raise DataError(f"{file}, group {group.name}: '{unknown[0]}' in '{key}' is no element")
    return np.array([atomic_numbers[s] for s in symbols], np.int64).reshape(values.shape)


def rows(columns: dict[str, Column | None], names: str) -> int:
    """Return the number of conformations of a group; raises when its arrays do not agree on it.

    Parameters
    ----------
    columns : arrays with a row per conformation
    names : what they belong to, for messages
    """
    lengths = {key: column.shape[0] if column.shape else 0 for key, column in columns.items() if column is not None}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{key}' {length}" for key, length in lengths.items())
        raise DataError(f"{names}: arrays of different length: {told}; it is damaged, or they do not belong together")
    return next(iter(lengths.values()))
