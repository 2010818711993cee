"""Files come whole, checked and to their place, or not at all: against a real server on this machine."""

import gzip
import hashlib
import io
import json
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hiphop_train.data.download.registry import REGISTRY, Digest, Remote, checksum_of, published, registry
from hiphop_train.data.download.transfer import PACKET, Patience, fetch
from hiphop_train.errors import DataError

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
QUICK = Patience(attempts=3, pause=0.0, timeout=0.4)


@dataclass
class Site:
    """What the server does.

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
    """Serves one file as its site says."""

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


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """Start servers, each with one site."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(**settings: Any) -> Site:
        site = Site(**settings)
        server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"site": site}))
        server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client may hang up
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        site.url = f"http://127.0.0.1:{server.server_address[1]}/file"
        return site

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


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


def get(wanted: Remote, root: Path, patience: Patience = QUICK) -> tuple[list[Path], bool]:
    return fetch(wanted, root, Bars(), patience)


def refused(wanted: Remote, root: Path, *words: str, patience: Patience = QUICK) -> str:
    with pytest.raises(DataError) as caught:
        get(wanted, root, patience)
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in {str(caught.value)!r}"
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", ["md5", "sha256", "git"])
def test_a_file_comes_checked(serve: Callable[..., Site], tmp_path: Path, kind: str) -> None:
    digest = Digest(kind, len(CONTENT))
    digest.update(CONTENT)
    bars = Bars()
    (path,), was_there = fetch(remote(serve(), checksum=str(digest)), tmp_path, bars, QUICK)
    assert (path, was_there) == (tmp_path / "set" / "file.h5", False)
    assert path.read_bytes() == CONTENT
    assert bars.done == {"fetching file.h5": len(CONTENT)}
    assert names(tmp_path) == ["set/file.h5"]


def test_checksum_of_git_is_git_s(tmp_path: Path) -> None:
    """Git itself says 3b18e512dba79e4c8300dd08aeb37f8e728b8dad of a file with the line `hello world`."""
    (tmp_path / "file").write_text("hello world\n")
    assert checksum_of(tmp_path / "file", "git") == "git:3b18e512dba79e4c8300dd08aeb37f8e728b8dad"


@pytest.mark.parametrize("length", [True, False])
def test_git_checksum_needs_no_announced_size(serve: Callable[..., Site], tmp_path: Path, length: bool) -> None:
    digest = Digest("git", len(CONTENT))
    digest.update(CONTENT)
    (path,), _ = get(remote(serve(length=length), size=None, checksum=str(digest)), tmp_path)
    assert path.read_bytes() == CONTENT


def test_what_is_there_is_left_alone(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    (path,), _ = get(remote(site), tmp_path)
    before = path.stat().st_mtime_ns
    (again,), was_there = get(remote(site), tmp_path)
    assert (again, was_there, path.stat().st_mtime_ns) == (path, True, before)
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(CONTENT[:-1], ["2,999,999 bytes where 3,000,000 are right"]), (CONTENT[:-1] + b"x", ["sha256:", "is right"])],
)
def test_another_file_is_never_overwritten(
    serve: Callable[..., Site], tmp_path: Path, content: bytes, words: list[str]
) -> None:
    path = tmp_path / "set" / "file.h5"
    path.parent.mkdir()
    path.write_bytes(content)
    site = serve()
    refused(remote(site), tmp_path, str(path), *words, "left alone", "--root")
    assert path.read_bytes() == content
    assert not site.seen


def test_a_folder_in_the_way_is_named(serve: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "set" / "file.h5").mkdir(parents=True)
    refused(remote(serve()), tmp_path, "is a folder where a file is to be")


