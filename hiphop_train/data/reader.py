"""What every reader declares, and what those of HDF5 files share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError, did_you_mean


class Reader(ABC):
    """Read a data set from disk into eV, Angstrom and true forces."""

    @abstractmethod
    def read(self) -> Structures:
        """Return all structures; raises `DataError` with file, place and advice when the file is not as declared."""


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


@contextmanager
def open_hdf5(file: Path) -> Iterator[h5py.File]:
    """Open an HDF5 file; whatever HDF5 cannot read inside becomes a `DataError`."""
    try:
        with h5py.File(file, "r") as handle:
            yield handle
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{file} cannot be read as HDF5: it is truncated, damaged or another kind of file ({error}); "
            "compare its size and checksum with the source and fetch it again"
        ) from error


def dataset(group: h5py.Group, key: str, file: Path, config_key: str) -> NDArray[np.float64]:
    """Read one array of a group, or raise naming file, group, key and what is there instead."""
    if key not in group or not isinstance(group[key], h5py.Dataset):
        present = sorted(group)
        raise DataError(
            f"{file}, group {group.name}: no data set '{key}' (set by {config_key}); present: {', '.join(present)}"
            f"{did_you_mean(key, present)}"
        )
    values = np.asarray(group[key][()])
    if values.dtype.kind not in "fiuS":
        raise DataError(f"{file}, group {group.name}: data set '{key}' has type {values.dtype}; expected numbers")
    return values
