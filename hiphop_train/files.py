"""Files that are whole or not there, and that say when their contents have changed.

A file is written beside its target, forced to the disk and renamed: a kill, a full disk or a power failure leaves the
earlier file as it was. Archives (checkpoints and exported potentials are zip files) end with the SHA-256 of all their
other bytes, in the comment that the format has for such things: every reader of such archives still reads them.
"""

import contextlib
import errno
import hashlib
import multiprocessing
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hiphop_train.errors import StorageError

END_OF_ARCHIVE = struct.Struct("<4s4H2LH")
"""The last record of a zip file: signature, six counts, length of the comment that follows."""

SEAL = re.compile(rb"sha256:[0-9a-f]{64}\Z")

PARTIAL = ".part"
"""Suffix of files that are being written; their names begin with a dot."""


@contextlib.contextmanager
def replacing(path: Path, previous: Path | None = None) -> Iterator[Path]:
    """Give a temporary file beside `path`; at the end it is forced to the disk and takes the place of `path`.

    Parameters
    ----------
    path : file to write or to replace
    previous : where the replaced file is kept; None does not keep it

    Raises
    ------
    StorageError
        if it cannot be written: no space, read-only, too large, a failing disk; `path` is then as it was before
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with told(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            if previous is not None and path.is_file():
                _keep(path, previous)
            os.replace(temporary, path)
            fsync_folder(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that there is no moment without one under `path`."""
    second = previous.with_name(f".{previous.name}.{os.getpid()}{PARTIAL}")
    try:
        second.unlink(missing_ok=True)
        second.hardlink_to(path)
        os.replace(second, previous)
        second.unlink(missing_ok=True)  # a rename onto another name of the same file leaves both
    except OSError:  # a file system without links
        os.replace(path, previous)


def write_bytes(path: Path, content: bytes | memoryview, previous: Path | None = None) -> None:
    """Replace a file by these contents, as a whole (see `replacing`)."""
    with replacing(path, previous) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace a file by this text in UTF-8, as a whole (see `replacing`)."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn an `OSError` in writing `path` into a `StorageError` that says what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = {
            errno.ENOSPC: "free space on that disk",
            errno.EDQUOT: "free space in your quota",
            errno.EROFS: "the file system is read-only: choose another folder",
            errno.EACCES: "give yourself the right to write there, or choose another folder",
            errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
        }.get(error.errno or 0, "put that disk right, or choose another folder")
        raise StorageError(f"{path} cannot be written ({reason}); {advice}") from error


def warn(line: str) -> None:
    """Print a warning to standard error, which may be on a full disk or closed itself."""
    with contextlib.suppress(OSError, ValueError):
        print(f"warning: {line}", file=sys.stderr, flush=True)


def fsync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk, where the file system can."""
    with contextlib.suppress(OSError):  # some network file systems refuse to open or to synchronise a folder
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def absence(path: Path) -> str:
    """Say what a path is that is not a file that can be read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "does not exist"
    except OSError as error:  # a loop of links, a name that is too long, a folder without access
        return f"cannot be opened ({error.strerror})"
    kinds = {"is a folder, not a file": stat.S_ISDIR, "is a named pipe, not a file": stat.S_ISFIFO}
    kinds |= {"is a device, not a file": stat.S_ISCHR, "is a block device, not a file": stat.S_ISBLK}
    kinds |= {"is a socket, not a file": stat.S_ISSOCK}
    return next((name for name, holds in kinds.items() if holds(mode)), "is not a file")


def cache_folder() -> Path:
    """Return this user's folder for what can be made again; a relative XDG_CACHE_HOME is invalid by its standard."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if given.is_absolute():
        return given / "hiphop-train"
    try:
        return Path.home() / ".cache" / "hiphop-train"
    except RuntimeError:  # a user without an entry, as in containers
        return Path(tempfile.gettempdir()) / f"hiphop-train-{os.getuid()}"


@contextlib.contextmanager
def scratch(key: str) -> Iterator[None]:
    """Have the sockets of loaders' workers in a temporary folder that the next start with the same key empties.

    Python makes a folder with a name of its own for each process, which a kill leaves behind for ever.
    """
    settings = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = settings.get("tempdir")
    folder = Path(tempfile.gettempdir()) / f"hiphop-train-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # of another user, or no space: then as always
        folder.mkdir(mode=0o700)
        settings["tempdir"] = str(folder)
    try:
        yield
    finally:
        settings["tempdir"] = before
        shutil.rmtree(folder, ignore_errors=True)


def remove_partial(folder: Path) -> None:
    """Remove what a killed process was writing into a folder; only for who holds the folder's lock."""
    for file in folder.glob(f".*{PARTIAL}"):
        with contextlib.suppress(OSError):
            file.unlink()


def seal(archive: bytes | memoryview) -> bytes:
    """Return a zip archive with the SHA-256 of its other bytes as its comment.

    Parameters
    ----------
    archive : contents of a zip file without a comment
    """
    record = len(archive) - END_OF_ARCHIVE.size
    signature, *counts, length = END_OF_ARCHIVE.unpack_from(archive, record)
    assert (signature, length) == (b"PK\x05\x06", 0), "not a zip archive without a comment"
    body = bytes(archive[:record]) + END_OF_ARCHIVE.pack(signature, *counts, len("sha256:") + 64)
    return body + b"sha256:" + hashlib.sha256(body).hexdigest().encode()


def damage(path: Path) -> str | None:
    """Say what is wrong with an archive, or None where it is as it was written.

    A sealed archive is compared with its seal; one without (from earlier versions, from other programs) with the
    32-bit checksums of its members, which do not cover its directory.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    if not content:
        return "it is empty"
    if sealed := SEAL.search(content[-71:]):
        same = hashlib.sha256(memoryview(content)[:-71]).hexdigest().encode() == sealed.group().removeprefix(b"sha256:")
        return None if same else "its contents have changed since they were written (SHA-256)"
    last = content[-END_OF_ARCHIVE.size :]
    if not (last.startswith(b"PK\x05\x06") and last.endswith(b"\0\0")):  # cut, or its seal is damaged
        return "it is cut off or another kind of file"
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError):
        return "it is cut off or another kind of file"
    return None if member is None else f"the checksum of its member {member} is wrong"
