"""Damaged heaps of texts are refused, in time, and sound ones of any shape are read."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hiphop_train.data.formats.hdf5 import hdf5_errors, open_hdf5
from hiphop_train.data.formats.hdf5_heaps import MAGIC, GuardedFile
from hiphop_train.errors import DataError
from tests.data.formats import fuzz
from tests.data.formats.layouts import given_to, write_spice


def read_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Read in a process of its own: a loop inside libhdf5 would hold up the tests themselves."""
    monkeypatch.setattr(fuzz, "TIMEOUT", 15.0)  # most of it is for imports
    worker = fuzz.Worker()
    try:
        return worker.read("spice", path)
    finally:
        worker.close()


@pytest.mark.parametrize(
    ("number", "told"),
    [(3118, "string heap at byte 2448 is damaged"), (4006, "string heap at byte 2448 is damaged"), (3082, "")],
)
def test_files_that_hung_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, told: str) -> None:
    """Those of the campaign: two looped for ever; of the third, a text of 1.09 GB is not in the file."""
    path = write_spice(tmp_path, given_to("spice"))
    fuzz.damage_by_number(path, "spice", 0, number)
    answer = read_elsewhere(path, monkeypatch)
    assert answer["outcome"] == ("memory" if number == 3082 else "refused"), answer
    assert str(path) in answer["detail"]
    assert told in answer["detail"]
    assert "fetch it again" in answer["detail"]


def test_heaps_with_marks_in_reserved_bytes_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libhdf5 does not look at these bytes, and would loop."""
    path = write_spice(tmp_path, given_to("spice"))
    content = bytearray(path.read_bytes())
    start = content.index(MAGIC)
    content[start + 5] = 1
    content[start + 504 : start + 600] = bytes(96)
    path.write_bytes(content)
    answer = read_elsewhere(path, monkeypatch)
    assert answer["outcome"] == "refused", answer
    assert f"string heap at byte {start} is damaged" in answer["detail"]


def write_texts(path: Path, texts: list[str], version: str, width: int, user_block: int) -> None:
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_sizes(8, width)
    creation.set_userblock(user_block)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    bound = {"earliest": h5py.h5f.LIBVER_EARLIEST, "v110": h5py.h5f.LIBVER_V110}[version]
    access.set_libver_bounds(bound, h5py.h5f.LIBVER_LATEST)
    with h5py.File(h5py.h5f.create(bytes(path), h5py.h5f.ACC_TRUNC, creation, access)) as file:
        file.create_dataset("texts", data=texts, dtype=h5py.string_dtype())
        file["texts"].attrs["units"] = "bohr"


@pytest.mark.parametrize("version", ["earliest", "v110"])
@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("user_block", [0, 512])
def test_sound_heaps_are_read(tmp_path: Path, version: str, width: int, user_block: int) -> None:
    """Several heaps, one larger than libhdf5 reads at first, texts of every length, old and new files."""
    texts = ["x" * size for size in range(300)] + ["y" * 100_000, "GCOL\x01", "é"]
    path = tmp_path / "texts.h5"
    write_texts(path, texts, version, width, user_block)
    assert path.read_bytes().count(MAGIC) > 1
    with open_hdf5(path) as file:
        assert file.id.get_create_plist().get_sizes() == (8, width)
        assert file["texts"].asstr()[:].tolist() == texts
        assert file["texts"].attrs["units"] == "bohr"


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (16 + 8, 2**64 - 16, "is damaged at byte"),  # the step leads back
        (16 + 8, 5000, "is damaged at byte"),  # beyond the heap
        (8, 2**40, "ends beyond the file"),
        (8, 0, None),  # libhdf5 sees that itself
    ],
)
def test_damaged_lengths_are_refused(tmp_path: Path, place: int, value: int, told: str | None) -> None:
    path = tmp_path / "texts.h5"
    write_texts(path, ["abc"], "earliest", 8, 0)
    content = bytearray(path.read_bytes())
    start = content.index(MAGIC) + place
    content[start : start + 8] = value.to_bytes(8, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=told) as caught, open_hdf5(path) as file, hdf5_errors(path):
        file["texts"][:]
    assert str(path) in str(caught.value)


def test_file_that_is_being_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "texts.h5"
    program = (
        "import h5py, sys; file = h5py.File(sys.argv[1], 'w'); file['x'] = 1; file.flush(); print(flush=True); input()"
    )
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdin is not None
        writer.stdout.readline()
        with pytest.raises(DataError, match="unable to lock"), open_hdf5(path):
            pass
        writer.communicate(b"\n", timeout=30)
    with open_hdf5(path) as file:
        assert file["x"][()] == 1


def test_bytes_beyond_the_end_are_zero(tmp_path: Path) -> None:
    """As in libhdf5's own driver, rather than whatever was in memory."""
    path = tmp_path / "short"
    path.write_bytes(b"abc")
    buffer = np.full(5, 7, np.uint8)
    with GuardedFile(path) as file:
        assert file.readinto(buffer) == 3
    assert bytes(buffer) == b"abc\0\0"
