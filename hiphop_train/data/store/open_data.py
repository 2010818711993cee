"""A data set in memory, or packed and mapped into memory, depending on its size."""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal

from hiphop_train import files
from hiphop_train.data.formats.base import EMBEDDED, Reader
from hiphop_train.data.store.fingerprint import fingerprint
from hiphop_train.data.store.layout import PackedSet, is_packed, open_packed, verify
from hiphop_train.data.store.pack import identity, pack
from hiphop_train.data.structures import Structures

Packing = Literal["auto", "always", "never"]

PACK_FROM = 100_000_000
"""Size of the source, bytes, above which `auto` packs."""

VERIFIED_TO = 4_000_000_000
"""Size of a packed set, bytes, up to which each start compares it with its checksums, in seconds."""

Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Opens a progress display with a title and a total (None: unknown); yields the function that advances it."""


def no_progress(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Show nothing."""
    return nullcontext(lambda n: None)


def read_or_map(
    reader: Reader, packing: Packing = "auto", folder: str | None = None, progress: Progress = no_progress
) -> tuple[Structures, str]:
    """Read a data set, or open its packed form, which is written at first use.

    Parameters
    ----------
    reader : reads the source
    packing : whether to pack: always, never, or if the source is large
    folder : of the packed set; by default beside the source, or in the user's cache if that is not writable
    progress : displays the packing

    Returns
    -------
    structures, fingerprint

    Raises
    ------
    DataError
        if a packed set is damaged; one of more than 4 GB is compared with its checksums by ``hiphop-data check`` alone
    """
    if reader.packed is not None:
        found = _sound(reader.files()[0].parent, progress)
        return found.structures, found.fingerprint
    size = sum(file.stat().st_size for file in reader.files())
    if packing == "never" or (packing == "auto" and folder is None and size < PACK_FROM):
        structures = reader.read()
        return structures, fingerprint(structures)
    target = Path(folder).expanduser() if folder is not None else default_folder(reader)
    if is_packed(target):
        _sound(target, progress)
    with progress(f"packing into {target}", None) as advance:
        found = pack(reader, target, advance, say=print)
    return found.structures, found.fingerprint


def _sound(folder: Path, progress: Progress) -> PackedSet:
    """Open a packed set, and compare it with its checksums unless it is very large."""
    if sum(file.stat().st_size for file in folder.glob("*.bin")) > VERIFIED_TO:
        return open_packed(folder)
    with progress(f"comparing {folder} with its checksums", None) as advance:
        return verify(folder, advance)


def default_folder(reader: Reader) -> Path:
    """Return the default folder of the packed set, a function of the source files and the reader's configuration."""
    file = reader.files()[0]
    key = hashlib.sha256(json.dumps(identity(reader), sort_keys=True).encode()).hexdigest()[:10]
    beside = file.parent
    if EMBEDDED in file.parents or not os.access(beside, os.W_OK):
        beside = files.cache_folder()
    return beside / f"{file.stem}-{key}.packed"
