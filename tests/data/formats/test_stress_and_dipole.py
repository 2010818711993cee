"""Stress, virial and dipole are read from every form in which files contain them, in eV/Angstrom^3 and e Angstrom."""

from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.stress import full_3x3_to_voigt_6_stress

from hiphop_train.data.structures import Structures
from hiphop_train.errors import ConfigError, DataError
from tests.data.formats.layouts import make_reader

VOLUME = 60.0
STRESSES = np.array(
    [
        [[0.01, 0.002, -0.003], [0.002, -0.02, 0.004], [-0.003, 0.004, 0.03]],
        [[-0.05, 0.001, 0.006], [0.001, 0.02, -0.007], [0.006, -0.007, 0.008]],
    ]
)


def crystals(**info: Any) -> list[Atoms]:
    """Two structures in a box of 60 cubic Angstrom; a value of info is a list with one for each."""
    made = []
    for k in range(2):
        atoms = Atoms("NaCl", [[0, 0, 0], [1.5, 1.6, 1.7]], cell=[3.0, 4.0, 5.0], pbc=True)
        atoms.info |= {key: values[k] for key, values in info.items()}
        atoms.calc = SinglePointCalculator(atoms, energy=-3.0 - k, forces=np.ones((2, 3)))
        made.append(atoms)
    return made


def own(**results: Any) -> list[Atoms]:
    """Two structures with these results of a calculator."""
    made = crystals()
    for k, atoms in enumerate(made):
        atoms.calc.results |= {key: values[k] for key, values in results.items()}
    return made


def molecules(frames: list[Atoms]) -> list[Atoms]:
    """Make structures open, and return them."""
    for atoms in frames:
        atoms.pbc = False
        atoms.calc.atoms.pbc = False
    return frames


def read(path: Path, frames: list[Atoms], data: dict[str, Any] | None = None, **reader: Any) -> Structures:
    if path.suffix == ".db":
        with connect(path) as database:
            for atoms in frames:
                database.write(atoms)
    else:
        ase.io.write(path, frames)
    structures: Structures = make_reader("extxyz" if path.suffix == ".xyz" else "ase", path, data, **reader).read()
    return structures


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_stress_of_ase(tmp_path: Path, name: str) -> None:
    voigt = [full_3x3_to_voigt_6_stress(stress) for stress in STRESSES]
    structures = read(tmp_path / name, own(stress=voigt))
    np.testing.assert_allclose(structures.labels["stress"], STRESSES, rtol=1e-7)
    assert structures.has("stress").all()


@pytest.mark.parametrize(
    "form",
    [lambda s: s, lambda s: s.reshape(9), full_3x3_to_voigt_6_stress],
    ids=["3x3", "9", "6"],
)
@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("eV/angstrom^3", 1.0),
        ("GPa", units.GPa),
        ("kbar", 0.1 * units.GPa),
        ("bar", 1e-4 * units.GPa),
        ("hartree/bohr^3", units.Hartree / units.Bohr**3),
    ],
)
@pytest.mark.parametrize(("sign", "turn"), [("tension_positive", 1), ("compression_positive", -1)])
def test_named_stress(tmp_path: Path, form: Any, unit: str, factor: float, sign: str, turn: int) -> None:
    frames = crystals(REF_stress=[form(turn * stress / factor) for stress in STRESSES])
    data = {"stress_key": "REF_stress"}
    structures = read(tmp_path / "a.xyz", frames, data, stress_unit=unit, stress_sign=sign)
    np.testing.assert_allclose(structures.labels["stress"], STRESSES, rtol=1e-6)


@pytest.mark.parametrize("name", ["virial", "REF_virials"])
def test_virial(tmp_path: Path, name: str) -> None:
    frames = crystals(**{name: [-VOLUME * stress for stress in STRESSES]})
    data = {"virial_key": name}
    np.testing.assert_allclose(read(tmp_path / "a.xyz", frames, data).labels["stress"], STRESSES, rtol=1e-6)
    frames = crystals(**{name: [-VOLUME * stress * units.mol / units.kcal for stress in STRESSES]})
    found = read(tmp_path / "b.xyz", frames, data, virial_unit="kcal/mol").labels["stress"]
    np.testing.assert_allclose(found, STRESSES, rtol=1e-6)


