"""What every reader declares, and what those of HDF5 files share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
from ase.data import atomic_numbers
from ase.symbols import Symbols
from numpy.typing import NDArray

from hiphop_train.data.formats.hdf5_heaps import GuardedFile
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


EMBEDDED = Path(__file__).parents[1] / "tiny"


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


def find_files(root: str, names: list[str], download: str = "") -> list[Path]:
    """Return the places of files below a folder, at any depth, or raise with the way to get what is missing.

    Parameters
    ----------
    root : folder
    names : names of the files; all of them are needed
    download : command or address that brings them
    """
    folder = Path(root).expanduser()
    places: dict[str, list[Path]] = {name: [] for name in names}
    if folder.is_dir():
        for file in sorted(folder.rglob("*")):
            if file.name in places and file.is_file():
                places[file.name].append(file)
    missing = [name for name, found in places.items() if not found]
    if missing or not names:
        advice = f"\n  download: {download.format(folder=folder)}" if download else ""
        raise DataError(
            f"{folder} does not hold {', '.join(missing) or 'any file'}{advice}\n"
            "  or say where: data.root=FOLDER, or which files to read: 'data.reader.names=[NAME,...]'"
        )
    for name, found in places.items():
        if len(found) > 1:
            raise DataError(
                f"{folder} holds {name} {len(found)} times ({found[0]}, {found[1]}): the same data would count twice; "
                "give a folder that holds it once: data.root=FOLDER"
            )
    return [places[name][0] for name in names]


def hill_formula(numbers: NDArray[Any]) -> str:
    """Return the chemical formula of atomic numbers: carbon, hydrogen, then the alphabet."""
    return str(Symbols(numbers).formula.format("hill"))


def slices(n: int, n_atoms: int, multiple: int = 1) -> Iterator[slice]:
    """Divide n conformations of n_atoms atoms into pieces of at most about `BLOCK_ATOMS` atoms.

    Parameters
    ----------
    n, n_atoms : number of conformations, and of the atoms of each
    multiple : pieces hold a multiple of so many conformations where that is not too much: what a file keeps together
    """
    size = max(1, BLOCK_ATOMS // max(1, n_atoms))
    size -= size % multiple if multiple <= size else 0
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
    with ExitStack() as stack:
        with hdf5_errors(file):
            stack.enter_context(h5py.File(file, "r"))  # locks it against writing, which the next one does not
            guarded = stack.enter_context(GuardedFile(file))
            handle = stack.enter_context(h5py.File(guarded, "r"))
            _, guarded.width = handle.id.get_create_plist().get_sizes()
        yield handle


def members(group: h5py.Group, file: Path) -> Iterator[tuple[str, h5py.Group]]:
    """Name and content of the groups in a group, in HDF5's order, each opened when its turn comes."""
    with hdf5_errors(file):
        names = list(group)
    for name in names:
        with hdf5_errors(file):
            _refuse_external(group, name, file)
            child = group[name]
        if isinstance(child, h5py.Group):
            yield name, child


def leaves(
    group: h5py.Group, file: Path, key: str, path: str = "", above: tuple[h5py.Group, ...] = ()
) -> Iterator[tuple[str, h5py.Group]]:
    """Path and content of all groups that hold arrays, at any depth; each ought to hold a certain one.

    Parameters
    ----------
    group : where to look
    file : for messages
    key : name of the array
    path : of the group, put before the names
    above : the groups that hold this one
    """
    for name, child in members(group, file):
        if child in (group, *above):
            raise DataError(f"{file}, group {path}{name}: holds itself, by a link; take the link out of the file")
        with hdf5_errors(file):
            holds = key in child or any(child.get(each, getclass=True) is h5py.Dataset for each in child)
        if holds:  # one that has lost the key is refused where that is read
            yield f"{path}{name}", child
        yield from leaves(child, file, key, f"{path}{name}/", (group, *above))


def _refuse_external(group: h5py.Group, name: str, file: Path) -> None:
    """A link to another file would bring in data that no checksum of this one covers."""
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise DataError(
            f"{file}, group {group.name}: '{name}' is a link to another file ({link.filename}), which is not followed; "
            "copy the data into this file"
        )


