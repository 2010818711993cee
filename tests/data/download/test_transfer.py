"""Files arrive complete and verified, or not at all: from a real server on this machine."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hiphop_train.data.download.registry import Digest, Remote
from hiphop_train.data.download.transfer import PACKET, fetch
from tests.data.download.server import CONTENT, QUICK, SHA256, Bars, Site, get, names, refused, remote


@pytest.mark.parametrize("kind", ["md5", "sha256", "git"])
def test_a_file_is_fetched_and_verified(serve: Callable[..., Site], tmp_path: Path, kind: str) -> None:
    digest = Digest(kind, len(CONTENT))
    digest.update(CONTENT)
    bars = Bars()
    (path,), existed = fetch(remote(serve(), checksum=str(digest)), tmp_path, bars, QUICK)
    assert (path, existed) == (tmp_path / "set" / "file.h5", False)
    assert path.read_bytes() == CONTENT
    assert bars.done == {"fetching file.h5": len(CONTENT)}
    assert names(tmp_path) == ["set/file.h5"]


@pytest.mark.parametrize("length", [True, False])
def test_git_checksum_needs_no_announced_size(serve: Callable[..., Site], tmp_path: Path, length: bool) -> None:
    digest = Digest("git", len(CONTENT))
    digest.update(CONTENT)
    (path,), _ = get(remote(serve(length=length), size=None, checksum=str(digest)), tmp_path)
    assert path.read_bytes() == CONTENT


def test_an_existing_file_is_not_touched(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve()
    (path,), _ = get(remote(site), tmp_path)
    before = path.stat().st_mtime_ns
    (again,), existed = get(remote(site), tmp_path)
    assert (again, existed, path.stat().st_mtime_ns) == (path, True, before)
    assert len(site.seen) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [(CONTENT[:-1], ["2,999,999 bytes, expected 3,000,000"]), (CONTENT[:-1] + b"x", ["sha256:", "expected"])],
)
def test_another_file_is_never_overwritten(
    serve: Callable[..., Site], tmp_path: Path, content: bytes, words: list[str]
) -> None:
    path = tmp_path / "set" / "file.h5"
    path.parent.mkdir()
    path.write_bytes(content)
    site = serve()
    refused(remote(site), tmp_path, str(path), *words, "was not changed", "--root")
    assert path.read_bytes() == content
    assert not site.seen


def test_a_folder_in_the_way_is_named(serve: Callable[..., Site], tmp_path: Path) -> None:
    (tmp_path / "set" / "file.h5").mkdir(parents=True)
    refused(remote(serve()), tmp_path, "is a folder, expected a file")


@pytest.mark.parametrize("act", ["cut", "silent", "close"])
def test_a_broken_connection_is_resumed(serve: Callable[..., Site], tmp_path: Path, act: str) -> None:
    site = serve(script=[act, act])
    (path,), _ = get(remote(site), tmp_path)
    assert path.read_bytes() == CONTENT
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in site.seen]
    half = len(CONTENT) // 2
    expected = [0, 0, 0] if act == "close" else [0, half, half + half // 2]
    assert all(right - 2 * PACKET < start <= right for start, right in zip(starts, expected, strict=True))


def test_a_later_start_resumes_too(serve: Callable[..., Site], tmp_path: Path) -> None:
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


def test_without_a_version_only_a_checksum_allows_to_resume(serve: Callable[..., Site], tmp_path: Path) -> None:
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


def test_a_server_without_ranges_starts_over(serve: Callable[..., Site], tmp_path: Path) -> None:
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


def test_a_missing_page_is_reported_at_once(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(script=[404])
    refused(remote(site), tmp_path, site.url, "404", "sha256", str(tmp_path / "set" / "file.h5"))
    assert len(site.seen) == 1


def test_a_file_of_another_size_is_not_fetched(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=b"<html>please log in</html>")
    refused(remote(site), tmp_path, "offers 26 bytes", "expected 3,000,000")
    assert (tmp_path / "set" / "file.h5.part").stat().st_size == 0


@pytest.mark.parametrize("length", [True, False])
def test_wrong_content_is_removed(serve: Callable[..., Site], tmp_path: Path, length: bool) -> None:
    site = serve(content=CONTENT[:-1] + b"x", length=length)
    refused(remote(site), tmp_path, "is not the published file", "sha256:", SHA256, "removed")
    assert not (tmp_path / "set" / "file.h5").exists()
    assert (tmp_path / "set" / "file.h5.part").stat().st_size == 0


def test_without_a_published_checksum_that_of_the_file_is_recorded(serve: Callable[..., Site], tmp_path: Path) -> None:
    wanted = remote(serve(), size=None, checksum=None)
    (path,), _ = get(wanted, tmp_path)
    recorded = json.loads((tmp_path / "set" / "file.h5.fetched.json").read_text())
    assert recorded["files"] == {"set/file.h5": SHA256}
    assert get(wanted, tmp_path) == ([path], True)
    path.write_bytes(CONTENT[:-1] + b"x")
    refused(wanted, tmp_path, SHA256, "was not changed")
    (tmp_path / "set" / "file.h5.fetched.json").unlink()
    refused(wanted, tmp_path, "no checksum was published", "was not changed")


def test_no_server_at_all(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/file"
        wanted = Remote(url, "set/file.h5", 5_590_846_027, "md5:98090dd6679106da861f52bed825ffb7")
        target = str(tmp_path / "set" / "file.h5")
        words = ["ConnectionError", url, "5,590,846,027 bytes", "md5 98090dd6679106da861f52bed825ffb7", target]
        said = refused(wanted, tmp_path, *words)
    assert "kept" not in said


def test_space_on_the_disk_is_checked_first(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=b"", length=False)
    site.content = _Huge()  # type: ignore[assignment]
    site.length = True
    refused(Remote(site.url, "file.h5"), tmp_path, "needs 9,000,000,000,000,000 more bytes", "left", "--root")


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
