"""Packed sets equal their sources, are made once and completely, and damage is noticed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hiphop_train.data.formats.ani2x import ANI2xReader
from hiphop_train.data.formats.base import Block, Reader
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.formats.packed_set import PackedReader
from hiphop_train.data.store import open_data as loading
from hiphop_train.data.store import pack as packing
from hiphop_train.data.store.fingerprint import fingerprint
from hiphop_train.data.store.layout import open_packed, verify
from hiphop_train.data.store.pack import identity, pack
from hiphop_train.data.structures import PER_ATOM, PER_STRUCTURE, Structures, concatenate
from hiphop_train.errors import DataError
from hiphop_train.units import BOHR, HARTREE


@dataclass
class MadeUp(Reader):
    """Blocks of random structures, later ones periodic and with stress; number k depends on k alone.

    Optionally kills its process, or waits.
    """

    file: Path
    n_blocks: int = 12
    exact: bool = True
    periodic_from: int = 5
    stress_from: int = 7
    kill_at: int = -1
    seconds: float = 0.0

    def files(self) -> list[Path]:
        return [self.file]

    def blocks(self) -> Iterator[Block]:
        for k in range(self.n_blocks):
            yield partial(self.block, k)

    def block(self, k: int) -> Structures | None:
        time.sleep(self.seconds)
        if k == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if k == 3:
            return None
        rng = np.random.default_rng(k)
        found = Collector(str(self.file), first=100 * k)
        for name, numbers in (("water", [8, 1, 1]), (f"other{k % 2}", [6, 1, 1, 1, 1])):
            n = 5 + k
            positions = rng.normal(size=(n, len(numbers), 3))
            if self.exact:
                positions = positions.astype(np.float32)
            forces = rng.normal(size=positions.shape)
            forces[1] = np.nan
            cell = np.tile(9.0 * np.eye(3), (n, 1, 1)) if k >= self.periodic_from else None
            pbc = None if cell is None else np.ones((n, 3), np.bool_)
            labels = {"energy": rng.normal(size=n), "forces": forces}
            if k >= self.stress_from:
                labels |= {"stress": rng.normal(size=(n, 3, 3)), "dipole": rng.normal(size=(n, 3))}
                labels["stress"][2] = np.nan
            found.add(name, np.array(numbers), positions, labels, cell, pbc, theory=f"level{k // 6}")
        return found.finish(f"part{k // 5}")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "source.h5"
    file.write_text("made up")
    return file


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK_ATOMS", 150)


def assert_same(packed: Structures, read: Structures) -> None:
    np.testing.assert_array_equal(packed.offsets, read.offsets)
    assert (packed.group_names, packed.subset_names, packed.theory_names) == (
        read.group_names,
        read.subset_names,
        read.theory_names,
    )
    for name in (*PER_ATOM, *PER_STRUCTURE):
        np.testing.assert_array_equal(getattr(packed, name), getattr(read, name), err_msg=name)
    assert packed.labels.keys() == read.labels.keys()
    for key, expected in read.labels.items():
        expected = expected.astype(np.float32) if key == "forces" else expected
        np.testing.assert_array_equal(packed.labels[key], expected, err_msg=key)


@pytest.mark.parametrize("exact", [True, False], ids=["float32", "float64"])
@pytest.mark.parametrize("periodic_from", [0, 7, 1000], ids=["periodic", "later periodic", "open"])
def test_a_packed_set_equals_its_source(source: Path, tmp_path: Path, exact: bool, periodic_from: int) -> None:
    reader = MadeUp(source, exact=exact, periodic_from=periodic_from)
    counts: list[int] = []
    packed = pack(reader, tmp_path / "set.packed", counts.append)
    read = reader.read()
    assert_same(packed.structures, read)
    assert len(packed.meta["chunks"]) > 3
    assert packed.structures.positions.dtype == (np.float32 if exact else np.float64)
    assert isinstance(packed.structures.positions, np.memmap)
    assert not exact or sum(counts) == len(read)
    assert packed.fingerprint == fingerprint(read) == fingerprint(packed.structures)
    assert {path.name for path in tmp_path.iterdir()} - {"set.packed.lock"} == {"source.h5", "set.packed"}
    verify(tmp_path / "set.packed", counts.append)
    index = np.array([100, 3, 57, 3])
    assert_same(packed.structures.take(index), read.take(index))


@pytest.mark.parametrize("stress_from", [0, 7], ids=["all", "later blocks"])
def test_stress_and_dipole_are_packed_as_they_are(source: Path, tmp_path: Path, stress_from: int) -> None:
    reader = MadeUp(source, periodic_from=0, stress_from=stress_from)
    packed = pack(reader, tmp_path / "set.packed")
    read = reader.read()
    assert {"stress", "dipole"} < read.labels.keys()
    assert_same(packed.structures, read)
    np.testing.assert_array_equal(packed.structures.has("stress"), read.has("stress"))
    assert isinstance(packed.structures.labels["stress"], np.memmap)
    without = replace(read, labels={key: read.labels[key] for key in ("energy", "forces")})
    assert packed.fingerprint == fingerprint(read) == fingerprint(without)
    verify(tmp_path / "set.packed")
    blocks = list(packed.structures.blocks(7))
    assert_same(concatenate(blocks, "again"), read)


def test_a_set_packed_by_version_1_opens() -> None:
    folder = Path(__file__).parent / "version1.packed"
    packed = verify(folder)
    structures = packed.structures
    assert packed.meta["version"] == 1
    assert packed.fingerprint == fingerprint(structures) == "0e9c6b8d66bd74b6"
    assert structures.theory_names == ("low", "high")
    assert structures.theory.tolist() == [0, 0, 0, 1, 1, 1]
    assert structures.has_energy.tolist() == [True, True, False] * 2
    assert structures.has_forces.tolist() == [True, False, True] * 2
    assert structures.has_forces.tolist() == np.fromfile(folder / "has_forces.bin", "?").tolist()
    assert structures.labels.keys() == {"energy", "forces"}
    assert structures.energy[0] == pytest.approx(-1.2883614637495544, abs=1e-15)


def test_what_a_set_is_made_of_is_named_as_by_version_1(tmp_path: Path) -> None:
    """So that data sets are not packed again."""
    (tmp_path / "a.h5").write_text("")
    reader = ANI2xReader(str(tmp_path), ["a.h5"], "hartree", "bohr", "gradient", download="somehow")
    assert identity(reader)["settings"] == {
        "root": str(tmp_path),
        "names": ["a.h5"],
        "energy_factor": HARTREE,
        "length_factor": BOHR,
        "force_factor": -HARTREE / BOHR,
        "forces": True,
    }


def test_fingerprint_changes_with_any_label_or_geometry(source: Path) -> None:
    read = MadeUp(source).read()
    before = fingerprint(read)
    for name in ("numbers", "positions", "energy", "forces"):
        array = getattr(read, name).copy()
        array[40] += 1
        changed = read.with_labels(**{name: array}) if name in read.labels else replace(read, **{name: array})
        assert fingerprint(changed) != before


def test_packing_happens_once(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.packed"
    pack(MadeUp(source), folder)
    times = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    pack(MadeUp(source), folder)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_a_set_of_other_settings_or_another_folder_is_not_overwritten(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.packed"
    pack(MadeUp(source), folder)
    with pytest.raises(DataError, match=r"set\.packed was packed from other files or settings"):
        pack(MadeUp(source, exact=False), folder)
    source.write_text("changed since")
    with pytest.raises(DataError, match=r"set\.packed was packed from other files or settings"):
        pack(MadeUp(source), folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError, match="exists and is not a packed set"):
        pack(MadeUp(source), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from hiphop_train.data.store import pack as packing
packing.CHUNK_ATOMS = 150
from test_packing import MadeUp
source, folder, kill_at, seconds = sys.argv[2:]
reader = MadeUp(Path(source), kill_at=int(kill_at), seconds=float(seconds))
reader.__dict__["_kill_at"] = reader.__dict__.pop("kill_at")
MadeUp.kill_at = reader._kill_at
reader.__dict__["_seconds"] = reader.__dict__.pop("seconds")
MadeUp.seconds = reader._seconds
made = []
inner = MadeUp.block
MadeUp.block = lambda self, k: (made.append(k), inner(self, k))[1]
packing.pack(reader, Path(folder), say=lambda text: print(text, flush=True))
print("blocks", made)
"""


