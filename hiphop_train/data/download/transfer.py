"""Transfer of published files: resumed after interruptions, verified while received, never overwriting other files.

The library pooch verifies and unpacks, but does not resume (after a dropped connection 37 GB start over), accepts the
empty 202 responses of figshare as files, and replaces a different file at the destination; so this module adds a loop
around requests, which handles redirects, proxies and certificates.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import requests

from hiphop_train.data.download.archive import require_space, unpack
from hiphop_train.data.download.registry import CHUNK, Advance, Digest, Remote, checksum_of
from hiphop_train.errors import DataError

BROKEN = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
"""Exceptions of a dropped or silent connection."""

PACKET = 1 << 16
"""Bytes received before they are written; a broken connection loses fewer than these."""

Bar = Callable[[str, int | None], Advance]
"""Starts a progress bar with a title and a number of bytes."""


@dataclass(frozen=True)
class Retries:
    """Number and timing of retries.

    Attributes
    ----------
    attempts : consecutive requests without a new byte before the transfer fails
    pause : seconds before the second attempt, doubled before each further one
    timeout : seconds without a byte after which a connection counts as broken
    """

    attempts: int = 4
    pause: float = 1.0
    timeout: float = 60.0


DEFAULT_RETRIES = Retries()


def fetch(remote: Remote, root: Path, bar: Bar, retries: Retries = DEFAULT_RETRIES) -> tuple[list[Path], bool]:
    """Fetch one published file into a folder, and unpack it if it is an archive.

    Parameters
    ----------
    remote : the file
    root : the folder
    bar : starts progress bars
    retries : of requests

    Returns
    -------
    files : of the data set
    existed : whether they existed before
    """
    record = root / f"{remote.name}.fetched.json"
    existing = _existing(remote, root, record, bar)
    if existing:
        return existing, True
    target = root / remote.name
    if not (remote.unpack and target.is_file()):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            checksum = _download(remote, target, bar, retries)
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror}; choose another folder: --root") from error
    else:
        checksum = _verify(remote, target, bar)
    if not remote.unpack:
        _write_record(record, remote, root, {remote.name: checksum})
        return [target], False
    found = unpack(remote, target, root, bar(f"unpacking {remote.name}", target.stat().st_size))
    _write_record(record, remote, root, found)
    target.unlink()  # its needed files have been unpacked
    return [root / name for name in found], False


def _existing(remote: Remote, root: Path, record: Path, bar: Bar) -> list[Path]:
    """Existing files that match the published ones; raise `DataError` if one differs."""
    if not remote.unpack:
        target = root / remote.name
        if not target.exists():
            return []
        known = {} if remote.checksum else _recorded(record, remote)
        expected = remote.checksum or known.get(remote.name)
        if expected is None:
            raise DataError(
                f"{target} exists, and no checksum was published to compare it with; it was not changed. "
                f"Use it, or move it away to fetch it again from {remote.url}"
            )
        _verify(Remote(remote.url, remote.name, remote.size, expected), target, bar)
        return [target]
    known = _recorded(record, remote) | remote.inside
    paths = [root / name for name in known]
    if not known and not (root / remote.name).is_file():
        _require_absent(remote, root)
    if not known or not all(path.is_file() for path in paths):
        return []
    for name, expected in known.items():
        _verify(Remote(remote.url, name, None, expected), root / name, bar)
    return paths


def _require_absent(remote: Remote, root: Path) -> None:
    """Raise `DataError` if a file to be unpacked exists, before the archive is fetched."""
    for pattern, destination in remote.unpack.items():
        is_folder = destination.endswith("/")
        for path in root.glob(f"{destination}{pattern.rsplit('/')[-1]}" if is_folder else destination):
            raise DataError(
                f"{path} exists, but may not come from {remote.name}; it was not changed. "
                f"Use it, or move it away to fetch it again from {remote.url}"
            )


def _verify(remote: Remote, target: Path, bar: Bar) -> str:
    """Raise `DataError` unless the file at the destination is the published one; return its checksum."""
    advice = "it was not changed. Move it away, or choose another folder: --root"
    if not target.is_file():
        raise DataError(f"{target} is a folder, expected a file; {advice}")
    size = target.stat().st_size
    if remote.size is not None and size != remote.size:
        raise DataError(f"{target} exists and has {size:,} bytes, expected {remote.size:,}; {advice}")
    kind = remote.checksum.split(":")[0] if remote.checksum else "sha256"
    found = checksum_of(target, kind, bar(f"verifying {target.name}", size))
    if remote.checksum and found != remote.checksum:
        raise DataError(f"{target} exists and has {found}, expected {remote.checksum}; {advice}")
    return found


def _recorded(record: Path, remote: Remote) -> dict[str, str]:
    """Checksums recorded by an earlier download from the same address."""
    try:
        content = json.loads(record.read_text())
        return dict(content["files"]) if content["url"] == remote.url else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_record(record: Path, remote: Remote, root: Path, checksums: dict[str, str]) -> None:
    """Record checksums of fetched files, if the registry does not contain them."""
    if remote.checksum and not remote.unpack:
        return
    unfinished = record.with_name(f".{record.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"url": remote.url, "files": checksums}, indent=1) + "\n")
    unfinished.replace(record)


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open an unfinished file with an exclusive lock."""
    with part.open("a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{part} is being written by another process; wait until it has finished") from error
        except OSError:
            pass  # a file system without locks
        yield handle


