"""Checksums of data sets."""

import hashlib
import zlib

import numpy as np

from hiphop_train.data.structures import Structures

ARRAYS = {"sizes": "<i4", "numbers": "u1", "positions": "<f4", "energy": "<f8", "forces": "<f4"}
"""Arrays in the checksum, and their types. Labels of other targets are excluded, so that older splits remain valid."""


class Fingerprint:
    """Checksum of geometry, energies and forces, the same in memory and packed, and for any division into blocks."""

    def __init__(self, state: dict[str, int] | None = None) -> None:
        self.state = dict(state or {})
        """Running checksum of each array, sufficient to resume."""

    def update(self, structures: Structures) -> None:
        """Add the next structures."""
        for name, dtype in ARRAYS.items():
            array = np.ascontiguousarray(getattr(structures, name), dtype)
            self.state[name] = zlib.crc32(array.data if array.size else b"", self.state.get(name, 0))

    def hexdigest(self) -> str:
        """Return the checksum as 16 hexadecimal digits."""
        text = ",".join(f"{name}={value}" for name, value in sorted(self.state.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(structures: Structures) -> str:
    """Checksum of a set."""
    found = Fingerprint()
    for block in structures.blocks():
        found.update(block)
    return found.hexdigest()
