"""Arrays that processes share: what a process started anew gets is a reference, not a copy."""

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class MappedFile(NamedTuple):
    """Where in a file an array lies."""

    path: str
    offset: int
    """Bytes from the beginning."""
    dtype: str
    shape: tuple[int, ...]


Shared = MappedFile | Tensor


def shared(array: NDArray[Any] | Shared) -> Shared:
    """Return what can be sent to another process without a copy of the data.

    A part of a mapped file is named by its place in the file; another array is moved to shared memory, once.
    """
    if isinstance(array, MappedFile | Tensor):
        return array
    whole: Any = array
    while isinstance(whole, np.ndarray) and not isinstance(whole, np.memmap):
        whole = whole.base
    if isinstance(whole, np.memmap) and whole.filename is not None and array.flags.c_contiguous and array.size:
        # a view keeps name and offset of the map that it was cut from, so its place follows from the addresses
        start = whole.offset - whole.offset % mmap.ALLOCATIONGRANULARITY
        begin = np.frombuffer(vars(whole)["_mmap"], np.uint8).__array_interface__["data"][0]
        offset = start + array.__array_interface__["data"][0] - begin
        return MappedFile(str(Path(whole.filename).absolute()), offset, array.dtype.str, array.shape)
    moved: Tensor = torch.from_numpy(array.copy()).share_memory_()  # type: ignore[no-untyped-call]
    return moved


def unshared(array: NDArray[Any] | Shared) -> NDArray[Any]:
    """Return the array that was shared."""
    if isinstance(array, MappedFile):
        return np.asarray(np.memmap(array.path, array.dtype, "r", array.offset, array.shape))
    if isinstance(array, Tensor):
        found: NDArray[Any] = array.numpy()
        return found
    return array