def start(source: Path, folder: Path, kill_at: int = -1, seconds: float = 0.0) -> subprocess.Popen[str]:
    """Pack in a process of its own; its settings of killing and waiting do not count as the reader's."""
    command = [sys.executable, "-c", CODE, str(Path(__file__).parent), str(source), str(folder)]
    return subprocess.Popen(
        [*command, str(kill_at), str(seconds)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_a_killed_packing_continues_where_it_stopped(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.packed"
    for kill_at in (0, 6, 10):
        killed = start(source, folder, kill_at)
        out = killed.communicate(timeout=60)[0]
        assert killed.returncode == -signal.SIGKILL, out
        assert not folder.exists()
    journal = tmp_path / "set.packed.partial" / "journal.jsonl"
    journal.write_text(journal.read_text() + '{"n_blocks": 11, "n_str')  # killed while it wrote
    with (tmp_path / "set.packed.partial" / "forces.bin").open("ab") as file:
        file.write(b"half a chunk")
    done = start(source, folder)
    out = done.communicate(timeout=60)[0]
    assert done.returncode == 0, out
    assert "resuming" in out
    blocks = json.loads(out.split("blocks ")[1])
    assert 0 < blocks[0] <= 10
    assert blocks[-1] == 11
    assert_same(verify(folder).structures, MadeUp(source).read())
    assert open_packed(folder).fingerprint == fingerprint(MadeUp(source).read())


def test_what_a_killed_packing_left_damaged_is_rebuilt(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.packed"
    start(source, folder, kill_at=10).communicate(timeout=60)
    file = tmp_path / "set.packed.partial" / "energy.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(bytes(content))
    out = start(source, folder).communicate(timeout=60)[0]
    assert "resuming" not in out
    assert_same(verify(folder).structures, MadeUp(source).read())


def test_of_several_processes_one_packs(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.packed"
    processes = [start(source, folder, seconds=0.15) for _ in range(3)]
    outs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outs
    assert sorted(len(json.loads(out.split("blocks ")[1])) for out in outs) == [0, 0, 12]
    assert_same(verify(folder).structures, MadeUp(source).read())


@pytest.mark.parametrize("name", ["positions", "forces", "energy", "numbers", "offsets", "group"])
def test_damage_is_found(source: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "set.packed"
    pack(MadeUp(source), folder)
    file = folder / f"{name}.bin"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    file.write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=rf"{name}\.bin differs from its checksum, in structures \d+ to \d+; remove"):
        verify(folder)
    for reader in (MadeUp(source), PackedReader(str(folder))):  # a start compares too
        with pytest.raises(DataError, match=rf"{name}\.bin differs from its checksum"):
            loading.read_or_map(reader, "always", str(folder))
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=rf"set\.packed is damaged: {name}\.bin has \d+ bytes, expected \d+"):
        open_packed(folder)
    file.unlink()
    with pytest.raises(DataError, match=rf"{name}\.bin has 0 bytes"):
        open_packed(folder)


@pytest.mark.parametrize(
    "change", [lambda t: t[:-9], lambda t: t.replace('"n_atoms": 9', '"n_atoms": 8'), lambda t: ""]
)
def test_damaged_meta_is_found(source: Path, tmp_path: Path, change: Callable[[str], str]) -> None:
    folder = tmp_path / "set.packed"
    meta = pack(MadeUp(source), folder).meta
    file = folder / "meta.json"
    text = file.read_text().replace(f'"n_atoms": {meta["n_atoms"]}', '"n_atoms": 9', 1)
    file.write_text(change(text))
    with pytest.raises(DataError, match=r"meta\.json cannot be read"):
        open_packed(folder)


def test_large_sources_are_packed_and_small_ones_are_not(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, checksum = loading.read_or_map(MadeUp(source))
    assert not list(tmp_path.glob("*.packed"))
    monkeypatch.setattr(loading, "PACK_FROM", 3)
    large, same = loading.read_or_map(MadeUp(source))
    (folder,) = tmp_path.glob("*.packed")
    assert folder.name.startswith("source-")
    assert checksum == same
    assert_same(large, small)
    assert isinstance(large.energy, np.memmap)
    loading.read_or_map(MadeUp(source, exact=False))
    assert len(list(tmp_path.glob("*.packed"))) == 2  # other settings of the reader have a folder of their own
    named, _ = loading.read_or_map(PackedReader(str(folder)))
    assert_same(named, small)
    assert_same(PackedReader(str(folder)).read(), large)
    with pytest.raises(DataError, match=r"is not a packed set.*hiphop-data pack"):
        loading.read_or_map(PackedReader(str(tmp_path)))


def test_a_folder_that_cannot_be_written_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"file/set\.packed cannot be written .*data\.pack=never"):
        pack(MadeUp(source), tmp_path / "file" / "set.packed")
