"""Batches on their way: from a worker to this process, and to a device."""

import io
import pickle
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from hiphop_train.types import ON_HOST, Batch

ALIGNMENT = np.zeros(64, np.uint8)
"""Bytes that fill up each tensor of a flat batch, so that the next one starts at a multiple of 64."""


class FlatBatch(NamedTuple):
    """A batch whose tensors share one buffer.

    Each tensor that a process sends takes a file descriptor and a handshake: one by one they took several times as
    long as the batch takes to make, and some loaders with many workers would exceed the usual 1024 descriptors.
    """

    memory: Tensor
    """(n_bytes,) uint8."""
    sizes: list[int]
    """Bytes of each tensor."""
    frame: bytes
    """The pickled batch, without the contents of its tensors."""


class _Pickler(pickle.Pickler):
    def reducer_override(self, part: Any) -> Any:
        """Pickle tensors as arrays, whose contents stay apart; rows that are the same memory as one of them."""
        if not isinstance(part, Tensor):
            return NotImplemented
        if part.dim() > 0 and part.shape[0] > 1 and part.stride(0) == 0:
            return Tensor.expand, (part[:1], part.shape)
        return torch.from_numpy, (part.contiguous().numpy(),)


def flatten(batch: Any) -> FlatBatch:
    """Copy all tensors of a batch into one buffer; serves as the collation of a loader."""
    buffers: list[pickle.PickleBuffer] = []
    frame = io.BytesIO()
    _Pickler(frame, 5, buffer_callback=buffers.append).dump(batch)
    arrays = [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers]
    filled = [part for array in arrays for part in (array, ALIGNMENT[: -len(array) % 64])]
    return FlatBatch(torch.from_numpy(np.concatenate(filled)), [len(array) for array in arrays], frame.getvalue())


def restore(flat: FlatBatch) -> Batch:
    """Return the batch; its tensors are views of the buffer."""
    parts = torch.split(flat.memory, [size + -size % 64 for size in flat.sizes])
    buffers = [part[:size].numpy() for part, size in zip(parts, flat.sizes, strict=True)]
    batch: Batch = pickle.loads(flat.frame, buffers=buffers)
    return batch


def to_device(part: Any, device: torch.device | str) -> Any:
    """Move all tensors of a batch, or of a part of it, but for extras of a graph that stay on the host."""
    if isinstance(part, Tensor):
        return part.to(device, non_blocking=str(device) != "cpu")
    if isinstance(part, dict):
        return {key: value if key.startswith(ON_HOST) else to_device(value, device) for key, value in part.items()}
    if isinstance(part, tuple):  # a NamedTuple
        return type(part)(*(to_device(value, device) for value in part))
    return part
