"""Checksums of data sets."""

import hashlib
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hiphop_train.data.structures import Structures
from hiphop_train.targets import TARGETS

TYPES = {"sizes": "<i4", "numbers": "u1", "positions": "<f4", "forces": "<f4"}
"""Types in which arrays count, where not <f8."""


class Fingerprint:
    """Checksum of geometry and labels, the same for a set in memory and packed, in whatever pieces it comes."""

    def __init__(self, state: dict[str, int] | None = None) -> None:
        self.state = dict(state or {})
        """Running checksum of each array: what is needed to go on later."""

    def update(self, structures: Structures) -> None:
        """Add the structures that come next."""
        for name in ("sizes", "numbers", "positions", "energy", "forces"):
            self._add(name, getattr(structures, name))
        for key in structures.labels.keys() - {"energy", "forces"}:
            known = structures.has(key)  # not the others, so that pieces without the label count like those with NaN
            if TARGETS[key].per == "atom":
                known = np.repeat(known, structures.sizes)
            if known.any():
                self._add(key, structures.labels[key][known])

    def _add(self, name: str, values: NDArray[Any]) -> None:
        array = np.ascontiguousarray(values, TYPES.get(name, "<f8"))
        self.state[name] = zlib.crc32(array.data if array.size else b"", self.state.get(name, 0))

    def hexdigest(self) -> str:
        """Return 16 characters."""
        text = ",".join(f"{name}={value}" for name, value in sorted(self.state.items()))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(structures: Structures) -> str:
    """Checksum of a set."""
    found = Fingerprint()
    for piece in structures.pieces():
        found.update(piece)
    return found.hexdigest()