def test_virial_in_a_box_in_bohr(tmp_path: Path) -> None:
    frames = crystals(virial=[-VOLUME * units.Bohr**3 * stress for stress in STRESSES])
    found = read(tmp_path / "a.xyz", frames, {"virial_key": "virial"}, length_unit="bohr").labels["stress"]
    np.testing.assert_allclose(found, STRESSES, rtol=1e-6)


def test_stress_may_be_missing_in_some_and_means_nothing_where_not_periodic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = own(stress=list(STRESSES))
    slab, without = frames[1].copy(), crystals()[0]
    slab.pbc = [True, True, False]
    slab.calc = SinglePointCalculator(slab, energy=-3.0, stress=np.ones(6))
    structures = read(tmp_path / "a.traj", [frames[0], slab, without])
    assert structures.has("stress").tolist() == [True, False, False]
    assert np.isnan(structures.labels["stress"][1:]).all()
    assert "1 structures are not periodic in three directions; their stress is ignored" in capsys.readouterr().out
    cut = structures.take(np.array([2, 0]))
    np.testing.assert_array_equal(cut.labels["stress"][1], STRESSES[0])
    assert cut.has("stress").tolist() == [False, True]
    assert "stress" not in read(tmp_path / "b.traj", crystals()).labels
    assert "stress" not in make_reader("ase", tmp_path / "a.traj", {"stress_key": False}).read().labels
    assert "stress" not in make_reader("ase", tmp_path / "a.traj", ignore_cell=True).read().labels


def refused(reader: Any, *words: str) -> None:
    with pytest.raises(DataError) as caught:
        reader.read()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_refused_stresses(tmp_path: Path) -> None:
    skew = STRESSES.copy()
    skew[1, 0, 1] += 0.01
    path = tmp_path / "a.xyz"
    ase.io.write(path, crystals(REF_stress=skew, REF_virial=skew, short=np.ones((2, 5)), word=["much", "more"]))
    words = f"{path}, structure 1: stress is not symmetric", "data.stress_key=false"
    refused(make_reader("extxyz", path, {"stress_key": "REF_stress"}), *words)
    refused(make_reader("extxyz", path, {"virial_key": "REF_virial"}), "virial is not symmetric")
    refused(make_reader("extxyz", path, {"stress_key": "short"}), "structure 0", "shape (5,)", "xx yy zz yz xz xy")
    refused(make_reader("extxyz", path, {"stress_key": "word"}), "stress is 'much'; expected an array of numbers")
    refused(make_reader("extxyz", path, {"stress_key": "REF_stres"}), "data.stress_key=REF_stres", "'REF_stress'?")
    refused(
        make_reader("extxyz", path, {"virial_key": "virials"}), "no structure has virial under data.virial_key=virials"
    )
    refused(
        make_reader("extxyz", path, {"stress_key": "REF_stress"}, ignore_cell=True),
        "no structure has stress under data.stress_key=REF_stress; 2 structures are not periodic in three directions",
    )
    with pytest.raises(ConfigError, match=r"data\.stress_key=a and data\.virial_key=b.*give one of the two"):
        make_reader("extxyz", path, {"stress_key": "a", "virial_key": "b"})


def test_nine_components_of_which_ase_takes_six_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    ase.io.write(path, own(stress=[full_3x3_to_voigt_6_stress(stress) for stress in STRESSES]))
    text = path.read_text()
    assert 'stress="0.01 0.002 ' in text
    path.write_text(text.replace('stress="0.01 0.002 ', 'stress="0.01 0.009 '))
    refused(make_reader("extxyz", path), f"{path}, structure 0: stress is not symmetric")


DIPOLES = np.array([[0.1, -0.2, 0.3], [1.1, 0.0, -0.4]])


