"""Fetch published files: resumed where they broke off, checked while they come, never over another file.

Of the libraries, pooch checks and unpacks but does not resume (a dropped connection begins 37 GB anew), takes the empty
202 of figshare for a file, and replaces one at the destination that is not the right one; so requests does what is hard
(redirects, proxies, certificates), and the loop around it is here.
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
"""What a dropped or silent connection raises."""

PACKET = 1 << 16
"""Bytes that are waited for before they are written; what a broken connection brought beyond them is lost."""

Bar = Callable[[str, int | None], Advance]
"""Begins to show the progress of something with so many bytes."""


@dataclass(frozen=True)
class Patience:
    """How long a server is given.

    Attributes
    ----------
    attempts : requests in a row that bring nothing before it is given up
    pause : seconds before the second of them; twice as many before each further one
    timeout : seconds without a byte after which a connection counts as broken
    """

    attempts: int = 4
    pause: float = 1.0
    timeout: float = 60.0


PATIENCE = Patience()


def fetch(remote: Remote, root: Path, bar: Bar, patience: Patience = PATIENCE) -> tuple[list[Path], bool]:
    """Bring one published file below a folder, unpacked where it is an archive.

    Parameters
    ----------
    remote : what to bring
    root : the folder
    bar : shows progress
    patience : with the server

    Returns
    -------
    files : what is there now
    was_there : whether it was there before
    """
    record = root / f"{remote.name}.fetched.json"
    present = _present(remote, root, record, bar)
    if present:
        return present, True
    target = root / remote.name
    if not (remote.unpack and target.is_file()):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            checksum = _download(remote, target, bar, patience)
        except OSError as error:
            raise DataError(f"{target} cannot be written: {error.strerror}; choose another folder: --root") from error
    else:
        checksum = _require_right(remote, target, bar)
    if not remote.unpack:
        _note(record, remote, root, {remote.name: checksum})
        return [target], False
    found = unpack(remote, target, root, bar(f"unpacking {remote.name}", target.stat().st_size))
    _note(record, remote, root, found)
    target.unlink()  # everything in it that is of use stands beside it
    return [root / name for name in found], False


def _present(remote: Remote, root: Path, record: Path, bar: Bar) -> list[Path]:
    """Files that are there and right; raises where one is there and wrong."""
    if not remote.unpack:
        target = root / remote.name
        if not target.exists():
            return []
        known = {} if remote.checksum else _noted(record, remote)
        expected = remote.checksum or known.get(remote.name)
        if expected is None:
            raise DataError(
                f"{target} exists, and no checksum was published that it could be compared with; it is left alone. "
                f"Use it as it is, or move it away to fetch it anew from {remote.url}"
            )
        _require_right(Remote(remote.url, remote.name, remote.size, expected), target, bar)
        return [target]
    known = _noted(record, remote) | remote.inside
    paths = [root / name for name in known]
    if not known and not (root / remote.name).is_file():
        _require_nothing(remote, root)
    if not known or not all(path.is_file() for path in paths):
        return []
    for name, expected in known.items():
        _require_right(Remote(remote.url, name, None, expected), root / name, bar)
    return paths


def _require_nothing(remote: Remote, root: Path) -> None:
    """Raise where something stands in the way of what will be unpacked, before it is fetched."""
    for pattern, place in remote.unpack.items():
        folder = place.endswith("/")
        for path in root.glob(f"{place}{pattern.rsplit('/')[-1]}" if folder else place):
            raise DataError(
                f"{path} exists, and nothing tells whether it is what {remote.name} holds; it is left alone. "
                f"Use it as it is, or move it away to fetch it anew from {remote.url}"
            )


def _require_right(remote: Remote, target: Path, bar: Bar) -> str:
    """Raise unless a file at the destination is the published one; returns its checksum."""
    advice = "it is left alone. Move it away, or choose another folder: --root"
    if not target.is_file():
        raise DataError(f"{target} is a folder where a file is to be; {advice}")
    size = target.stat().st_size
    if remote.size is not None and size != remote.size:
        raise DataError(f"{target} exists and has {size:,} bytes where {remote.size:,} are right; {advice}")
    kind = remote.checksum.split(":")[0] if remote.checksum else "sha256"
    found = checksum_of(target, kind, bar(f"checking {target.name}", size))
    if remote.checksum and found != remote.checksum:
        raise DataError(f"{target} exists and has {found} where {remote.checksum} is right; {advice}")
    return found


def _noted(record: Path, remote: Remote) -> dict[str, str]:
    """Checksums that were noted when the same address was fetched before."""
    try:
        noted = json.loads(record.read_text())
        return dict(noted["files"]) if noted["url"] == remote.url else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _note(record: Path, remote: Remote, root: Path, checksums: dict[str, str]) -> None:
    """Note what was fetched, where the registry alone could not tell it again."""
    if remote.checksum and not remote.unpack:
        return
    unfinished = record.with_name(f".{record.name}.{os.getpid()}")
    unfinished.write_text(json.dumps({"url": remote.url, "files": checksums}, indent=1) + "\n")
    unfinished.replace(record)


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open an unfinished file to be written by this process alone."""
    with part.open("a+b") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{part} is being written by another process; let that one end") from error
        except OSError:
            pass  # a file system without locks
        yield handle