class Column:
    """One array of a group, declared and checked before it is read.

    Parameters
    ----------
    group : where it is
    key : its name
    file : for messages
    config_key : what decides on the name, for messages
    kinds : kinds of numpy types that are allowed: f floating-point, i and u whole numbers, S bytes, O strings
    """

    def __init__(self, group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "f") -> None:
        with hdf5_errors(file):
            where = f"{file}, group {group.name}"
            if key in group:
                _refuse_external(group, key, file)
            node = group.get(key)
            if not isinstance(node, h5py.Dataset):
                present = sorted(map(str, group))
                raise DataError(
                    f"{where}: no data set '{key}' (set by {config_key}); present: {', '.join(present)}"
                    f"{did_you_mean(key, present)}"
                )
            if node.dtype.kind not in kinds or node.dtype == np.float16:
                expected = {"f": "floating-point numbers", "iu": "whole numbers", "SO": "text"}
                raise DataError(
                    f"{where}: data set '{key}' has type {node.dtype}; expected "
                    f"{expected.get(kinds, 'text or whole numbers')}"
                )
            if node.shape is None:
                raise DataError(f"{where}: data set '{key}' is empty")
            _check_storage(node, file, f"{where}: data set '{key}'")
            self.node, self.file, self.key, self.where = node, file, key, where
            self.shape: tuple[int, ...] = node.shape

    @property
    def chunk_rows(self) -> int:
        """How many rows the file keeps together."""
        return int(self.node.chunks[0]) if self.node.chunks else 1

    def units(self) -> str | None:
        """Return what the file says of the array's units."""
        with hdf5_errors(self.file):
            units = self.node.attrs.get("units")
        return units.decode(errors="replace") if isinstance(units, bytes) else None if units is None else str(units)

    def read(self, part: slice = slice(None)) -> NDArray[Any]:
        """Read rows."""
        with hdf5_errors(self.file):
            return np.asarray(self.node[part] if self.shape else self.node[()])


def _check_storage(node: h5py.Dataset, file: Path, where: str) -> None:
    """What is declared must be there: HDF5 would give zeros for what was never written."""
    if node.is_virtual or node.external:
        raise DataError(f"{where} keeps its values in other files, which are not followed; copy them into this file")
    size = math.prod(node.shape)
    if size == 0:
        return
    stored, available = node.id.get_storage_size(), file.stat().st_size
    advice = "it is truncated or damaged: compare its size and checksum with the source and fetch it again"
    # gzip packs a thousandfold at most, so a declared size beyond that is damage (or filled with a constant)
    declared = node.dtype.itemsize * max(size, math.prod(node.chunks or (0,)))
    if stored == 0 or stored > available or declared > 2000 * stored + 1_000_000:
        raise DataError(f"{where} declares {size} values but the file holds {stored} bytes of it; {advice}")
    if node.chunks is None and node.dtype.kind != "O" and stored < size * node.dtype.itemsize:
        raise DataError(f"{where} declares {size} values but the file holds {stored} bytes of it; {advice}")
    if node.chunks:
        expected = math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks, strict=True))
        present = node.id.get_num_chunks()
        if present < expected:
            raise DataError(f"{where} has {present} of its {expected} parts (chunks); {advice}")


def dataset(group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "f") -> NDArray[Any]:
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


def refuse_zeros(where: str, energy: NDArray[Any], forces: NDArray[Any] | None, first: int = 0) -> None:
    """Raise where a label is exactly zero, as a download with holes leaves it: no total energy is.

    Parameters
    ----------
    where : for messages
    energy : (n,) total energies
    forces : (n, n_atoms, 3)
    first : number of the first conformation, for messages
    """
    if energy.ndim == 0 or energy.size == 0 or energy.shape != (len(energy), *(1,) * (energy.ndim - 1)):
        return  # where structures are gathered, shapes are refused
    zero = energy.reshape(-1) == 0
    if forces is not None and forces.ndim == 3 and forces.shape[1] > 1 and len(forces) == len(zero):
        zero = zero | (forces == 0).all(axis=(1, 2))
    if zero.any():
        raise DataError(
            f"{where}: energy or forces of conformation {first + int(np.argmax(zero))} are exactly zero: it was never "
            "written, or is damaged; compare size and checksum of the file with the source and fetch it again"
        )
