"""Keeps damaged heaps of texts from libhdf5, which would loop over them forever."""

import io
from typing import Any

MAGIC = b"GCOL\x01"
"""What a heap begins with, in the only version of the format."""


class GuardedFile(io.FileIO):
    """A file for h5py to read through that refuses damaged heaps before libhdf5 sees them.

    Texts of variable length lie in "global heaps": chains of objects, each telling where the next begins. One of size
    zero makes libhdf5 take the same step forever, in C, where neither exception nor signal ends it. Each heap is
    checked when libhdf5 asks for its beginning, so that the loop cannot come later either; nothing else is read for it.

    Loops elsewhere in libhdf5, should there be any, are not seen. A damaged length of a text makes libhdf5 ask for up
    to 4 GB before it refuses that text itself. All of it relies on h5py's driver for Python files, which hands on each
    read of libhdf5 by itself. That driver does not lock the file.

    Attributes
    ----------
    width : bytes of the lengths in this file; hardly ever another number
    """

    width = 8

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer; with zeros beyond the end of the file, as libhdf5's own driver does."""
        view, filled = memoryview(buffer), 0
        while filled < len(view) and (count := super().readinto(view[filled:])):  # Linux hands out 2 GB at once
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
            raise OSError(f"the heap of texts at byte {start} ends beyond the file")
        self.seek(start)
        heap = self.read(size)  # libhdf5's first read is 4096 bytes, whatever the size
        place = header
        while place + header <= size:  # less than a header is free
            length = int.from_bytes(heap[place + 8 : place + 8 + self.width], "little")
            # object 0 is the free space, whose length includes its header
            used = length if heap[place : place + 2] == b"\0\0" else header + -(-length // 8) * 8
            if used < header or place + used > size:
                raise OSError(f"the heap of texts at byte {start} is damaged at byte {start + place}")
            place += used
