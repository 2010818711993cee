"""Take files out of a published archive: only the ones that are known, only to where they belong."""

import os
import shutil
import tarfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hiphop_train.data.download.registry import CHUNK, Advance, Digest, Remote, checksum_of
from hiphop_train.errors import DataError


def require_space(target: Path, n_bytes: int) -> None:
    """Raise unless the disk has room for so many more bytes."""
    free = shutil.disk_usage(target.parent).free
    if n_bytes > free:
        raise DataError(
            f"{target} needs {n_bytes:,} more bytes, but {target.parent} has room for {free:,}; "
            "make room, or choose another folder: --root"
        )


def unpack(remote: Remote, archive: Path, root: Path, advance: Advance) -> dict[str, str]:
    """Unpack the files of an archive that the registry names.

    A file comes to where the registry says, under its own last name at most: whatever paths, links or devices the
    archive holds besides, nothing of it is followed or made.

    Parameters
    ----------
    remote : says which files
    archive : tar archive, compressed or not
    root : data folder
    advance : called with bytes of the archive as they are read

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
                    place = remote.unpack[pattern]
                    path = (PurePosixPath(place) / PurePosixPath(name).name) if place.endswith("/") else place
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
        raise DataError(f"{archive} holds no {' and no '.join(missing)}; it is kept: look into it with tar -tf")
    return found


def _write(remote: Remote, members: tarfile.TarFile, member: tarfile.TarInfo, target: Path, name: str) -> str:
    """Write one file under a temporary name, check it and rename it; returns its checksum."""
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
            raise DataError(f"{member.name} in the archive of {remote.url} has {digest} where {expected} is right")
        if target.exists():
            if not target.is_file() or checksum_of(target, kind) != str(digest):
                raise DataError(
                    f"{target} exists and is not what the archive holds; it is left alone. "
                    "Move it away, or choose another folder: --root"
                )
        else:
            unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    return str(digest)
