"""The same molecules are read from every layout, and each quirk of the published files occurs."""

import inspect
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from hiphop_train.data.checks.label_statistics import label_statistics
from hiphop_train.data.checks.labels import check_labels
from hiphop_train.data.formats import base as reading
from hiphop_train.data.formats.collector import Factors
from hiphop_train.data.formats.qm9 import QM9Reader
from hiphop_train.data.formats.spice import total_charge
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from tests.data.formats.layouts import (
    HARTREE,
    KCAL,
    WITHOUT_FORCES,
    WRITERS,
    Molecule,
    by_atoms,
    given_to,
    make,
    make_reader,
    molecules,
    qm9_texts,
)

LAYOUTS = sorted(WRITERS)


def rows(structures: Structures) -> list[tuple[Any, ...]]:
    """Each structure's atoms, positions, energy and forces, in an order that does not depend on the file's."""
    listed = []
    for k in range(len(structures)):
        atoms = slice(structures.offsets[k], structures.offsets[k + 1])
        numbers, x, f = structures.numbers[atoms], structures.positions[atoms], structures.forces[atoms]
        listed.append((tuple(numbers.tolist()), x, structures.energy[k], f))
    return sorted(listed, key=lambda row: (row[0], row[2]))


def same(structures: Structures, given: list[Molecule], forces: bool = True) -> None:
    """Compare with what was written, to 1e-6 eV and Angstrom."""
    expected = [(tuple(m.numbers.tolist()), *row) for m in given for row in zip(*m[2:], strict=True)]
    found = rows(structures)
    assert len(found) == len(expected)
    for one, other in zip(found, sorted(expected, key=lambda row: (row[0], row[2])), strict=True):
        assert one[0] == other[0]
        np.testing.assert_allclose(one[1], other[1], rtol=0, atol=1e-6)
        np.testing.assert_allclose(one[2], other[2], rtol=0, atol=1e-6)
        if forces:
            np.testing.assert_allclose(one[3], other[3], rtol=0, atol=1e-6)
    assert structures.has_energy.all()
    assert (structures.has_forces == forces).all()
    assert not structures.pbc.any()