def _download(remote: Remote, target: Path, bar: Bar, retries: Retries) -> str:
    """Fetch a file under a temporary name, verify and rename it; return its checksum."""
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as handle:
        transfer = _Transfer(remote, handle, part.with_name(f"{part.name}.json"), retries, target)
        checksum = transfer.run(bar)
        handle.flush()
        os.fsync(handle.fileno())
        part.replace(target)
        transfer.state.unlink(missing_ok=True)
    return checksum


class _Transfer:
    """Transfer of one file.

    Parameters
    ----------
    remote : the file
    handle : partial file, possibly with bytes of an earlier attempt
    state : file with the URL and the validator (ETag or date) of those bytes
    retries : of requests
    target : destination, for messages
    """

    def __init__(self, remote: Remote, handle: IO[bytes], state: Path, retries: Retries, target: Path) -> None:
        self.remote, self.handle, self.state, self.retries, self.target = remote, handle, state, retries, target
        self.total = remote.size
        self.kind = remote.checksum.split(":")[0] if remote.checksum else "sha256"
        self.digest: Digest | None = None
        self.done = self._resumable()

    def _resumable(self) -> int:
        """Number of bytes to resume from; zero if a change of the remote file could not be detected."""
        if self.remote.checksum is None and not self._validator():
            self.handle.truncate(0)
        return self.handle.seek(0, os.SEEK_END)

    def _validator(self) -> str:
        try:
            state = json.loads(self.state.read_text())
            return str(state["validator"]) if state["url"] == self.remote.url else ""
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def run(self, bar: Bar) -> str:
        """Fetch until the file is complete, and verify it."""
        resumed = self.done > 0
        self.advance = bar(f"fetching {self.target.name}", self.total)
        self.advance(self.done)
        if self.total is None or self.done != self.total:
            self._request_until_complete()
        size = self.handle.seek(0, os.SEEK_END)
        if self.total is not None and size != self.total:
            problem = f"it has {size:,} bytes, expected {self.total:,}"
        else:
            found = str(self.digest or self._digest(size))
            if self.remote.checksum in (None, found):
                return found
            problem = f"it has {found}, expected {self.remote.checksum}"
        self._restart()
        self.total = self.remote.size
        if resumed:  # the earlier part may be the cause
            return self.run(bar)
        raise DataError(
            f"{self.remote.url} is not the published file: {problem}; the received data were removed\n"
            f"{self.instructions()}"
        )

    def _request_until_complete(self) -> None:
        failures = 0
        while True:
            before = self.done
            try:
                problem = self._request()
            except BROKEN as error:
                problem = f"{type(error).__name__}: {str(error)[:200]}"
            except requests.RequestException as error:
                raise DataError(f"{self.remote.url} cannot be fetched: {error}\n{self.instructions()}") from error
            if not problem:
                return
            failures = 0 if self.done > before else failures + 1
            if failures >= self.retries.attempts:
                raise DataError(f"{self.target.name} could not be fetched: {problem}\n{self.instructions()}")
            if failures:
                time.sleep(self.retries.pause * 2 ** (failures - 1))

    def _request(self) -> str:
        """Request and receive the missing bytes; return the problem if another request may solve it."""
        headers = {"Accept-Encoding": "identity"}  # sizes and ranges are those of the file itself
        if self.done:
            headers["Range"] = f"bytes={self.done}-"
            if validator := self._validator():
                headers["If-Range"] = validator
        with requests.get(self.remote.url, headers=headers, stream=True, timeout=self.retries.timeout) as answer:
            status = answer.status_code
            if status == 416 and self.done:
                self._restart()
                return "the server does not have that part of the file"
            if status in (202, 429) or status >= 500:
                hint = " without a file (still being prepared, or browsers only)" if status == 202 else ""
                return f"the server answers {status}{hint}"
            if status not in (200, 206):
                raise DataError(
                    f"{self.remote.url}: the server answers {status} {answer.reason}\n{self.instructions()}"
                )
            if status == 200:
                self._restart()
            return self._receive(answer)

    def _receive(self, answer: requests.Response) -> str:
        start, total = self._announced(answer)
        if start != self.done:
            self._restart()
            return "the server did not send the requested part"
        if self.remote.size is not None and total is not None and total != self.remote.size:
            kind = answer.headers.get("Content-Type", "no type")
            raise DataError(
                f"{self.remote.url}: the server offers {total:,} bytes ({kind}), expected {self.remote.size:,}\n"
                f"{self.instructions()}"
            )
        self.total = self.total if total is None else total
        if self.total is not None:
            require_space(self.target, self.total - self.done)
        self._keep_validator(answer)
        if self.digest is None and self.total is not None:
            self.digest = self._digest(self.total)
        for data in answer.iter_content(PACKET):
            self.handle.write(data)
            if self.digest is not None:
                self.digest.update(data)
            self.done += len(data)
            self.advance(len(data))
        self.handle.flush()
        if self.total is not None and self.done < self.total:
            return f"the connection ended after {self.done:,} of {self.total:,} bytes"
        if self.done == 0:
            return "the server sent nothing"
        return ""

    def _announced(self, answer: requests.Response) -> tuple[int, int | None]:
        """First byte of the response, and size of the whole file."""
        span = answer.headers.get("Content-Range", "")  # "bytes 100-199/200"
        if answer.status_code == 206:
            try:
                part, _, whole = span.removeprefix("bytes ").partition("/")
                return int(part.split("-")[0]), None if whole in ("*", "") else int(whole)
            except ValueError:
                return -1, None
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None

    def _keep_validator(self, answer: requests.Response) -> None:
        """Record the version of the remote file, so that parts of different versions are never joined."""
        tag = answer.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
        self.state.write_text(json.dumps({"url": self.remote.url, "validator": validator}))

    def _restart(self) -> None:
        self.handle.truncate(0)
        self.handle.seek(0)
        self.advance(-self.done)
        self.done = 0
        self.digest = None

    def _digest(self, size: int) -> Digest:
        """Checksum of the bytes so far, to be continued; `size` is that of the whole file."""
        digest = Digest(self.kind, size)
        self.handle.flush()
        self.handle.seek(0)
        while data := self.handle.read(CHUNK):
            digest.update(data)
        return digest

    def instructions(self) -> str:
        """Instructions to fetch the file manually."""
        kept = f"  {self.done:,} bytes are kept: the same command resumes there\n" if self.done else ""
        then = "verifies and unpacks it" if self.remote.unpack else "verifies it"
        return (
            f"{kept}  or fetch it on a machine with a network and copy it; the same command then {then}:\n"
            f"    from  {self.remote.url}\n    size  {self.remote.described()}\n    to    {self.target}"
        )
