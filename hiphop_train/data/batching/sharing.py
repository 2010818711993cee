"""What processes share: arrays by reference, not by copy, and groups of batches in buffers that are used again."""

import math
import mmap
import os
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hiphop_train.types import Batch


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


HEAD = 64
"""Bytes of a buffer before its contents; the first says whether a reader still looks at these."""


class Loan:
    """One of a worker's buffers on its way to another process, where it arrives as a `Borrowed`.

    The memory itself is sent once. Fresh memory for every group of batches took longer to map than to fill.

    Parameters
    ----------
    number : of the buffer, among those of this process
    memory : (n_bytes,) uint8 in shared memory, with its head
    is_known : whether it was sent before
    """

    def __init__(self, number: int, memory: Tensor, is_known: bool) -> None:
        self.number = number
        self.memory = memory
        self.is_known = is_known

    def __reduce__(self) -> tuple[Any, ...]:
        return _borrow, (os.getpid(), self.number, None if self.is_known else self.memory)


class Borrowed:
    """A worker's buffer as long as this process looks at it; then the worker may fill it anew.

    Arrays made of it keep it alive.

    Parameters
    ----------
    memory : as in `Loan`
    """

    def __init__(self, memory: Tensor) -> None:
        self._whole = memory.numpy()
        self._process = os.getpid()
        self.__array_interface__ = self._whole[HEAD:].__array_interface__

    def pin_memory(self) -> Tensor:
        """Copy all to memory that a GPU reads by itself, at once; the loader asks for it where there is a GPU."""
        return torch.from_numpy(np.asarray(self)).pin_memory()

    def __del__(self) -> None:
        if self._process == os.getpid():  # not in a process that was forked meanwhile
            self._whole[0] = 0


_known: dict[tuple[int, int], Tensor] = {}  # buffers of workers, by process and number


def _borrow(process: int, number: int, memory: Tensor | None) -> Borrowed:
    if memory is not None:
        alive = {process, *(child.pid for child in active_children())}
        for key in [key for key in _known if key[0] not in alive]:
            del _known[key]
        _known[process, number] = memory
    return Borrowed(_known[process, number])


class PackedBatches(NamedTuple):
    """Batches whose tensors lie in one buffer: one piece of shared memory goes to another process, not hundreds."""

    buffer: Any
    """A `Loan`, and a `Borrowed` in the process that receives it."""
    batches: list[Any]
    """With places instead of tensors."""


class Packer:
    """Copies batches into buffers, in a worker."""

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def __call__(self, batches: list[Batch]) -> PackedBatches:
        """Copy batches into one buffer."""
        tensors: list[Tensor] = []
        end = 0

        def place(value: Tensor) -> Place:
            nonlocal end
            repeats = value.dim() > 0 and value.shape[0] > 1 and value.stride(0) == 0
            repeated = value.shape[0] if repeats else None
            value = (value[:1] if repeats else value).contiguous()
            tensors.append(value)
            found = Place(end, value.dtype, tuple(value.shape), repeated)
            end += -(-value.nbytes // 64) * 64
            return found

        packed = [exchanged(batch, Tensor, place) for batch in batches]
        loan = self._lend(end)
        buffer = loan.memory.numpy()
        start = HEAD
        for tensor in tensors:
            flat = tensor.numpy().reshape(-1).view(np.uint8)
            buffer[start : start + len(flat)] = flat
            start += -(-len(flat) // 64) * 64
        return PackedBatches(loan, packed)

    def _lend(self, n_bytes: int) -> Loan:
        """Return a buffer that nobody looks at, with room for so many bytes."""
        free = [number for number, memory in enumerate(self._buffers) if not memory[0]]
        for number in free:
            if len(self._buffers[number]) >= HEAD + n_bytes:
                self._buffers[number][0] = 1
                return Loan(number, self._buffers[number], is_known=True)
        # made in shared memory at once, as torch's own collation does, it is not copied once more on its way
        storage = torch.UntypedStorage._new_shared(HEAD + n_bytes * 5 // 4)  # type: ignore[no-untyped-call]
        memory = torch.empty(0, dtype=torch.uint8).set_(storage)
        memory[0] = 1
        number = free[0] if free else len(self._buffers)
        self._buffers[number : number + 1] = [memory]  # in the place of one that is too small
        return Loan(number, memory, is_known=False)


def unpack(packed: PackedBatches) -> list[Batch]:
    """Return the batches, their tensors being views of the buffer."""
    buffer = packed.buffer
    whole = buffer if isinstance(buffer, Tensor) else torch.from_numpy(np.asarray(buffer))

    def tensor(place: Place) -> Tensor:
        stop = place.start + place.dtype.itemsize * math.prod(place.shape)
        found = whole[place.start : stop].view(place.dtype).view(place.shape)
        return found if place.repeated is None else found.expand(place.repeated, *place.shape[1:])

    return [exchanged(batch, Place, tensor) for batch in packed.batches]


def exchanged(batch: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """Return a batch, or a part of it, with the function's value in the place of all that is of one kind."""
    if isinstance(batch, kind):
        return function(batch)
    if isinstance(batch, dict):
        return {key: exchanged(value, kind, function) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(exchanged(value, kind, function) for value in batch))
    return batch
