"""Refusal of damaged string heaps, on which libhdf5 would loop forever."""

import io
from typing import Any

MAGIC = b"GCOL\x01"
"""First bytes of a heap, in the only version of the format."""


class GuardedFile(io.FileIO):
    """A file object for h5py that refuses damaged heaps before libhdf5 parses them.

    Strings of variable length are stored in "global heaps": chains of objects, each with its length. A length of zero
    makes libhdf5 loop forever, in C, where neither an exception nor a signal ends it. Each heap is checked when libhdf5
    reads its beginning, before it can loop; nothing else is read for the check.

    Other loops in libhdf5, if any, are not detected. A damaged length of a string makes libhdf5 allocate up to 4 GB
    before it refuses the string. This relies on h5py's driver for Python files, which forwards each read of libhdf5
    separately. That driver does not lock the file.

    Attributes
    ----------
    width : bytes of lengths in this file, almost always 8
    """

    width = 8

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer, with zeros beyond the end of the file, as libhdf5's own driver does."""
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (count := super().readinto(view[filled:])):  # Linux reads at most 2 GB at once
            filled += count
        view[filled:] = bytes(len(view) - filled)
        if view[: len(MAGIC)] == MAGIC:
            self._check_heap(self.tell() - filled)
        return filled

    def _check_heap(self, start: int) -> None:
        header = -(-(8 + self.width) // 8) * 8  # of the heap, and of each object
        self.seek(start)
        size = int.from_bytes(self.read(8 + self.width)[8:], "little")
        if start + size > self.seek(0, io.SEEK_END):
            raise OSError(f"the string heap at byte {start} ends beyond the file")
        self.seek(start)
        heap = self.read(size)  # libhdf5's first read is 4096 bytes for any size
        offset = header
        while offset + header <= size:  # a remainder shorter than a header is free
            length = int.from_bytes(heap[offset + 8 : offset + 8 + self.width], "little")
            # object 0 is the free space, whose length includes its header
            used = length if heap[offset : offset + 2] == b"\0\0" else header + -(-length // 8) * 8
            if used < header or offset + used > size:
                raise OSError(f"the string heap at byte {start} is damaged at byte {start + offset}")
            offset += used
