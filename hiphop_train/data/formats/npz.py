"""Trajectories of one molecule in NumPy's npz files: MD17, MD22, rMD17.

Chmiela et al., Sci. Adv. 3, e1603015 (2017); Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018
(2020). Files are read in blocks, and nothing in them is unpickled.
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from pydantic import ConfigDict
from typing_extensions import TypedDict

from hiphop_train.data.formats.base import Block, Reader, require_file, slices
from hiphop_train.data.formats.collector import collect, declared
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError, did_you_mean
from hiphop_train.units import EnergyUnit, ForceSign, LengthUnit


class NpzKeys(TypedDict):
    """Names of the arrays; if forces is None, only energies are read."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    numbers: str
    positions: str
    energy: str
    forces: str | None


class NpzReader(Reader):
    """Read an npz file of one molecule, or two, for training and test.

    Parameters
    ----------
    path : npz file
    keys : names of its arrays
    energy_unit, length_unit, force_sign : of the file; forces are in energy_unit / length_unit
    test_path : further file, whose structures form the test split
    download : download instructions, shown if the file is missing
    """

    def __init__(
        self,
        path: str,
        keys: NpzKeys,
        energy_unit: EnergyUnit,
        length_unit: LengthUnit,
        force_sign: ForceSign,
        test_path: str | None = None,
        download: str = "",
    ) -> None:
        self.path = path
        self.test_path = test_path
        self.keys = keys
        self.factors = declared(energy_unit, length_unit, force_sign)
        self.download = download

    def files(self) -> list[Path]:
        """Return the file, and the test file if given."""
        train = require_file(self.path, "data.path", self.download)
        return [train] if self.test_path is None else [train, require_file(self.test_path, "data.test_path")]

    def blocks(self) -> Iterator[Block]:
        """Yield the frames in blocks."""
        first = 0
        for file, subset in zip(self.files(), ("train", "test"), strict=False):
            with ExitStack() as stack:
                with npz_errors(file):
                    opened = stack.enter_context(file.open("rb"))  # closed even after an error in the archive
                    archive = stack.enter_context(zipfile.ZipFile(opened))
                columns = {
                    what: NpzColumn(archive, key, file, f"data.reader.keys.{what}", "iu" if what == "numbers" else "f")
                    for what, key in self.keys.items()
                    if isinstance(key, str)
                }
                numbers = columns.pop("numbers").read()
                if len({column.length for column in columns.values()}) > 1:
                    lengths = ", ".join(f"'{column.key}' {column.length}" for column in columns.values())
                    raise DataError(f"{file}: arrays of different length: {lengths}; they do not belong together")
                n = columns["energy"].length
                for part in slices(n, max(1, numbers.size)):
                    yield partial(self._read, file, subset, numbers, columns, part, first + part.start)
                first += n

    def _read(
        self, file: Path, subset: str, numbers: NDArray[Any], columns: dict[str, "NpzColumn"], part: slice, first: int
    ) -> Structures | None:
        arrays = {what: column.read(part) for what, column in columns.items()}
        energy = arrays["energy"]
        if energy.ndim == 2 and energy.shape[1] == 1:
            arrays["energy"] = energy[:, 0]  # MD17 stores a column
        return collect(file, subset, file.stem, numbers, arrays, self.factors, first, part.start)


@contextmanager
def npz_errors(file: Path) -> Iterator[None]:
    """Convert errors of reading in the context to `DataError`."""
    try:
        yield
    except (
        *(OSError, EOFError, KeyError, ValueError, TypeError, RuntimeError, SyntaxError, OverflowError, MemoryError),
        *(zipfile.BadZipFile, zlib.error, TokenError),
    ) as error:
        raise DataError(
            f"{file} cannot be read as npz: it is truncated, damaged or another kind of file "
            f"({type(error).__name__}: {error}); compare its size and checksum with the source and fetch it again"
        ) from error


class NpzColumn:
    """One array of an npz file, checked before it is read, sequentially.

    Parameters
    ----------
    archive : opened file
    key : name of the array
    file : for messages
    config_key : configuration key that sets the name, for messages
    kinds : allowed kinds of numpy types: f floating-point, i and u integers
    """

    def __init__(self, archive: zipfile.ZipFile, key: str, file: Path, config_key: str, kinds: str = "f") -> None:
        with npz_errors(file):
            present = sorted(name.removesuffix(".npy") for name in archive.namelist())
            if key not in present:
                raise DataError(
                    f"{file}: no array '{key}' (set by {config_key}); present: {', '.join(present)}"
                    f"{did_you_mean(key, present)}"
                )
            entry = archive.getinfo(f"{key}.npy")
            self.stream = archive.open(entry)
            self.shape, fortran, self.dtype = _header(self.stream)
            self.start = self.stream.tell()
            size = math.prod(self.shape) * self.dtype.itemsize
            if self.dtype.kind not in kinds or self.dtype == np.float16:
                expected = {"f": "floating-point numbers", "iu": "integers"}[kinds]
                raise DataError(f"{file}: array '{key}' has type {self.dtype}; expected {expected}")
            # deflate compresses a thousandfold at most
            packed = min(entry.compress_size, file.stat().st_size)
            if size != entry.file_size - self.start or size > 2000 * packed + 1_000_000:
                raise DataError(
                    f"{file}: array '{key}' declares {size} bytes, but the file contains "
                    f"{entry.file_size - self.start}, compressed to {packed}; it is damaged: fetch it again"
                )
            self.key, self.file = key, file
            self.whole: NDArray[Any] | None = None
            if fortran and len(self.shape) > 1:  # column-major
                self.whole = self._take(size).reshape(self.shape[::-1]).T
            self.length = self.shape[0] if self.shape else 0

    def read(self, part: slice | None = None) -> NDArray[Any]:
        """Read rows, in ascending order over calls."""
        with npz_errors(self.file):
            part = slice(0, self.length) if part is None else part
            if self.whole is not None:
                return self.whole[part]
            row = math.prod(self.shape[1:]) * self.dtype.itemsize
            self.stream.seek(self.start + part.start * row)
            return self._take((part.stop - part.start) * row).reshape((part.stop - part.start, *self.shape[1:]))

    def _take(self, size: int) -> NDArray[Any]:
        content = self.stream.read(size)
        if len(content) < size:
            raise EOFError(f"array '{self.key}' ends early")
        if self.stream.tell() == self.start + math.prod(self.shape) * self.dtype.itemsize:
            self.stream.read(1)  # the checksum is compared at the end
        return np.frombuffer(content, self.dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"an array of format version {version} does not contain plain numbers")
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(n < 0 for n in shape):
        raise ValueError(f"shape {shape}")
    return shape, bool(fortran), dtype
