"""What processes share: arrays by reference, not by copy, and groups of batches in one piece of memory."""

import math
import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiphop_train.types import Batch, Graph


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


class Place(NamedTuple):
    """Where in a buffer a tensor lies."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    repeated: int | None
    """How often the only row of the buffer counts, where all rows are the same memory."""


class PackedBatches(NamedTuple):
    """Batches whose tensors lie in one buffer: one piece of shared memory goes to another process, not hundreds."""

    buffer: Tensor
    batches: list[Any]
    """Each a graph, labels and sample, with places instead of tensors."""


def pack(batches: list[Batch]) -> PackedBatches:
    """Copy batches into one buffer."""
    tensors: list[Tensor] = []
    end = 0

    def place(value: Any) -> Any:
        nonlocal end
        if not isinstance(value, Tensor):
            return value
        repeats = value.dim() > 0 and value.shape[0] > 1 and value.stride(0) == 0
        repeated = value.shape[0] if repeats else None
        value = (value[:1] if repeats else value).contiguous()
        tensors.append(value)
        found = Place(end, value.dtype, tuple(value.shape), repeated)
        end += -(-value.nbytes // 64) * 64
        return found

    packed = [
        (
            [place(value) for value in batch.graph],
            {key: place(value) for key, value in batch.labels.items()},
            place(batch.sample),
        )
        for batch in batches
    ]
    # made in shared memory at once, as torch's own collation does, it is not copied once more on its way
    memory = torch.UntypedStorage._new_shared(max(1, end))  # type: ignore[no-untyped-call]
    whole = torch.empty(0, dtype=torch.uint8).set_(memory)
    buffer = whole.numpy()
    start = 0
    for tensor in tensors:
        flat = tensor.numpy().reshape(-1).view(np.uint8)
        buffer[start : start + len(flat)] = flat
        start += -(-len(flat) // 64) * 64
    return PackedBatches(whole, packed)


def unpack(packed: PackedBatches) -> list[Batch]:
    """Return the batches, their tensors being views of the buffer."""
    whole = packed.buffer.numpy()

    def tensor(place: Any) -> Any:
        if not isinstance(place, Place):
            return place
        stop = place.start + place.dtype.itemsize * math.prod(place.shape)
        found = torch.from_numpy(whole[place.start : stop]).view(place.dtype).view(place.shape)
        return found if place.repeated is None else found.expand(place.repeated, *place.shape[1:])

    return [
        Batch(
            Graph(*[tensor(value) for value in graph]),
            {key: tensor(value) for key, value in labels.items()},
            tensor(sample),
        )
        for graph, labels, sample in packed.batches
    ]
