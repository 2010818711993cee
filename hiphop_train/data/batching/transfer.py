"""Transfer of batches: from a worker to this process, and to a device."""

import io
import pickle
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hiphop_train.types import ON_HOST, Batch

ALIGNMENT = 64
"""Alignment of tensors in the memory of a flat batch, bytes."""


class FlatBatch(NamedTuple):
    """A batch whose tensors share one buffer.

    Each tensor that a process sends costs a file descriptor and a handshake: separately, they took several times as
    long as building the batch, and loaders with many workers could exceed the usual limit of 1024 descriptors.
    """

    memory: Tensor
    """(n_bytes,) uint8."""
    frame: bytes
    """The pickled batch, with types, shapes and offsets in `memory` instead of tensors."""


def repeats_a_row(tensor: Tensor) -> bool:
    """Whether a tensor is one row, expanded."""
    return tensor.dim() > 0 and len(tensor) > 1 and tensor.stride(0) == 0


class _Flattener(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.parts: list[Tensor] = []
        self.size = 0

    def persistent_id(self, obj: Any) -> tuple[int, torch.dtype, torch.Size, torch.Size] | None:
        """Collect the bytes of a tensor; rows expanded from one (stride 0) are stored once."""
        if not isinstance(obj, Tensor):
            return None
        stored, start = (obj[:1] if repeats_a_row(obj) else obj).contiguous(), self.size
        padding = -stored.nbytes % ALIGNMENT
        self.parts += [stored.reshape(-1).view(torch.uint8), torch.zeros(padding, dtype=torch.uint8)]
        self.size += stored.nbytes + padding
        return start, stored.dtype, stored.shape, obj.shape


class _Restorer(pickle.Unpickler):
    def __init__(self, flat: FlatBatch) -> None:
        super().__init__(io.BytesIO(flat.frame))
        self.memory = flat.memory

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a view of the buffer; it shares the storage, which asynchronous copies to a GPU keep alive."""
        start, dtype, stored, shape = pid
        part = self.memory[start : start + stored.numel() * dtype.itemsize]
        return part.view(dtype).view(stored).expand(shape)


def flatten(batch: Any) -> FlatBatch:
    """Copy all tensors of a batch into one buffer; used as a loader's collate_fn."""
    frame = io.BytesIO()
    flattener = _Flattener(frame)
    flattener.dump(batch)
    return FlatBatch(torch.cat(flattener.parts), frame.getvalue())


def restore(flat: FlatBatch) -> Batch:
    """Return the batch; its tensors are views of the buffer."""
    batch: Batch = _Restorer(flat).load()
    return batch


def to_device(part: Any, device: torch.device | str) -> Any:
    """Move all tensors of a batch, or of a part of it, except for extras of a graph that stay on the host."""
    if isinstance(part, Tensor):
        if repeats_a_row(part):  # a copy of it would not be in pinned memory, and the host would wait
            return to_device(part[:1], device).expand(part.shape)
        return part.to(device, non_blocking=str(device) != "cpu")
    if isinstance(part, dict):
        return {key: value if key.startswith(ON_HOST) else to_device(value, device) for key, value in part.items()}
    if isinstance(part, tuple):  # a NamedTuple
        return type(part)(*(to_device(value, device) for value in part))
    return part
