"""Files that ASE reads: databases are left as they are, and no column of an XYZ file is ignored silently."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect

from hiphop_train.errors import DataError
from tests.data.formats.layouts import make_reader

ROWS = {
    4: "H 0.0 0.0 0.0\nH 0.0 0.0 0.8\n",
    5: "H 0.0 0.0 0.0 0.1\nH 0.0 0.0 0.8 -0.1\n",
    7: "H 0.0 0.0 0.0 0.0 0.0 1.5\nH 0.0 0.0 0.8 0.0 0.0 -1.5\n",
}
DECLARED = "species:S:1:pos:R:3:forces:R:3"


def foreign(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("CREATE TABLE addresses (name TEXT, street TEXT)")
        connection.execute("INSERT INTO addresses VALUES ('somebody', 'somewhere')")
        connection.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("mode", ["delete", "wal"])
@pytest.mark.parametrize("name", ["a.db", "a b#1?mode=rwc&x%20.db"])
@pytest.mark.parametrize("format", [None, "db"])
def test_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, mode: str, name: str, format: str | None
) -> None:
    path = tmp_path / name
    foreign(path, mode)
    before = contents(tmp_path)
    with pytest.raises(DataError, match="is not an ASE database") as caught:
        make_reader("ase", path, format=format).read()
    assert str(path) in str(caught.value)
    assert "'systems'; present: addresses" in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", [b"", b"no database\n" * 100, b"SQLite format 3\0" + b"\xff" * 2000])
def test_files_that_are_not_databases_are_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.db"):
        make_reader("ase", path, format="db").read()
    assert contents(tmp_path) == {"a.db": content}


def test_database_of_ase_is_read_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with connect(path) as database:
        for k in range(5):
            atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.7 + 0.1 * k]])
            atoms.calc = SinglePointCalculator(atoms, energy=-k, forces=[[0, 0, k], [0, 0, -k]])
            database.write(atoms)
    before = contents(tmp_path)
    structures = make_reader("ase", path).read()
    np.testing.assert_array_equal(structures.energy, -np.arange(5.0))
    np.testing.assert_array_equal(structures.forces[::2, 2], np.arange(5.0))
    assert structures.has_forces.all()
    assert contents(tmp_path) == before


@pytest.mark.parametrize("layout", ["extxyz", "ase"])
@pytest.mark.parametrize(
    ("comment", "columns", "words"),
    [
        ("energy=-1.0", 7, ["without Properties=", f"Properties={DECLARED}"]),
        ("", 7, ["without Properties=", f"Properties={DECLARED}"]),
        ("Properties=species:S:1:pos:R:3 energy=-1.0", 7, ["declares 4", f"Properties={DECLARED}"]),
        ("energy=-1.0", 5, ["without Properties=", "Properties=species:S:1:pos:R:3:NAME:R:1"]),
        (f"Properties={DECLARED} energy=-1.0", 4, ["has 4 columns", "declares 7"]),
    ],
)
def test_columns_that_nobody_declared_are_refused(
    tmp_path: Path, layout: str, comment: str, columns: int, words: list[str]
) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\nProperties={DECLARED} energy=-1.0\n{ROWS[7]}2\n{comment}\n{ROWS[columns]}")
    with pytest.raises(DataError) as caught:
        make_reader(layout, path).read()
    for word in [f"{path}, structure 1: atom 0 has {columns} columns", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize("declaration", [f"Properties={DECLARED}", f'Properties = "{DECLARED}"'])
def test_declared_forces_are_read_as_ase_writes_and_reads_them(tmp_path: Path, declaration: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\n{declaration} energy=-1.0\n{ROWS[7]}")
    np.testing.assert_array_equal(make_reader("extxyz", path).read().forces[:, 2], [1.5, -1.5])


def test_plain_xyz_is_read_with_an_energy_and_refused_without(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(f"2\nenergy=-1.0\n{ROWS[4]}")
    structures = make_reader("extxyz", path).read()
    assert structures.energy.tolist() == [-1.0]
    assert not structures.has_forces.any()
    path.write_text(f"2\na comment\n{ROWS[4]}")
    with pytest.raises(DataError, match="no structure has an energy or forces"):
        make_reader("extxyz", path).read()
