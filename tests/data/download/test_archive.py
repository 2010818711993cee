"""Only the files that the registry names come out of an archive, only to their destinations."""

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hiphop_train.data.download.transfer import fetch
from tests.data.download.server import CONTENT, QUICK, SHA256, Bars, Site, archived, get, names, refused, tar


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_an_archive_is_unpacked_to_the_expected_names(serve: Callable[..., Site], tmp_path: Path, kind: str) -> None:
    inside = {"final/big.h5": CONTENT, "final/parts/a_1.npz": b"one", "./final/parts/a_2.npz": b"two", "README": b"?"}
    site = serve(content=tar(inside, kind))
    wanted = archived(site, {"final/big.h5": "big.h5", "final/parts/a_*.npz": "parts/"})
    bars = Bars()
    paths, existed = fetch(wanted, tmp_path, bars, QUICK)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["big.h5", "parts/a_1.npz", "parts/a_2.npz"]
    assert not existed
    assert [path.read_bytes() for path in paths] == [CONTENT, b"one", b"two"]
    assert names(tmp_path) == ["all.tar.gz.fetched.json", "big.h5", "parts/a_1.npz", "parts/a_2.npz"]
    assert get(wanted, tmp_path) == (paths, True)
    assert len(site.seen) == 1
    paths[1].write_bytes(b"eno")
    refused(wanted, tmp_path, str(paths[1]), "not changed")


def test_an_archive_copied_by_hand_is_used(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=tar({"in/big.h5": CONTENT}))
    (tmp_path / "all.tar.gz").write_bytes(site.content)
    (path,), _ = get(archived(site, {"in/big.h5": "big.h5"}), tmp_path)
    assert path.read_bytes() == CONTENT
    assert not site.seen
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "all.tar.gz").write_bytes(site.content[:-1])
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path / "other", "all.tar.gz", "expected", "not changed")


def test_an_archive_cannot_write_elsewhere(serve: Callable[..., Site], tmp_path: Path) -> None:
    """Absolute names, names with .., links: only regular files that are named, and only to their destination."""
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


def test_existing_files_are_not_overwritten_by_an_archive(serve: Callable[..., Site], tmp_path: Path) -> None:
    site = serve(content=tar({"in/big.h5": CONTENT}))
    (tmp_path / "big.h5").write_bytes(b"mine")
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path, "big.h5 exists", "not changed")
    assert not site.seen
    (tmp_path / "all.tar.gz").write_bytes(site.content)
    refused(archived(site, {"in/big.h5": "big.h5"}), tmp_path, "differs from the file in the archive", "not changed")
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


def test_archives_with_other_content_or_damage(serve: Callable[..., Site], tmp_path: Path) -> None:
    refused(archived(serve(content=tar({"x": b"x"})), {"in/big.h5": "big.h5"}), tmp_path, "does not contain in/big.h5")
    cut = serve(content=tar({"in/big.h5": CONTENT})[:-500_000])
    refused(archived(cut, {"in/big.h5": "big.h5"}), tmp_path / "b", "all.tar.gz is damaged", "fetch it again")
    assert names(tmp_path / "b") == ["all.tar.gz"]
    page = serve(content=gzip.compress(b"no archive"))
    refused(archived(page, {"in/big.h5": "big.h5"}), tmp_path / "c", "all.tar.gz is damaged")
