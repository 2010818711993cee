"""Shared by the readers of HDF5 files: refusal of damage and links, checks of arrays before they are read."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from ase.data import atomic_numbers
from numpy.typing import NDArray

from hiphop_train.data.formats.hdf5_heaps import GuardedFile
from hiphop_train.errors import DataError, did_you_mean


@contextmanager
def hdf5_errors(file: Path) -> Iterator[None]:
    """Convert errors of HDF5 in the context to `DataError`."""
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
            stack.enter_context(h5py.File(file, "r"))  # locks it against writing, unlike the second handle
            guarded = stack.enter_context(GuardedFile(file))
            handle = stack.enter_context(h5py.File(guarded, "r"))
            _, guarded.width = handle.id.get_create_plist().get_sizes()
        yield handle


def members(group: h5py.Group, file: Path) -> Iterator[tuple[str, h5py.Group]]:
    """Yield name and content of the groups in a group, in HDF5's order, opened one at a time."""
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
    """Yield path and content of all groups with arrays, at any depth.

    Parameters
    ----------
    group : where to look
    file : for messages
    key : name of an array that each of them should contain
    path : of the group, prefixed to the names
    above : the parent groups
    """
    for name, child in members(group, file):
        if child in (group, *above):
            raise DataError(f"{file}, group {path}{name} contains itself, by a link; remove the link from the file")
        with hdf5_errors(file):
            has_arrays = key in child or any(child.get(each, getclass=True) is h5py.Dataset for each in child)
        if has_arrays:  # a missing key is refused when it is read
            yield f"{path}{name}", child
        yield from leaves(child, file, key, f"{path}{name}/", (group, *above))


def leaf_groups(file: Path, key: str) -> Iterator[tuple[str, h5py.Group]]:
    """Yield the `leaves` of a file, which stays open during the iteration."""
    with open_hdf5(file) as handle:
        yield from leaves(handle, file, key)


def _refuse_external(group: h5py.Group, name: str, file: Path) -> None:
    """Refuse links to other files, whose data the checksum of this one does not cover."""
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
    group : that contains it
    key : its name
    file : for messages
    config_key : configuration key or layout that sets the name, for messages
    kinds : allowed kinds of numpy types: f floating-point, i and u integers, S bytes, O strings
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
                expected = {"f": "floating-point numbers", "iu": "integers", "SO": "text"}
                raise DataError(
                    f"{where}: data set '{key}' has type {node.dtype}; expected "
                    f"{expected.get(kinds, 'text or integers')}"
                )
            if node.shape is None:
                raise DataError(f"{where}: data set '{key}' is empty")
            _check_storage(node, file, f"{where}: data set '{key}'")
            self.node, self.file, self.key, self.where = node, file, key, where
            self.shape: tuple[int, ...] = node.shape

    @property
    def chunk_rows(self) -> int:
        """Number of rows in a chunk of the file."""
        return int(self.node.chunks[0]) if self.node.chunks else 1

    def units(self) -> str | None:
        """Return the array's units, if the file contains them."""
        with hdf5_errors(self.file):
            units = self.node.attrs.get("units")
        return units.decode(errors="replace") if isinstance(units, bytes) else None if units is None else str(units)

    def read(self, part: slice = slice(None)) -> NDArray[Any]:
        """Read rows."""
        with hdf5_errors(self.file):
            return np.asarray(self.node[part] if self.shape else self.node[()])


def _check_storage(node: h5py.Dataset, file: Path, where: str) -> None:
    """Check that all declared values are stored: HDF5 would return zeros for values that were never written."""
    if node.is_virtual or node.external:
        raise DataError(f"{where} stores its values in other files, which are not read; copy them into this file")
    size = math.prod(node.shape)
    if size == 0:
        return
    stored, available = node.id.get_storage_size(), file.stat().st_size
    advice = "it is truncated or damaged: compare its size and checksum with the source and fetch it again"
    # gzip compresses a thousandfold at most, so a larger declared size is damage (or filled with a constant)
    declared = node.dtype.itemsize * max(size, math.prod(node.chunks or (0,)))
    if stored == 0 or stored > available or declared > 2000 * stored + 1_000_000:
        raise DataError(f"{where} declares {size} values, but the file contains {stored} bytes of it; {advice}")
    if node.chunks is None and node.dtype.kind != "O" and stored < size * node.dtype.itemsize:
        raise DataError(f"{where} declares {size} values, but the file contains {stored} bytes of it; {advice}")
    if node.chunks:
        expected = math.prod(-(-n // chunk) for n, chunk in zip(node.shape, node.chunks, strict=True))
        present = node.id.get_num_chunks()
        if present < expected:
            raise DataError(f"{where} has {present} of its {expected} chunks; {advice}")


def dataset(group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "f") -> NDArray[Any]:
    """Read a whole array of a group, or raise with file, group, key and the existing names."""
    return Column(group, key, file, config_key, kinds).read()


def element_numbers(group: h5py.Group, key: str, file: Path, config_key: str, kinds: str = "iuSO") -> NDArray[np.int64]:
    """Read atomic numbers, stored as numbers or as symbols."""
    values = dataset(group, key, file, config_key, kinds)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    symbols = [s.decode(errors="replace") if isinstance(s, bytes) else str(s) for s in values.reshape(-1).tolist()]
    unknown = [s for s in symbols if s not in atomic_numbers]
    if unknown:
        raise DataError(f"{file}, group {group.name}: '{unknown[0]}' in '{key}' is not the symbol of an element")
    return np.array([atomic_numbers[s] for s in symbols], np.int64).reshape(values.shape)


class Conformations:
    """The arrays of one group with one row per conformation.

    Parameters
    ----------
    group : that contains them
    file : for messages
    keys : content (``numbers``, ``positions`` or a target) -> name of the array
    layout : layout that sets the names, for messages
    settings : content -> configuration key that sets the name instead, for messages

    Attributes
    ----------
    n : number of conformations
    """

    def __init__(
        self,
        group: h5py.Group,
        file: Path,
        keys: Mapping[str, str],
        layout: str,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        settings = settings or {}
        self.group = group
        self.columns = {
            what: Column(group, key, file, settings.get(what, layout), "iu" if what == "numbers" else "f")
            for what, key in keys.items()
        }
        lengths = {column.key: column.shape[0] if column.shape else 0 for column in self.columns.values()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"'{key}' {length}" for key, length in lengths.items())
            raise DataError(
                f"{file}, group {group.name}: arrays of different length: {listed}; the file is damaged, or they do "
                "not belong together"
            )
        self.n = next(iter(lengths.values()))

    def read(self, part: slice = slice(None)) -> dict[str, NDArray[Any]]:
        """Read rows of all arrays."""
        return {what: column.read(part) for what, column in self.columns.items()}