@pytest.mark.parametrize("act", ["cut", "silent", "close"])
def test_a_broken_connection_goes_on_where_it_ended(serve: Callable[..., Site], tmp_path: Path, act: str) -> None:
    site = serve(script=[act, act])
    (path,), _ = get(remote(site), tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in site.seen]
    half = len(CONTENT) // 2
    expected = [0, 0, 0] if act == "close" else [0, half, half + half // 2]
    assert all(right - 2 * PACKET < start <= right for start, right in zip(starts, expected, strict=True))


def test_a_later_start_goes_on_too(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(script=["cut", "close", "close", "close"])
    said = refused(remote(site), tmp_path, "bytes are kept: the same command", site.url, "3,000,000 bytes", "sha256")
    assert str(tmp_path / "set" / "file.h5") in said
    assert not (tmp_path / "set" / "file.h5").exists()
    bars = Bars()
    (path,), _ = fetch(remote(site), tmp_path, bars, QUICK)
    assert path.read_bytes() == CONTENT
    kept = int(site.seen[-1]["Range"][6:-1])
    assert 1_500_000 - PACKET < kept <= 1_500_000
    assert f"{kept:,} bytes are kept" in said
    assert bars.done == {"fetching file.h5": len(CONTENT)}
    assert names(tmp_path) == ["set/file.h5"]


@pytest.mark.parametrize("checksum", [SHA256, None])
def test_a_beginning_is_not_joined_to_the_end_of_another_version(
    serve: Callable[..., Site], tmp_path: Path, checksum: str | None
) -> None:
    site = serve(content=CONTENT[::-1], tag='"old"', script=["cut", "close", "close", "close"])
    wanted = remote(site, checksum=checksum)
    refused(wanted, tmp_path)
    site.content, site.tag = CONTENT, '"new"'
    (path,), _ = get(wanted, tmp_path)
    assert path.read_bytes() == CONTENT


def test_without_a_version_only_a_checksum_allows_to_go_on(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=CONTENT[::-1], tag=None, script=["cut", "close", "close", "close"])
    wanted = remote(site, checksum=None)
    refused(wanted, tmp_path)
    site.content = CONTENT
    (path,), _ = get(wanted, tmp_path)
    assert path.read_bytes() == CONTENT
    assert "Range" not in site.seen[-1]


def test_a_wrong_beginning_is_found_by_the_checksum(serve: Callable[..., Site], tmp_path: Path) -> None:
    part = tmp_path / "set" / "file.h5.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 1000)
    site = serve()
    (path,), _ = get(remote(site), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [headers.get("Range") for headers in site.seen] == ["bytes=1000-", None]


def test_an_overlong_beginning_is_dropped(serve: Callable[..., Site], tmp_path: Path) -> None:
    part = tmp_path / "set" / "file.h5.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT + b"more")
    (path,), _ = get(remote(serve()), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_complete_part_needs_no_server(tmp_path: Path, serve: Callable[..., Site]) -> None:
    site = serve()
    part = tmp_path / "set" / "file.h5.part"
    part.parent.mkdir()
    part.write_bytes(CONTENT)
    (path,), _ = get(remote(site), tmp_path)
    assert path.read_bytes() == CONTENT
    assert not site.seen


def test_a_server_without_ranges_begins_anew(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(ranges=False, script=["cut"])
    (path,), _ = get(remote(site), tmp_path)
    assert path.read_bytes() == CONTENT


def test_the_empty_202_of_figshare_is_waited_for(serve: Callable[..., Site], tmp_path: Path) -> None:
    (path,), _ = get(remote(serve(script=[202, 202])), tmp_path)
    assert path.read_bytes() == CONTENT
    other = serve(script=[202] * 9)
    refused(remote(other, name="other.h5"), tmp_path, "202", "without a file", other.url, "to    ")
    assert len(other.seen) == QUICK.attempts


def test_a_busy_server_is_asked_again(serve: Callable[..., Site], tmp_path: Path) -> None:
    (path,), _ = get(remote(serve(script=[503, 429])), tmp_path)
    assert path.read_bytes() == CONTENT


def test_a_page_that_is_not_there_is_said_at_once(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(script=[404])
    refused(remote(site), tmp_path, site.url, "404", "sha256", str(tmp_path / "set" / "file.h5"))
    assert len(site.seen) == 1


def test_a_file_of_another_size_is_not_even_begun(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=b"<html>please log in</html>")
    refused(remote(site), tmp_path, "offers 26 bytes", "where 3,000,000 are right")
    assert (tmp_path / "set" / "file.h5.part").stat().st_size == 0


@pytest.mark.parametrize("length", [True, False])
def test_wrong_content_is_removed(serve: Callable[..., Site], tmp_path: Path, length: bool) -> None:
    site = serve(content=CONTENT[:-1] + b"x", length=length)
    refused(remote(site), tmp_path, "does not bring the published file", "sha256:", SHA256, "removed")
    assert not (tmp_path / "set" / "file.h5").exists()
    assert (tmp_path / "set" / "file.h5.part").stat().st_size == 0


def test_without_checksum_the_file_s_own_is_noted(serve: Callable[..., Site], tmp_path: Path) -> None:
    wanted = remote(serve(), size=None, checksum=None)
    (path,), _ = get(wanted, tmp_path)
    noted = json.loads((tmp_path / "set" / "file.h5.fetched.json").read_text())
    assert noted["files"] == {"set/file.h5": SHA256}
    assert get(wanted, tmp_path) == ([path], True)
    path.write_bytes(CONTENT[:-1] + b"x")
    refused(wanted, tmp_path, SHA256, "left alone")
    (tmp_path / "set" / "file.h5.fetched.json").unlink()
    refused(wanted, tmp_path, "no checksum was published", "left alone")


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        wanted = Remote(url, "set/file.h5", 5_590_846_027, "md5:98090dd6679106da861f52bed825ffb7")
        target = str(tmp_path / "set" / "file.h5")
        words = ["ConnectionError", url, "5,590,846,027 bytes", "md5 98090dd6679106da861f52bed825ffb7", target]
        said = refused(wanted, tmp_path, *words)
    assert "kept" not in said


def test_room_on_the_disk_is_looked_at_first(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=b"", length=False)
    site.content = _Huge()  # type: ignore[assignment]
    site.length = True
    refused(Remote(site.url, "file.h5"), tmp_path, "needs 9,000,000,000,000,000 more bytes", "has room for", "--root")


class _Huge(bytes):
    """Says that it is nine petabytes long."""

    def __len__(self) -> int:
        return 9_000_000_000_000_000

    def __getitem__(self, _: Any) -> bytes:  # type: ignore[override]
        return self


def test_two_processes_do_not_write_one_file(serve: Callable[..., Site], tmp_path: Path) -> None:
    import fcntl

    part = tmp_path / "set" / "file.h5.part"
    part.parent.mkdir()
    with part.open("a+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(remote(serve()), tmp_path, str(part), "another process")
    (path,), _ = get(remote(serve()), tmp_path)
    assert path.read_bytes() == CONTENT


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


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_an_archive_is_unpacked_to_the_expected_names(serve: Callable[..., Site], tmp_path: Path, kind: str) -> None:
    inside = {"final/big.h5": CONTENT, "final/parts/a_1.npz": b"one", "./final/parts/a_2.npz": b"two", "README": b"?"}
    site = serve(content=tar(inside, kind))
    wanted = archived(site, {"final/big.h5": "big.h5", "final/parts/a_*.npz": "parts/"})
    bars = Bars()
    paths, was_there = fetch(wanted, tmp_path, bars, QUICK)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["big.h5", "parts/a_1.npz", "parts/a_2.npz"]
    assert not was_there
    assert [path.read_bytes() for path in paths] == [CONTENT, b"one", b"two"]
    assert names(tmp_path) == ["all.tar.gz.fetched.json", "big.h5", "parts/a_1.npz", "parts/a_2.npz"]
    assert get(wanted, tmp_path) == (paths, True)
    assert len(site.seen) == 1
    paths[1].write_bytes(b"eno")
    refused(wanted, tmp_path, str(paths[1]), "left alone")


def test_an_archive_brought_by_hand_is_used(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=tar({"in/big.h5": CONTENT}))
    (tmp_path / "all.tar.gz").write_bytes(site.content)
    (path,), _ = get(archived(site, {"in/big.h5": "big.h5"}), tmp_path)
    assert path.read_bytes() == CONTENT
    assert not site.seen
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "all.tar.gz").write_bytes(site.content[:-1])
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path / "other", "all.tar.gz", "are right", "left alone")


def test_an_archive_cannot_write_elsewhere(serve: Callable[..., Site], tmp_path: Path) -> None:
    """Absolute names, climbing names, links: only regular files that are named, and to their place alone."""
    root = tmp_path / "root"

    def links(archive: tarfile.TarFile) -> None:
        for name, kind in [("parts/x.npz", tarfile.SYMTYPE), ("parts/y.npz", tarfile.LNKTYPE)]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)

    evil = {"parts/../../../evil.npz": b"evil", f"{tmp_path}/evil.npz": b"evil", "parts/..": b"evil"}
    site = serve(content=tar({**evil, "parts/good.npz": b"good"}, extra=links))
    paths, _ = get(archived(site, {"parts/*.npz": "parts/"}), root)
    assert {path.relative_to(root).as_posix() for path in paths} == {"parts/evil.npz", "parts/good.npz"}
    assert names(tmp_path) == [
        f"root/{name}" for name in ("all.tar.gz.fetched.json", "parts/evil.npz", "parts/good.npz")
    ]


def test_what_stands_where_an_archive_goes(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=tar({"in/big.h5": CONTENT}))
    (tmp_path / "big.h5").write_bytes(b"mine")
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path, "big.h5 exists", "left alone")
    assert not site.seen
    (tmp_path / "all.tar.gz").write_bytes(site.content)
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path, "is not what the archive holds", "left alone")
    assert names(tmp_path) == ["all.tar.gz", "big.h5"]
    assert (tmp_path / "big.h5").read_bytes() == b"mine"


def test_contents_of_an_archive_are_checked(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=tar({"in/big.h5": CONTENT}))
    wanted = archived(site, {"in/big.h5": "big.h5"}, inside={"big.h5": SHA256})
    (path,), _ = get(wanted, tmp_path / "right")
    assert path.read_bytes() == CONTENT
    assert get(wanted, tmp_path / "right") == ([path], True)
    refused(replace(wanted, inside={"big.h5": "sha256:0"}), tmp_path / "wrong", "in/big.h5", SHA256, "sha256:0")
    assert names(tmp_path / "wrong") == ["all.tar.gz"]


def test_archives_that_hold_something_else_or_are_damaged(serve: Callable[..., Site], tmp_path: Path) -> None:
    refused(archived(serve(content=tar({"x": b"x"})), {"in/big.h5": "big.h5"}), tmp_path, "holds no in/big.h5")
    cut = serve(content=tar({"in/big.h5": CONTENT})[:-500_000])
    refused(archived(cut, {"in/big.h5": "big.h5"}), tmp_path / "b", "all.tar.gz is damaged", "fetch it again")
    assert names(tmp_path / "b") == ["all.tar.gz"]
    page = serve(content=gzip.compress(b"no archive"))
    refused(archived(page, {"in/big.h5": "big.h5"}), tmp_path / "c", "all.tar.gz is damaged")


def test_registry_is_whole() -> None:
    sets = registry()
    assert {"ani1", "ani1x", "ani2x", "comp6", "comp6v2", "spice", "transition1x", "qm9", "rmd17"} <= set(sets)
    files = [remote for entry in sets.values() for remote in entry.files]
    assert len({remote.url for remote in files}) == len(files)
    lengths = {"md5": 32, "sha256": 64, "git": 40}
    for remote_ in files:
        for checksum in [remote_.checksum, *remote_.inside.values()]:
            if checksum is not None:
                kind, _, digits = checksum.partition(":")
                assert len(digits) == lengths[kind]
                int(digits, 16)
        for name in (remote_.name, *remote_.unpack.values()):
            assert not Path(name).is_absolute()
            assert ".." not in Path(name).parts


def test_checksum_of_the_registry_is_that_of_the_real_file(shared: Path) -> None:
    (s66x8,) = [file for file in published("comp6").files if file.name.startswith("s66x8")]
    path = shared / "data" / "comp6" / "s66x8_wb97x6-31gd.h5"
    assert checksum_of(path, "git") == s66x8.checksum
    assert path.stat().st_size == s66x8.size


def test_unknown_set() -> None:
    with pytest.raises(DataError, match=r"(?s)'ani3x' is no data set.*did you mean 'ani.x'.*transition1x"):
        published("ani3x", REGISTRY)


def test_files_come_to_where_their_configurations_look() -> None:
    """Names and folders of the registry are those of conf/data, for every set that has both."""
    from hiphop_train.config import config_directory, load_config

    compared = []
    for name, entry in registry().items():
        file = config_directory() / "data" / f"{name}.yaml"
        if not file.is_file() or "path: ???" in file.read_text():
            continue
        section = load_config("data", [f"data={name}"]).data
        brought = [
            place for remote_ in entry.files for place in (remote_.unpack or {remote_.name: remote_.name}).items()
        ]
        paths = [Path(entry.folder, to, Path(pattern).name if to.endswith("/") else "") for pattern, to in brought]
        assert Path(section.root) == Path(entry.folder), name
        if "path" in section:
            assert Path(section.path) in paths, name
        reader = section.reader
        wanted = list(reader.get("names", []))
        if name == "comp6":
            wanted = [one for files in reader.subsets.values() for one in files]
        for one in wanted:
            assert any(fnmatchcase(one, path.name) for path in paths), (name, one)
        compared.append(name)
    assert {"ani1x", "comp6"} <= set(compared)


def test_the_command_fetches_what_is_missing(
    serve: Callable[..., Site], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hiphop_train.commands.data_download import download

    one, two = serve(), serve(content=tar({"in/big.h5": CONTENT}))
    files = [
        {"url": one.url, "name": "one.h5", "size": len(CONTENT), "checksum": SHA256},
        {"url": two.url, "name": "two.tar.gz", "unpack": {"in/big.h5": "big.h5"}},
    ]
    listed = tmp_path / "listed.yaml"
    listed.write_text(yaml.safe_dump({"both": {"what": "two files", "folder": "data", "files": files}}))
    paths = [tmp_path / "root" / name for name in ("one.h5", "big.h5")]
    assert download("both", tmp_path / "root", listed, QUICK) == paths
    out = capsys.readouterr().out
    assert f"{paths[0]}  3,000,000 bytes  fetched\n" in out
    assert f"{paths[1]}  3,000,000 bytes  fetched (no checksum to compare)" in out
    assert download("both", tmp_path / "root", listed, QUICK) == paths
    assert capsys.readouterr().out.count("already there") == 2
    assert len(one.seen) == len(two.seen) == 1


def test_hints_name_what_can_be_downloaded() -> None:
    """What a configuration says when its file is not there is a command of ours that works."""
    from hiphop_train.config import config_directory

    known = registry()
    hints = {}
    for file in sorted((config_directory() / "data").glob("*.yaml")):
        hint = yaml.safe_load(file.read_text()).get("reader", {}).get("download")
        if hint and file.stem != "methane":  # which is generated
            hints[file.stem] = hint
            assert hint.startswith(f"hiphop-data download {file.stem} --root {{folder}}")
    assert hints.keys() == known.keys() - {"spice1"}