@pytest.mark.parametrize(("unit", "factor"), [("e*angstrom", 1.0), ("e*bohr", units.Bohr), ("debye", units.Debye)])
def test_dipole(tmp_path: Path, unit: str, factor: float) -> None:
    frames = molecules(crystals(REF_dipole=DIPOLES / factor))
    structures = read(tmp_path / "a.xyz", frames, {"dipole_key": "REF_dipole"}, dipole_unit=unit)
    np.testing.assert_allclose(structures.labels["dipole"], DIPOLES, rtol=1e-6)
    for k, name in enumerate(["b.xyz", "b.traj", "b.db"]):
        structures = read(tmp_path / name, molecules(own(dipole=DIPOLES / factor))[: 2 - k // 2], dipole_unit=unit)
        np.testing.assert_allclose(structures.labels["dipole"], DIPOLES[: len(structures)], rtol=1e-6)


def test_dipoles_of_crystals_are_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frames = own(dipole=DIPOLES)
    molecules(frames[1:])
    structures = read(tmp_path / "a.traj", frames)
    assert structures.has("dipole").tolist() == [False, True]
    assert "1 structures are periodic; their dipole is ignored" in capsys.readouterr().out
    reader = make_reader("ase", tmp_path / "a.traj", ignore_cell=True)
    assert reader.read().has("dipole").all()


def release(path: Path, dipole: np.ndarray | None) -> Path:
    """Write a file in the layout of ANI-1x: two formulas, dipoles in the first one alone."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, numbers in (("C1H4", [6, 1, 1, 1, 1]), ("H2O1", [8, 1, 1])):
            group = file.create_group(name)
            group["atomic_numbers"] = np.array(numbers, "u1")
            group["coordinates"] = rng.normal(size=(3, len(numbers), 3)).astype("f4")
            group["wb97x_dz.energy"] = np.array([-1.0, np.nan, -2.0])
            group["wb97x_dz.forces"] = rng.normal(size=(3, len(numbers), 3)).astype("f4")
            if name == "C1H4" and dipole is not None:
                group["wb97x_dz.dipole"] = dipole.astype("f4")
    return path


def ani1x(path: Path, **reader: Any) -> Any:
    levels = {"dz": {"energy": "wb97x_dz.energy", "forces": "wb97x_dz.forces", "dipole": "wb97x_dz.dipole"}}
    return make_reader("ani1x", path, **{"level": "dz", "levels": levels, **reader})


def test_dipoles_of_ani1x(tmp_path: Path) -> None:
    dipole = np.array([[0.5, 0.25, -1.0], [9.0, 9.0, 9.0], [np.nan] * 3])
    path = release(tmp_path / "a.h5", dipole)
    structures = ani1x(path).read()
    assert structures.has("dipole").tolist() == [True, False, False, False]
    np.testing.assert_array_equal(structures.labels["dipole"][0], dipole[0])
    assert "dipole" not in make_reader("ani1x", path).read().labels
    with pytest.raises(ConfigError, match=r"data\.reader\.dipole_unit must be given"):
        ani1x(path, dipole_unit=None)


def test_dipoles_that_are_requested_and_missing(tmp_path: Path) -> None:
    path = release(tmp_path / "a.h5", None)
    refused(ani1x(path), "all dipole labels under 'wb97x_dz.dipole' are missing", "data.reader.levels.dz.dipole=null")
    path = release(tmp_path / "b.h5", np.ones((3, 2)))
    refused(ani1x(path), f"{path}, group C1H4: dipole has shape (2, 2), but (2, 3) is expected")


def test_dipoles_of_the_release(shared: Path) -> None:
    path = shared / "data" / "formats" / "ani1_n5.hdf5"
    structures = ani1x(path).read()
    assert structures.has("dipole").sum() == 4
    levels = {"tz": {"energy": "wb97x_tz.energy", "forces": "wb97x_tz.forces", "dipole": "wb97x_tz.dipole"}}
    other = ani1x(path, level="tz", levels=levels).read()
    known = structures.has("dipole")
    difference = structures.labels["dipole"][known] - other.labels["dipole"][known]
    assert np.abs(difference).max() < 0.1  # another basis, the same molecules