def _download(remote: Remote, target: Path, bar: Bar, patience: Patience) -> str:
    """Bring a file under a temporary name, check it and rename it; returns its checksum."""
    part = target.with_name(f"{target.name}.part")
    with _locked(part) as handle:
        transfer = _Transfer(remote, handle, part.with_name(f"{part.name}.json"), patience, target)
        checksum = transfer.run(bar)
        handle.flush()
        os.fsync(handle.fileno())
        part.replace(target)
        transfer.state.unlink(missing_ok=True)
    return checksum


class _Transfer:
    """One file on its way.

    Parameters
    ----------
    remote : what is fetched
    handle : unfinished file, which may hold the beginning already
    state : file that says which version of the remote file that is
    patience : with the server
    target : destination, for messages
    """

    def __init__(self, remote: Remote, handle: IO[bytes], state: Path, patience: Patience, target: Path) -> None:
        self.remote, self.handle, self.state, self.patience, self.target = remote, handle, state, patience, target
        self.total = remote.size
        self.kind = remote.checksum.split(":")[0] if remote.checksum else "sha256"
        self.digest: Digest | None = None
        self.had = self._resumable()

    def _resumable(self) -> int:
        """Bytes that are there; none count where nothing could tell that the file has changed since."""
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
        """Fetch until all is there, and check it."""
        resumed = self.had > 0
        self.advance = bar(f"fetching {self.target.name}", self.total)
        self.advance(self.had)
        if self.total is None or self.had != self.total:
            self._persist()
        size = self.handle.seek(0, os.SEEK_END)
        if self.total is not None and size != self.total:
            self._refuse(f"it has {size:,} bytes where {self.total:,} are right", bar, resumed)
            return self.run(bar)
        found = str(self.digest or self._digest(size))
        if self.remote.checksum and found != self.remote.checksum:
            self._refuse(f"it has {found} where {self.remote.checksum} is right", bar, resumed)
            return self.run(bar)
        return found

    def _refuse(self, problem: str, bar: Bar, resumed: bool) -> None:
        """Throw away what came; raise unless an old beginning may be to blame."""
        self._restart()
        self.total = self.remote.size
        if not resumed:
            raise DataError(
                f"{self.remote.url} does not bring the published file: {problem}; what came was removed\n"
                f"{self.by_hand()}"
            )

    def _persist(self) -> None:
        fruitless = 0
        while True:
            before = self.had
            try:
                problem = self._request()
            except BROKEN as error:
                problem = f"{type(error).__name__}: {str(error)[:200]}"
            except requests.RequestException as error:
                raise DataError(f"{self.remote.url} cannot be fetched: {error}\n{self.by_hand()}") from error
            if not problem:
                return
            fruitless = 0 if self.had > before else fruitless + 1
            if fruitless >= self.patience.attempts:
                raise DataError(f"{self.target.name} could not be fetched: {problem}\n{self.by_hand()}")
            if fruitless:
                time.sleep(self.patience.pause * 2 ** (fruitless - 1))

    def _request(self) -> str:
        """Ask for what is missing and take what comes; returns what went wrong, if it may go right the next time."""
        headers = {"Accept-Encoding": "identity"}  # sizes and ranges are those of the file itself
        if self.had:
            headers["Range"] = f"bytes={self.had}-"
            if validator := self._validator():
                headers["If-Range"] = validator
        with requests.get(self.remote.url, headers=headers, stream=True, timeout=self.patience.timeout) as answer:
            status = answer.status_code
            if status == 416 and self.had:
                self._restart()
                return "the server has no such part of it"
            if status in (202, 429) or status >= 500:
                hint = " without a file (it is being made ready, or a browser is asked for)" if status == 202 else ""
                return f"the server answers {status}{hint}"
            if status not in (200, 206):
                raise DataError(f"{self.remote.url}: the server answers {status} {answer.reason}\n{self.by_hand()}")
            if status == 200:
                self._restart()
            return self._take(answer)

    def _take(self, answer: requests.Response) -> str:
        start, total = self._announced(answer)
        if start != self.had:
            self._restart()
            return "the server sent another part than was asked for"
        if self.remote.size is not None and total is not None and total != self.remote.size:
            kind = answer.headers.get("Content-Type", "no type")
            raise DataError(
                f"{self.remote.url}: the server offers {total:,} bytes ({kind}) where {self.remote.size:,} are right\n"
                f"{self.by_hand()}"
            )
        self.total = self.total if total is None else total
        if self.total is not None:
            require_space(self.target, self.total - self.had)
        self._keep_validator(answer)
        if self.digest is None and self.total is not None:
            self.digest = self._digest(self.total)
        for data in answer.iter_content(PACKET):
            self.handle.write(data)
            if self.digest is not None:
                self.digest.update(data)
            self.had += len(data)
            self.advance(len(data))
        self.handle.flush()
        if self.total is not None and self.had < self.total:
            return f"the connection ended after {self.had:,} of {self.total:,} bytes"
        if self.had == 0:
            return "the server sent nothing"
        return ""

    def _announced(self, answer: requests.Response) -> tuple[int, int | None]:
        """Where what comes begins, and how large the whole file is."""
        span = answer.headers.get("Content-Range", "")  # "bytes 100-199/200"
        if answer.status_code == 206:
            try:
                place, _, whole = span.removeprefix("bytes ").partition("/")
                return int(place.split("-")[0]), None if whole in ("*", "") else int(whole)
            except ValueError:
                return -1, None
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None

    def _keep_validator(self, answer: requests.Response) -> None:
        """Note what tells this version of the file from another, so that a beginning is not joined to another's end."""
        tag = answer.headers.get("ETag", "")
        validator = tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")
        self.state.write_text(json.dumps({"url": self.remote.url, "validator": validator}))

    def _restart(self) -> None:
        self.handle.truncate(0)
        self.handle.seek(0)
        self.advance(-self.had)
        self.had = 0
        self.digest = None

    def _digest(self, size: int) -> Digest:
        """Checksum of what is there, to go on with; `size` is that of the whole file."""
        digest = Digest(self.kind, size)
        self.handle.flush()
        self.handle.seek(0)
        while data := self.handle.read(CHUNK):
            digest.update(data)
        return digest

    def by_hand(self) -> str:
        """Say how to bring the file without this command."""
        kept = f"  {self.had:,} bytes are kept: the same command goes on with them\n" if self.had else ""
        then = "checks and unpacks it" if self.remote.unpack else "checks it"
        return (
            f"{kept}  or fetch it where there is a network and put it where it belongs; the same command then {then}:\n"
            f"    from  {self.remote.url}\n    what  {self.remote.described()}\n    to    {self.target}"
        )
