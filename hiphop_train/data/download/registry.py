"""Registry of data sets that can be fetched: URL, size and checksum of their files."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hiphop_train.errors import DataError, did_you_mean

REGISTRY = Path(__file__).with_name("registry.yaml")
CHUNK = 1 << 20
"""Bytes processed at once."""

Advance = Callable[[int], None]
"""Progress callback, called with numbers of bytes processed."""


@dataclass(frozen=True)
class Remote:
    """One published file.

    Attributes
    ----------
    url : address
    name : path below the data folder
    size : bytes, if known
    checksum : ``md5:...``, ``sha256:...`` or ``git:...`` (SHA-1 of a blob), if published
    unpack : pattern of names in the archive -> path below the data folder; a folder if it ends with ``/``
    inside : path below the data folder -> checksum of the unpacked file
    """

    url: str
    name: str
    size: int | None = None
    checksum: str | None = None
    unpack: dict[str, str] = field(default_factory=dict)
    inside: dict[str, str] = field(default_factory=dict)

    def described(self) -> str:
        """Size and checksum, for messages."""
        size = "unknown size" if self.size is None else f"{self.size:,} bytes"
        return f"{size}, {self.checksum.replace(':', ' ', 1) if self.checksum else 'no checksum was published'}"


@dataclass(frozen=True)
class Published:
    """A published data set.

    Attributes
    ----------
    name, what : short name and one-line description
    folder : default destination
    files : of the set
    """

    name: str
    what: str
    folder: str
    files: tuple[Remote, ...]


def registry(path: Path = REGISTRY) -> dict[str, Published]:
    """Read the list of published data sets."""
    sets: dict[str, Published] = {}
    for name, entry in yaml.safe_load(path.read_text()).items():
        files = tuple(Remote(**file) for file in entry["files"])
        sets[name] = Published(name, entry["what"], entry["folder"], files)
    return sets


def published(name: str, path: Path = REGISTRY) -> Published:
    """Return a data set by name; for an unknown name, raise `DataError` with all names."""
    sets = registry(path)
    if name not in sets:
        raise DataError(
            f"'{name}' is not a data set that can be fetched{did_you_mean(name, sets)}\n  {', '.join(sets)}"
        )
    return sets[name]


class Digest:
    """Incremental checksum of a file.

    Parameters
    ----------
    kind : md5, sha256 or git
    size : bytes of the whole file, part of the header of a git blob
    """

    def __init__(self, kind: str, size: int) -> None:
        self.kind = kind
        self._hash: Any = hashlib.new("sha1" if kind == "git" else kind, usedforsecurity=False)
        if kind == "git":
            self._hash.update(f"blob {size}\0".encode())

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self._hash.update(data)

    def __str__(self) -> str:
        return f"{self.kind}:{self._hash.hexdigest()}"


def checksum_of(file: Path, kind: str, advance: Advance = lambda n: None) -> str:
    """Checksum of a whole file, prefixed with its kind."""
    digest = Digest(kind, file.stat().st_size)
    with file.open("rb") as handle:
        while data := handle.read(CHUNK):
            digest.update(data)
            advance(len(data))
    return str(digest)