def refused(reader: Any, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        reader.read()
    for word in words:
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_molecules_are_read_from_every_layout(tmp_path: Path, layout: str) -> None:
    given = given_to(layout)
    structures = make_reader(layout, WRITERS[layout](tmp_path, given)).read()
    same(structures, given, layout not in WITHOUT_FORCES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_do_not_change_what_is_read(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However small the blocks; skipped ones do not change the running numbers."""
    given = given_to(layout, 10)
    reader = make_reader(layout, WRITERS[layout](tmp_path, given))
    whole = reader.read()
    monkeypatch.setattr(reading, "BLOCK_ATOMS", 15)
    monkeypatch.setattr("hiphop_train.data.formats.ase_files.BLOCK_ATOMS", 15)
    monkeypatch.setattr("hiphop_train.data.formats.qm9.BLOCK_MOLECULES", 3)
    same(reader.read(), given, layout not in WITHOUT_FORCES)
    every_second = [block() for k, block in enumerate(reader.blocks()) if k % 2]
    where = dict(zip(whole.conformation.tolist(), whole.energy.tolist(), strict=True))
    for part in every_second:
        assert part is not None
        assert [where[k] for k in part.conformation.tolist()] == part.energy.tolist()


@pytest.mark.parametrize("layout", sorted(set(LAYOUTS) - set(WITHOUT_FORCES)))
def test_the_sign_is_declared_as_it_is(tmp_path: Path, layout: str) -> None:
    path = WRITERS[layout](tmp_path, given_to(layout, 40))
    reader = make_reader(layout, path)
    assert check_labels(reader.read()).bond_correlation < -0.3
    factors = reader.factors
    reader.factors = Factors(factors.length, {**factors.labels, "forces": -factors.labels["forces"]})
    with pytest.raises(DataError, match="opposite sign"):
        check_labels(reader.read())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_units_must_be_declared(tmp_path: Path, layout: str) -> None:
    reader = type(make_reader(layout, tmp_path / "x"))
    for name in ("energy_unit", "length_unit") if layout in WITHOUT_FORCES else ("energy_unit", "force_sign"):
        assert inspect.signature(reader).parameters[name].default is inspect.Parameter.empty


def test_ani1_high_energy_conformers_on_demand(tmp_path: Path) -> None:
    given = molecules()
    path = WRITERS["ani1"](tmp_path, given)
    structures = make_reader("ani1", path, high_energy=True).read()
    high = [m._replace(positions=m.positions[:2] * 1.5, energy=m.energy[:2] + 0.5 * HARTREE) for m in given]
    both = [
        m._replace(
            positions=np.concatenate([m.positions, h.positions]),
            energy=np.concatenate([m.energy, h.energy]),
            forces=np.zeros((len(m.energy) + 2, len(m.numbers), 3)),
        )
        for m, h in zip(given, high, strict=True)
    ]
    same(structures, both, forces=False)
    assert structures.group_names == tuple(f"gdb11_s01-{k}" for k in range(len(given)))
    with h5py.File(path, "a") as file:
        del file["gdb11_s01/gdb11_s01-1/energiesHE"]
    refused(make_reader("ani1", path, high_energy=True), str(path), "gdb11_s01-1", "'energiesHE'")


def test_all_named_files_are_needed_once(tmp_path: Path) -> None:
    path = WRITERS["ani1"](tmp_path, molecules())
    both = make_reader("ani1", path, names=["ani_gdb_s01.h5", "ani_gdb_s02.h5"])
    refused(both, "does not contain ani_gdb_s02.h5", "data.root=", "hiphop-data download ani1")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    refused(make_reader("ani1", path, root=str(tmp_path)), "2 times", "data.root=")


def test_ani2x_formulas_are_groups_in_both_layouts(tmp_path: Path) -> None:
    """Groups of the file are atom counts, mixed; three files instead of one are read as one."""
    given = molecules()
    structures = make_reader("ani2x", WRITERS["ani2x"](tmp_path, given)).read()
    assert sorted(structures.group_names) == ["CH3Cl", "CH4", "H2O", "HF", "N2"]
    for k in range(len(structures)):
        atoms = structures.numbers[structures.offsets[k] : structures.offsets[k + 1]]
        assert reading.hill_formula(atoms) == structures.group_names[structures.group[k]]
    names = ["ANI-1x-wB97X-631Gd.h5", "ANI-2x_heavy-wB97X-631Gd.h5"]
    for name, part in zip(names, (given[:2], given[2:]), strict=True):
        with h5py.File(by_atoms(tmp_path / "b" / name, part, comp6=False), "a") as file:
            file.attrs["grouping"] = "by_num_atoms"
    parts = make_reader("ani2x", tmp_path / "b" / names[0], names=names).read()
    same(parts, given)
    assert parts.subset_names == tuple(names)


def test_ani2x_energies_only(tmp_path: Path) -> None:
    path = WRITERS["ani2x"](tmp_path, molecules())
    with h5py.File(path, "a") as file:
        for group in file.values():
            del group["forces"]
    refused(make_reader("ani2x", path), "group /002", "'forces'")
    same(make_reader("ani2x", path, forces=False).read(), molecules(), forces=False)


@pytest.mark.parametrize(
    ("smiles", "charge"),
    [("C", 0), ("[NH4+]", 1), ("[O-]C=O", -1), ("[Ca+2].[Cl-:3]", 1), ("[Fe++]", 2), ("[C@@H:1]([H:2])[O--:4]", -2)],
)
def test_total_charge(smiles: str, charge: int) -> None:
    assert total_charge(smiles) == charge


def test_spice_leaves_charged_molecules_out_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = molecules()
    path = WRITERS["spice"](tmp_path, given)
    structures = make_reader("spice", path).read()
    assert "1 charged molecules (4 conformations) are skipped" in capsys.readouterr().out
    assert structures.subset_names == ("A part",)
    assert set(structures.group_names) == {m.name for m in given}
    kept = make_reader("spice", path, data={"charged": True}).read()
    assert set(kept.group_names) == {"ION", *(m.name for m in given)}
    assert capsys.readouterr().out == ""


def test_spice_refuses_units_that_contradict(tmp_path: Path) -> None:
    path = WRITERS["spice"](tmp_path, molecules())
    refused(make_reader("spice", path, length_unit="angstrom"), "CH3Cl", "'conformations'", "bohr", "angstrom")
    with h5py.File(path, "a") as file:
        file["H2O/dft_total_gradient"].attrs["units"] = "hartree/angstrom"
    refused(make_reader("spice", path), "/H2O", "'dft_total_gradient'", "hartree/angstrom", "hartree/bohr")


def test_transition1x_splits_and_ends(tmp_path: Path) -> None:
    """The published splits are the subsets; ends count once; `data` is not read."""
    structures = make_reader("transition1x", WRITERS["transition1x"](tmp_path, molecules())).read()
    assert structures.subset_names == ("train", "val", "test")
    names = {
        (structures.subset_names[s], structures.group_names[g])
        for s, g in zip(structures.subset, structures.group, strict=True)
    }
    assert ("val", "H2O/rxn0000") in names
    assert len(names) == 5
    assert np.bincount(structures.group).tolist() == [4] * 5
    refused(make_reader("transition1x", tmp_path / "Transition1x.h5", subsets=["tran"]), "'tran'", "did you mean")


def test_npz_with_pickled_objects_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    m = make("CH4", 3, 0)
    np.savez(path, z=m.numbers, R=np.array([{"x": 1}], object), E=m.energy, F=m.forces)
    refused(make_reader("md17", path), str(path), "'R'", "object")


def test_npz_in_column_order_and_with_a_test(tmp_path: Path) -> None:
    given = given_to("md17")
    path = WRITERS["md17"](tmp_path, given)
    (m,) = given
    other = tmp_path / "test.npz"
    np.savez(other, z=m.numbers, R=np.asfortranarray(m.positions), E=m.energy / KCAL, F=m.forces / KCAL)
    structures = make_reader("md17", path, test_path=str(other)).read()
    same(structures.take(np.flatnonzero(structures.subset == 1)), given)
    assert structures.subset_names == ("train", "test")


def test_qm9_folder_property_and_exclusion(tmp_path: Path) -> None:
    given = molecules()
    for name, text in qm9_texts(given).items():
        (tmp_path / name).write_text(text)
    same(make_reader("qm9", tmp_path).read(), given, forces=False)
    listing = tmp_path / "uncharacterized.txt"
    listing.write_text(
        "Index  SMILES\n\n    2  C  C\n   13  O O\n\n2 compounds\n".replace("2 compounds", "3054 compounds")
    )
    structures = make_reader("qm9", tmp_path, exclude=str(listing)).read()
    assert len(structures) == 18
    assert not {"gdb 2", "gdb 13"} & set(structures.group_names)
    gap = QM9Reader(str(tmp_path), "G", "hartree", "angstrom", None).read()
    np.testing.assert_allclose(gap.energy, -2.5e-3 * HARTREE)


def test_qm7_folds(tmp_path: Path) -> None:
    path = WRITERS["qm7"](tmp_path, molecules())
    structures = make_reader("qm7", path, test_fold=2).read()
    test = structures.conformation[structures.subset == 1]
    assert structures.subset_names == ("train", "test")
    assert test.tolist() == [2, 7, 12, 17]


def test_ase_reads_other_formats_by_pattern(tmp_path: Path) -> None:
    """Labels from the calculator, several files, none of them extended XYZ."""
    given = molecules()
    for m in given:
        frames = []
        for x, e, f in zip(m.positions, m.energy, m.forces, strict=True):
            atoms = Atoms(m.numbers, x)
            atoms.calc = SinglePointCalculator(atoms, energy=e, forces=f)
            frames.append(atoms)
        write(tmp_path / f"{m.name}@1.traj", frames)
    same(make_reader("ase", tmp_path / "*.traj").read(), given)
    listed = [str(tmp_path / f"{m.name}@1.traj") for m in given]
    same(make_reader("ase", tmp_path, data={"path": listed}, format="traj").read(), given)
    refused(make_reader("ase", tmp_path / "*.xyz"), "*.xyz does not exist", "data.path=")
    refused(make_reader("ase", tmp_path, data={"path": [listed[0]] * 2}), "twice")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"pos:R:3", "pot:R:3", ["structure 0", "no positions"]),
        (r"\n5\n", "\n\n5\n", ["after structure", "empty line"]),
        (r"\n$", "", ["the last line has no line break"]),
        (r"\n$", " 1.0\n", ["structure 19", "8 columns"]),
        (r"^5\n", "1000000000000\n", ["structure 0", "of 1000000000000 atoms"]),
        (r"energy=\S+", "energy=T", ["structure 0", "expected a number"]),
        (r"energy=\S+", 'energy="1 2"', ["structure 0", "expected a number"]),
    ],
)
def test_extxyz_traps(tmp_path: Path, old: str, new: str, words: list[str]) -> None:
    """What ASE would ignore, accept or turn into numbers."""
    path = WRITERS["extxyz"](tmp_path, molecules())
    path.write_text(re.sub(old, new, path.read_text(), count=1))
    refused(make_reader("extxyz", path), str(path), *words)


REAL = [
    ("ani1x", "formats/ani1_n5.hdf5", {}, 8, None),
    ("ani2x", "formats/ani2x_minimal.hdf5", {"names": ["ani2x_minimal.hdf5"]}, 5706, 11412),
    ("comp6", "comp6/s66x8_wb97x6-31gd.h5", {}, 528, 10512),
    ("spice", "formats/SPICE-1.1.4_n2.hdf5", {"charged": True}, 55, 50 * 27 + 5 * 5),
    ("extxyz", "extxyz/ethanol_train.xyz", {}, 1000, 9000),
]


@pytest.mark.parametrize(("layout", "file", "changes", "count", "atoms"), REAL, ids=[file for _, file, *_ in REAL])
def test_real_files(
    shared: Path, layout: str, file: str, changes: dict[str, Any], count: int, atoms: int | None
) -> None:
    """Counts, and forces that agree with bond lengths, or with energy differences, as declared."""
    path = shared / "data" / file
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    structures = make_reader(layout, path, **changes).read()
    assert len(structures) == count
    assert atoms is None or len(structures.numbers) == atoms
    report = label_statistics(structures)
    assert 0.8 < report.bond_ratio < 1.2
    assert (
        (report.work_correlation > 0.8) if report.n_neighbours >= 10 and count != 1000 else report.bond_correlation < 0
    )
    if layout == "spice":
        refused(make_reader(layout, path), "2 charged molecules (55 conformations)", "none are left")
