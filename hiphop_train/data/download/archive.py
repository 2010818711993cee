"""Extraction of files from a published archive: only those named in the registry, only to their destinations."""

import os
import shutil
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hiphop_train.data.download.registry import CHUNK, Advance, Digest, Remote, checksum_of
from hiphop_train.errors import DataError


def require_space(target: Path, n_bytes: int) -> None:
    """Raise `DataError` if the disk has too little free space."""
    free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise DataError(
            f"{target} needs {n_bytes:,} more bytes, but the disk of {target.parent} has {free:,} left; "
            "free some, or choose another folder: --root"
        )


def unpack(remote: Remote, archive: Path, root: Path, advance: Advance) -> dict[str, str]:
    """Unpack the files of an archive that are named in the registry.

    A file is written to the destination in the registry; of its path in the archive, at most the last component is
    used. Links and devices in the archive are neither followed nor created.

    Parameters
    ----------
    remote : names the files
    archive : tar archive, compressed or not
    root : data folder
    advance : progress callback, called with numbers of bytes read from the archive

    Returns
    -------
    checksums : path below `root` -> checksum
    """
    found: dict[str, str] = {}
    matched: set[str] = set()
    try:
        with archive.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*") as members:
            done = 0
            for member in members:
                name = member.name.removeprefix("./")
                pattern = next((pattern for pattern in remote.unpack if fnmatchcase(name, pattern)), None)
                if pattern is not None and member.isfile():
                    destination = remote.unpack[pattern]
                    is_folder = destination.endswith("/")
                    path = PurePosixPath(destination) / PurePosixPath(name).name if is_folder else destination
                    found[str(path)] = _write(remote, members, member, root / path, str(path))
                    matched.add(pattern)
                advance(raw.tell() - done)
                done = raw.tell()
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{archive} cannot be unpacked: {error.strerror}") from error
        raise DataError(
            f"{archive} is damaged ({type(error).__name__}: {error}); remove it and fetch it again"
        ) from error
    missing = [pattern for pattern in remote.unpack if pattern not in matched]
    if missing:
        raise DataError(f"{archive} does not contain {', '.join(missing)}; it is kept (list it with tar -tf)")
    return found


def _write(remote: Remote, members: tarfile.TarFile, member: tarfile.TarInfo, target: Path, name: str) -> str:
    """Write one file under a temporary name, verify and rename it; return its checksum."""
    expected = remote.inside.get(name)
    kind = expected.split(":")[0] if expected else "sha256"
    target.parent.mkdir(parents=True, exist_ok=True)
    require_space(target, member.size)
    digest = Digest(kind, member.size)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    source = members.extractfile(member)
    assert source is not None
    try:
        with source, unfinished.open("wb") as sink:
            while data := source.read(CHUNK):
                digest.update(data)
                sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        if expected is not None and str(digest) != expected:
            raise DataError(f"{member.name} in the archive of {remote.url} has {digest}, expected {expected}")
        if target.exists():
            if not target.is_file() or checksum_of(target, kind) != str(digest):
                raise DataError(
                    f"{target} exists and differs from the file in the archive; it was not changed. "
                    "Move it away, or choose another folder: --root"
                )
        else:
            unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return str(digest)
