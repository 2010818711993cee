"""Files are whole or not there; a changed byte of an archive is noticed."""

import io
import resource
from pathlib import Path

import pytest
import torch

from hiphop_train import files
from hiphop_train.errors import StorageError


@pytest.fixture
def archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weights": torch.arange(50.0), "name": "water"}, buffer)
    return buffer.getvalue()


def test_a_sealed_archive_is_read_by_torch(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / "a.ckpt"
    files.write_bytes(path, files.seal(archive))
    assert files.damage(path) is None
    content = torch.load(path, weights_only=True)
    assert content["name"] == "water"
    torch.testing.assert_close(content["weights"], torch.arange(50.0))


def test_each_changed_byte_is_noticed(tmp_path: Path, archive: bytes) -> None:
    path, sealed = tmp_path / "a.ckpt", files.seal(archive)
    for position in range(0, len(sealed), 7):
        changed = bytearray(sealed)
        changed[position] ^= 1 << (position % 8)
        path.write_bytes(changed)
        assert files.damage(path) is not None, position


@pytest.mark.parametrize("length", [0, 1, 100, -71, -1])
def test_a_cut_archive_is_noticed(tmp_path: Path, archive: bytes, length: int) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(files.seal(archive)[:length])
    assert files.damage(path) is not None


def test_an_archive_of_earlier_versions_is_checked_by_its_own_checksums(tmp_path: Path, archive: bytes) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(archive)
    assert files.damage(path) is None
    position = archive.index(torch.arange(50.0).numpy().tobytes()) + 10
    path.write_bytes(archive[:position] + bytes([archive[position] ^ 1]) + archive[position + 1 :])
    assert "checksum of its member" in str(files.damage(path))
    assert "missing" in str(files.damage(tmp_path / "absent"))


def test_a_failure_leaves_the_earlier_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "before")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_previous_file_is_kept(tmp_path: Path) -> None:
    path, previous = tmp_path / "last", tmp_path / "previous"
    for text in ("1", "2", "3"):
        files.write_bytes(path, text.encode(), previous)
    assert (path.read_text(), previous.read_text()) == ("3", "2")
    assert sorted(tmp_path.iterdir()) == [path, previous]


def test_a_file_that_cannot_be_written_is_an_error_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    files.write_bytes(path, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # as a full disk; python ignores SIGXFSZ
    try:
        with pytest.raises(StorageError, match=r"a\.bin cannot be written \(File too large\); raise the limit"):
            files.write_bytes(path, b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(StorageError, match="No such file"):
        files.write_text(tmp_path / "absent" / "a", "")


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.pt.123.part").write_text("half")
    (tmp_path / "model.pt").write_text("whole")
    files.remove_partial(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]
