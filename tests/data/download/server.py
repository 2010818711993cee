"""A server on this machine that serves one file, well or badly, and what tests of downloads share."""

import hashlib
import io
import socket
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hiphop_train.data.download.registry import Remote
from hiphop_train.data.download.transfer import Retries, fetch
from hiphop_train.errors import DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
QUICK = Retries(attempts=3, pause=0.0, timeout=0.4)


@dataclass
class Site:
    """Behaviour of the server.

    Attributes
    ----------
    content : file, or what each request gets in turn where it is a list
    script : answers to the first requests: a status, or "cut" (half of it), "silent", "close"; then normal
    ranges : whether parts are served
    length : whether the size is announced
    tag : ETag
    seen : headers of all requests
    """

    content: bytes = CONTENT
    script: list[Any] = field(default_factory=list)
    ranges: bool = True
    length: bool = True
    tag: str | None = '"one"'
    seen: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    """Serves one file as its site is set up."""

    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        site = self.site
        site.seen.append(dict(self.headers))
        act = site.script.pop(0) if site.script else None
        if isinstance(act, int):
            self.send_response(act)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if act == "close":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        start = 0
        asked = self.headers.get("Range")
        if asked and site.ranges and self.headers.get("If-Range") in (None, site.tag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
        else:
            self.send_response(200)
        body = site.content[start:]
        if site.tag:
            self.send_header("ETag", site.tag)
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if act in ("cut", "silent"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if act == "silent":
                time.sleep(1.0)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.wfile.write(body)


class Bars:
    """Counts bytes that were shown as done."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def __call__(self, what: str, total: int | None) -> Callable[[int], None]:
        self.done[what] = 0

        def advance(n: int) -> None:
            self.done[what] += n

        return advance


def remote(site: Site, **changes: Any) -> Remote:
    return replace(Remote(site.url, "set/file.h5", len(CONTENT), SHA256), **changes)


def get(wanted: Remote, root: Path, retries: Retries = QUICK) -> tuple[list[Path], bool]:
    return fetch(wanted, root, Bars(), retries)


def refused(wanted: Remote, root: Path, *words: str, retries: Retries = QUICK) -> str:
    with pytest.raises(DataError) as caught:
        get(wanted, root, retries)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def tar(members: dict[str, bytes], kind: str = "gz", extra: Callable[[tarfile.TarFile], None] | None = None) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=f"w:{kind}") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
        if extra:
            extra(archive)
    return sink.getvalue()


def archived(site: Site, unpack: dict[str, str], **changes: Any) -> Remote:
    checksum = f"md5:{hashlib.md5(site.content, usedforsecurity=False).hexdigest()}"
    return replace(Remote(site.url, "all.tar.gz", len(site.content), checksum, unpack), **changes)
