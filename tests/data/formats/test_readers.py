"""Every reader gives back labels in eV and true forces, exactly, and says what is wrong with a bad file."""

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.data.formats.ani1x import ANI1xReader
from hiphop_train.data.formats.ase_files import ASEReader
from hiphop_train.data.formats.comp6 import COMP6Reader
from hiphop_train.data.structures import Structures, concatenate
from hiphop_train.errors import DataError

EV = {"eV": 1.0, "hartree": 27.211386245988, "kcal/mol": 0.0433641042418, "kJ/mol": 0.01036426965, "meV": 1e-3}
ANGSTROM = {"angstrom": 1.0, "bohr": 0.529177210903}

MakeConformers = Callable[..., Any]


def write_ani1x(
    path: Path, groups: dict[str, Any], energy_unit: float = EV["hartree"], length_unit: float = 1.0
) -> Path:
    """Write the release layout, forces being forces, in other units than eV and Angstrom."""
    with h5py.File(path, "w") as file:
        for name, (numbers, positions, energy, forces) in groups.items():
            group = file.create_group(name)
            group["atomic_numbers"] = numbers.astype("u1")
            group["coordinates"] = positions / length_unit
            group["level.energy"] = energy / energy_unit
            group["level.forces"] = forces / energy_unit * length_unit
    return path


def ani1x(path: Path, **changes: Any) -> ANI1xReader:
    keys = {"energy": changes.pop("energy_key", "level.energy"), "forces": changes.pop("forces_key", "level.forces")}
    settings = {
        "path": str(path),
        "levels": {"level": keys},
        "level": "level",
        "energy_unit": "hartree",
        "length_unit": "angstrom",
        "force_sign": "force",
    }
    return ANI1xReader(**{**settings, **changes})


@pytest.fixture
def groups(make_conformers: MakeConformers) -> dict[str, Any]:
    """Two formulas, in the file's (alphabetic) order."""
    return {"C1H4": make_conformers("CH4", 5, seed=1), "H2O1": make_conformers("H2O", 4, seed=2)}


def assert_holds(structures: Structures, conformers: list[Any], relative: float = 1e-12) -> None:
    """Labels and geometry of all conformers, one group after another."""
    sizes = [len(c.numbers) for c in conformers for _ in c.energy]
    assert structures.sizes.tolist() == sizes
    assert structures.offsets.tolist() == [0, *np.cumsum(sizes)]
    np.testing.assert_array_equal(
        structures.numbers, np.concatenate([np.tile(c.numbers, len(c.energy)) for c in conformers])
    )
    for found, expected in [
        (structures.positions, np.concatenate([c.positions.reshape(-1, 3) for c in conformers])),
        (structures.energy, np.concatenate([c.energy for c in conformers])),
        (structures.forces, np.concatenate([c.forces.reshape(-1, 3) for c in conformers])),
    ]:
        np.testing.assert_allclose(found, expected, rtol=relative, atol=relative)


@pytest.mark.parametrize(("energy_unit", "length_unit"), list(itertools.product(EV, ANGSTROM)))
def test_ani1x_in_all_units(tmp_path: Path, groups: dict[str, Any], energy_unit: str, length_unit: str) -> None:
    path = write_ani1x(tmp_path / "a.h5", groups, EV[energy_unit], ANGSTROM[length_unit])
    structures = ani1x(path, energy_unit=energy_unit, length_unit=length_unit).read()
    assert_holds(structures, list(groups.values()), relative=1e-9)
    assert structures.group_names == ("C1H4", "H2O1")
    assert structures.group.tolist() == [0] * 5 + [1] * 4
    assert structures.subset_names == ("a.h5",)
    assert structures.energy.dtype == structures.forces.dtype == structures.positions.dtype == np.float64
    assert not structures.pbc.any()
    assert structures.has_energy.all()
    assert structures.has_forces.all()


def test_ani1x_in_the_release_types(tmp_path: Path, groups: dict[str, Any]) -> None:
    """Coordinates and forces are float32 in the release, energies float64."""
    path = write_ani1x(tmp_path / "a.h5", groups)
    with h5py.File(path, "a") as file:
        for group in file.values():
            for key in ("coordinates", "level.forces"):
                single = group[key][:].astype("f4")
                del group[key]
                group[key] = single
    structures = ani1x(path).read()
    np.testing.assert_array_equal(structures.positions[:25], groups["C1H4"].positions.reshape(-1, 3))
    rounded = (groups["C1H4"].forces / EV["hartree"]).astype("f4").astype("f8") * EV["hartree"]
    np.testing.assert_allclose(structures.forces[:25], rounded.reshape(-1, 3), rtol=1e-12)
    np.testing.assert_allclose(structures.energy[:5], groups["C1H4"].energy, rtol=1e-14)


def test_ani1x_gradients_become_forces(tmp_path: Path, groups: dict[str, Any]) -> None:
    gradients = {name: c._replace(forces=-c.forces) for name, c in groups.items()}
    structures = ani1x(write_ani1x(tmp_path / "a.h5", gradients), force_sign="gradient").read()
    assert_holds(structures, list(groups.values()))


def test_ani1x_leaves_out_what_has_no_energy_and_marks_what_has_no_forces(
    tmp_path: Path, groups: dict[str, Any]
) -> None:
    methane, water = groups["C1H4"], groups["H2O1"]
    for rows, array in [([1, 3], methane.energy), ([0, 1], methane.forces), (slice(None), water.energy)]:
        array[rows] = np.nan
    structures = ani1x(write_ani1x(tmp_path / "a.h5", groups)).read()
    assert len(structures) == 3
    np.testing.assert_allclose(structures.energy, methane.energy[[0, 2, 4]], rtol=1e-14)
    assert structures.has_forces.tolist() == [False, True, True]
    np.testing.assert_allclose(structures.forces[5:10], methane.forces[2], rtol=1e-12)
    assert set(structures.group_names) == {"C1H4"}


def test_ani1x_with_energies_only(tmp_path: Path, groups: dict[str, Any]) -> None:
    structures = ani1x(write_ani1x(tmp_path / "a.h5", groups), forces_key=None).read()
    assert np.isnan(structures.forces).all()
    assert structures.forces.shape == structures.positions.shape
    assert not structures.has_forces.any()


def test_ani1x_partly_missing_forces_are_refused(tmp_path: Path, groups: dict[str, Any]) -> None:
    groups["H2O1"].forces[2, 1, 0] = np.nan
    path = write_ani1x(tmp_path / "a.h5", groups)
    refused(ani1x(path).read, str(path), "group H2O1", "forces of conformation 2", "NaN")


def test_ani1x_without_any_forces_says_what_to_do(tmp_path: Path, groups: dict[str, Any]) -> None:
    for conformers in groups.values():
        conformers.forces[:] = np.nan
    path = write_ani1x(tmp_path / "a.h5", groups)
    refused(ani1x(path).read, str(path), "level.forces", "data.reader.levels.level.forces=null")


def test_ani1x_takes_molecules_from_a_list(tmp_path: Path, groups: dict[str, Any]) -> None:
    """A formula's conformers may be several molecules; the order stays the file's."""
    names = ["b", "a", "b", "a", "b", "w", "w", "w", "w"]
    listing = tmp_path / "groups.json"
    listing.write_text(json.dumps({"molecule": names}))
    path = write_ani1x(tmp_path / "a.h5", groups)
    structures = ani1x(path, groups_path=str(listing)).read()
    assert_holds(structures, list(groups.values()))
    assert [structures.group_names[k] for k in structures.group] == names
    listing.write_text(json.dumps({"molecule": names[:-1]}))
    refused(ani1x(path, groups_path=str(listing)).read, str(listing), "8", "9", "data.reader.groups_path=null")


@pytest.mark.parametrize("content", [None, "{", "{}", "[]", '{"molecule": 3}'], ids=repr)
def test_ani1x_bad_list_of_molecules(tmp_path: Path, groups: dict[str, Any], content: str | None) -> None:
    """Missing, not JSON, other JSON."""
    listing = tmp_path / "groups.json"
    if content is not None:
        listing.write_text(content)
    path = write_ani1x(tmp_path / "a.h5", groups)
    refused(ani1x(path, groups_path=str(listing)).read, str(listing))


def refused(read: Callable[[], object], *words: str) -> str:
    """Check that reading raises a `DataError` that contains all words, and return its message."""
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    for word in words:
        assert word in message, message
    return message


def test_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    path = tmp_path / "away.h5"
    reader = ani1x(path, download="curl -o {path} https://example.org")
    refused(reader.read, str(path), "does not exist", f"curl -o {path} https://example.org", "data.path=")
    refused(ani1x(tmp_path).read, str(tmp_path), "is a folder")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_truncated_hdf5(tmp_path: Path, groups: dict[str, Any], share: float) -> None:
    path = write_ani1x(tmp_path / "a.h5", groups)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(ani1x(path).read, str(path), "cannot be read as HDF5", "fetch it again")


def test_another_kind_of_file(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    path.write_text("<html>404 not found</html>\n" * 100)
    refused(ani1x(path).read, str(path), "another kind of file")


@pytest.mark.parametrize("key", ["energy_key", "forces_key"])
def test_missing_key_names_the_nearest(tmp_path: Path, groups: dict[str, Any], key: str) -> None:
    path = write_ani1x(tmp_path / "a.h5", groups)
    right = {"energy_key": "level.energy", "forces_key": "level.forces"}[key]
    reader = ani1x(path, **{key: right[:-1]})
    refused(
        reader.read,
        str(path),
        "group /C1H4",
        f"'{right[:-1]}'",
        f"data.reader.levels.level.{key[:-4]}",
        f"did you mean '{right}'",
    )


@pytest.mark.parametrize("key", ["atomic_numbers", "coordinates"])
def test_missing_geometry(tmp_path: Path, groups: dict[str, Any], key: str) -> None:
    path = write_ani1x(tmp_path / "a.h5", groups)
    with h5py.File(path, "a") as file:
        del file["H2O1"][key]
    refused(ani1x(path).read, str(path), "group /H2O1", key, "present: ")


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        pytest.param("coordinates", lambda a: a[:-1], ["'coordinates' 3", "'level.energy' 4"], id="fewer coordinates"),
        pytest.param("level.forces", lambda a: a[:-1], ["'level.forces' 3", "'level.energy' 4"], id="fewer forces"),
        pytest.param("level.energy", lambda a: a[:-1], ["'level.energy' 3"], id="fewer energies"),
        pytest.param("level.energy", lambda a: a[:, None], [], id="energies in a column"),
        pytest.param("level.energy", lambda a: a[0], [], id="one energy"),
        pytest.param("level.forces", lambda a: a[:, :2], ["forces", "(4, 3, 3)", "(4, 2, 3)"], id="flat forces"),
        pytest.param(
            "coordinates", lambda a: a[:, :, :2], ["coordinates", "(4, 3, 3)", "(4, 3, 2)"], id="flat coordinates"
        ),
        pytest.param("atomic_numbers", lambda a: a[:-1], ["atoms"], id="fewer atomic numbers"),
        pytest.param(
            "atomic_numbers", lambda a: a[None], ["atomic numbers", "(1, 3)"], id="atomic numbers of each conformation"
        ),
        pytest.param("atomic_numbers", lambda a: a[:0], ["atomic numbers", "(0,)"], id="no atoms"),
        pytest.param("atomic_numbers", lambda a: a * 0, ["atomic number 0"], id="atomic number 0"),
        pytest.param("atomic_numbers", lambda a: a * 0 + 119, ["atomic number 119"], id="atomic number 119"),
        pytest.param(
            "coordinates", lambda a: a * np.array([1.0, np.nan, 1.0]), ["coordinates", "NaN"], id="NaN coordinates"
        ),
        pytest.param("level.energy", lambda a: a * np.inf, ["infinite"], id="infinite energies"),
        pytest.param("level.forces", lambda a: a * np.inf, ["infinite"], id="infinite forces"),
        pytest.param("level.energy", lambda a: a.astype(complex), ["level.energy", "complex"], id="complex energies"),
    ],
)
def test_damaged_group_is_named(
    tmp_path: Path, groups: dict[str, Any], key: str, change: Callable[..., Any], words: list[str]
) -> None:
    path = write_ani1x(tmp_path / "a.h5", groups)
    with h5py.File(path, "a") as file:
        before = file["H2O1"][key][()]
        del file["H2O1"][key]
        file["H2O1"][key] = change(before)
    with np.errstate(all="ignore"):
        refused(ani1x(path).read, str(path), "H2O1", *words)


def test_no_energy_at_all(tmp_path: Path, groups: dict[str, Any]) -> None:
    for conformers in groups.values():
        conformers.energy[:] = np.nan
    path = write_ani1x(tmp_path / "a.h5", groups)
    refused(ani1x(path).read, str(path), "no structures")
    empty = write_ani1x(tmp_path / "empty.h5", {})
    refused(ani1x(empty).read, str(empty), "no structures")


def write_comp6(path: Path, groups: dict[str, Any]) -> Path:
    """Write the pyanitools layout: gradients under the name forces, charges with a column for the total."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, c in groups.items():
            group = file.create_group(f"{path.stem}/{name}")
            group["species"] = np.array([{1: b"H", 6: b"C", 7: b"N", 8: b"O"}[z] for z in c.numbers.tolist()])
            group["coordinates"] = c.positions.astype("f4")
            group["energies"] = c.energy / EV["hartree"]
            group["forces"] = -c.forces / EV["hartree"]
            group["cm5"] = np.ones((len(c.energy), len(c.numbers) + 1), "f4")
            group["hirdipole"] = np.zeros((len(c.energy), len(c.numbers) + 1, 3), "f4")
            group["lot"] = np.array([b"wb97x/6-31g*"])
    return path


def comp6(root: Path, **changes: Any) -> COMP6Reader:
    settings = {
        "root": str(root),
        "subsets": {"GDB": ["gdb_07.h5", "gdb_08.h5"], "S66x8": ["s66x8.h5"]},
        "energy_unit": "hartree",
        "length_unit": "angstrom",
        "force_sign": "gradient",
        "download": "see example.org",
    }
    return COMP6Reader(**{**settings, **changes})


def test_comp6_gives_true_forces(tmp_path: Path, groups: dict[str, Any], make_conformers: MakeConformers) -> None:
    """Files are found at any depth; other HDF5 files are left alone."""
    more = {"mol0": make_conformers("NH3", 3, seed=3)}
    write_comp6(tmp_path / "deep" / "er" / "gdb_07.h5", groups)
    write_comp6(tmp_path / "s66x8.h5", more)
    (tmp_path / "other.h5").write_bytes(b"no HDF5")
    reader = comp6(tmp_path)
    structures = reader.read()
    assert_holds(structures, [*groups.values(), *more.values()])
    assert structures.subset_names == ("GDB", "S66x8")
    assert structures.subset.tolist() == [0] * 9 + [1] * 3
    assert structures.group.tolist() == [0] * 5 + [1] * 4 + [2] * 3
    assert structures.group_names == ("gdb_07/gdb_07/C1H4", "gdb_07/gdb_07/H2O1", "s66x8/s66x8/mol0")
    assert reader.missing(structures) == ["gdb_08.h5"]


def test_comp6_without_files(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "away"):
        refused(comp6(root).read, str(root), "gdb_07.h5", "s66x8.h5", "see example.org", "data.root=")


@pytest.mark.parametrize("key", ["coordinates", "energies", "forces"])
def test_comp6_missing_key(tmp_path: Path, groups: dict[str, Any], key: str) -> None:
    path = write_comp6(tmp_path / "gdb_07.h5", groups)
    with h5py.File(path, "a") as file:
        del file["gdb_07/H2O1"][key]
    refused(comp6(tmp_path).read, str(path), "gdb_07/H2O1", f"'{key}'")


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("species", np.array([b"H", b"Xx", b"O"]), ["'Xx'", "not the symbol of an element"]),
        ("species", np.array([8, 1, 1]), ["species"]),
        ("species", np.array([b"O", b"H"]), ["atoms"]),
        ("energies", np.full(3, -76.0), ["'energies' 3", "'coordinates' 4"]),
        ("forces", np.ones((4, 4, 3)), ["forces", "(4, 3, 3)"]),
        ("energies", np.array([1.0, 2.0, np.nan, 4.0]), ["conformation 2", "NaN"]),
        ("forces", np.full((4, 3, 3), np.nan), ["conformation 0", "NaN"]),
    ],
    ids=["unknown element", "numbers for symbols", "species", "energies", "forces", "NaN energy", "NaN forces"],
)
def test_comp6_damaged_group_is_named(
    tmp_path: Path, groups: dict[str, Any], key: str, values: np.ndarray, words: list[str]
) -> None:
    path = write_comp6(tmp_path / "gdb_07.h5", groups)
    with h5py.File(path, "a") as file:
        del file["gdb_07/H2O1"][key]
        file["gdb_07/H2O1"][key] = values
    refused(comp6(tmp_path).read, str(path), "gdb_07/H2O1", *words)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_comp6_truncated(tmp_path: Path, groups: dict[str, Any], share: float) -> None:
    path = write_comp6(tmp_path / "gdb_07.h5", groups)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(comp6(tmp_path).read, str(path), "cannot be read as HDF5")


def frames_of(groups: dict[str, Any], keys: tuple[str, str] | None = None) -> list[Atoms]:
    """Frames with labels in ASE's calculator, or under keys of their own."""
    frames = []
    for conformers in groups.values():
        for x, e, f in zip(conformers.positions, conformers.energy, conformers.forces, strict=True):
            atoms = Atoms(conformers.numbers, x)
            if keys is None:
                atoms.calc = SinglePointCalculator(atoms, energy=e, forces=f)
            else:
                atoms.info[keys[0]], atoms.arrays[keys[1]] = e, f
            frames.append(atoms)
    return frames


def write_extxyz(path: Path, frames: list[Atoms]) -> Path:
    ase.io.write(path, frames, format="extxyz")
    return path


def extxyz(path: Path, **changes: Any) -> ASEReader:
    units = {"energy_unit": "eV", "length_unit": "angstrom", "force_sign": "force"}
    settings = {"path": str(path), "format": "extxyz", **units}
    return ASEReader(**{**settings, **changes})


WRITTEN = 1e-7
"""ASE writes eight decimals."""


@pytest.mark.parametrize("keys", [None, ("REF_energy", "REF_forces")], ids=["standard keys", "REF_ keys"])
def test_extxyz(tmp_path: Path, groups: dict[str, Any], keys: tuple[str, str] | None) -> None:
    path = write_extxyz(tmp_path / "a.xyz", frames_of(groups, keys))
    named = {} if keys is None else {"energy_key": keys[0], "forces_key": keys[1]}
    structures = extxyz(path, **named).read()
    assert_holds(structures, list(groups.values()), relative=WRITTEN)
    assert structures.group_names == ("CH4", "H2O")
    assert structures.group.tolist() == [0] * 5 + [1] * 4
    assert structures.subset_names == ("train",)
    assert not structures.pbc.any()


def test_extxyz_standard_keys_may_be_named(tmp_path: Path, groups: dict[str, Any]) -> None:
    """ASE removes `energy` and `forces` from the keys; naming them works all the same."""
    path = write_extxyz(tmp_path / "a.xyz", frames_of(groups))
    structures = extxyz(path, energy_key="energy", forces_key="forces").read()
    assert_holds(structures, list(groups.values()), relative=WRITTEN)


def test_extxyz_named_keys_win_over_the_standard_ones(tmp_path: Path, groups: dict[str, Any]) -> None:
    frames = frames_of(groups)
    for atoms in frames:
        atoms.info["other"] = 2 * atoms.calc.results["energy"]
        atoms.arrays["push"] = -3 * atoms.calc.results["forces"]
    path = write_extxyz(tmp_path / "a.xyz", frames)
    structures = extxyz(path, energy_key="other", forces_key="push").read()
    assert_holds(structures, [c._replace(energy=2 * c.energy, forces=-3 * c.forces) for c in groups.values()], WRITTEN)


def test_extxyz_in_other_units_with_gradients(tmp_path: Path, groups: dict[str, Any]) -> None:
    scaled = {
        name: c._replace(
            positions=c.positions / ANGSTROM["bohr"],
            energy=c.energy / EV["kcal/mol"],
            forces=-c.forces / EV["kcal/mol"] * ANGSTROM["bohr"],
        )
        for name, c in groups.items()
    }
    path = write_extxyz(tmp_path / "a.xyz", frames_of(scaled))
    reader = extxyz(path, energy_unit="kcal/mol", length_unit="bohr", force_sign="gradient")
    assert_holds(reader.read(), list(groups.values()), relative=WRITTEN)


def test_extxyz_groups_keep_structures_of_one_formula_together(tmp_path: Path, groups: dict[str, Any]) -> None:
    frames = frames_of(groups)
    order = [0, 5, 1, 6, 2]
    structures = extxyz(write_extxyz(tmp_path / "a.xyz", [frames[k] for k in order])).read()
    assert structures.group.tolist() == [0, 1, 0, 1, 0]
    expected = np.concatenate([groups["C1H4"].energy, groups["H2O1"].energy])[order]
    np.testing.assert_allclose(structures.energy, expected, rtol=WRITTEN)


def test_extxyz_without_some_labels(tmp_path: Path, groups: dict[str, Any]) -> None:
    """A frame without forces, and one without energy, keep their other labels."""
    frames = frames_of(groups)[:3]
    del frames[0].calc.results["forces"]
    del frames[1].calc.results["energy"]
    structures = extxyz(write_extxyz(tmp_path / "a.xyz", frames)).read()
    assert structures.has_energy.tolist() == [True, False, True]
    assert structures.has_forces.tolist() == [False, True, True]
    assert np.isnan(structures.forces[:5]).all()
    np.testing.assert_allclose(structures.forces[5:10], groups["C1H4"].forces[1], rtol=0, atol=WRITTEN)


def test_extxyz_periodic_and_open_in_one_file(tmp_path: Path, groups: dict[str, Any]) -> None:
    frames = frames_of(groups)[:3]
    cell = np.array([[9.0, 0.0, 0.0], [1.0, 8.0, 0.0], [0.0, -1.0, 7.0]])
    frames[0].set_cell(cell)
    frames[0].pbc = (True, True, False)
    frames[1].set_cell(cell)
    frames[1].pbc = False
    path = write_extxyz(tmp_path / "a.xyz", frames)
    structures = extxyz(path, length_unit="bohr").read()
    assert structures.pbc.tolist() == [[True, True, False], [False] * 3, [False] * 3]
    np.testing.assert_allclose(structures.cell[0], cell * ANGSTROM["bohr"], rtol=1e-12)
    assert not structures.cell[1:].any()
    ignored = extxyz(path, ignore_cell=True).read()
    assert not ignored.pbc.any()
    assert not ignored.cell.any()


@pytest.mark.parametrize(
    "cell", [np.zeros((3, 3)), np.diag([9.0, 0.0, 9.0]), np.ones((3, 3))], ids=["0", "flat", "line"]
)
def test_extxyz_periodic_direction_without_a_lattice_vector(
    tmp_path: Path, groups: dict[str, Any], cell: np.ndarray
) -> None:
    """Such a structure has no neighbour list."""
    frames = frames_of(groups)
    path = write_extxyz(tmp_path / "a.xyz", frames)
    lattice = " ".join(map(str, cell.ravel()))
    path.write_text(path.read_text().replace('pbc="F F F"', f'Lattice="{lattice}" pbc="T T F"', 1))
    refused(extxyz(path).read, str(path), "group CH4", "cell")


def test_extxyz_files_for_validation_and_test(tmp_path: Path, groups: dict[str, Any]) -> None:
    frames = frames_of(groups)
    paths = [write_extxyz(tmp_path / f"{k}.xyz", part) for k, part in enumerate((frames[:5], frames[5:7], frames[7:]))]
    structures = extxyz(paths[0], val_path=str(paths[1]), test_path=str(paths[2])).read()
    assert_holds(structures, list(groups.values()), relative=WRITTEN)
    assert [structures.subset_names[k] for k in structures.subset] == ["train"] * 5 + ["val"] * 2 + ["test"] * 2
    away = tmp_path / "away.xyz"
    refused(extxyz(paths[0], val_path=str(away)).read, str(away), "does not exist", "data.val_path=")


def test_extxyz_without_any_label_names_the_available_keys(tmp_path: Path, groups: dict[str, Any]) -> None:
    path = write_extxyz(tmp_path / "a.xyz", frames_of(groups, ("REF_energy", "REF_forces")))
    refused(extxyz(path).read, str(path), "REF_energy", "REF_forces", "data.energy_key=", "data.forces_key=")


def test_extxyz_named_key_that_is_missing(tmp_path: Path, groups: dict[str, Any]) -> None:
    path = write_extxyz(tmp_path / "a.xyz", frames_of(groups, ("REF_energy", "REF_forces")))
    reader = extxyz(path, energy_key="REF_energie", forces_key="REF_forces")
    refused(reader.read, str(path), "data.energy_key=REF_energie", "did you mean 'REF_energy'")
    reader = extxyz(path, energy_key="REF_energy", forces_key="REF_force")
    refused(reader.read, str(path), "data.forces_key=REF_force")


@pytest.mark.parametrize("label", ["energy", "forces"])
def test_extxyz_nan_label_names_the_structure(tmp_path: Path, groups: dict[str, Any], label: str) -> None:
    frames = frames_of(groups)
    frames[6].calc.results[label] = frames[6].calc.results[label] * np.nan
    path = write_extxyz(tmp_path / "a.xyz", frames)
    refused(extxyz(path).read, str(path), "structure 6", "NaN", "omit missing labels")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("\nH ", "\nQq ", 1),
        lambda text: re.sub(r"^5$", "6", text, count=1, flags=re.MULTILINE),
        lambda text: text.replace("forces:R:3", "forces:R:2", 1),
        lambda text: "not a number\n" + text,
        lambda text: "",
        lambda text: "0\nProperties=species:S:1:pos:R:3 energy=1.0\n",
    ],
    ids=["truncated", "unknown element", "wrong count", "forces of two columns", "no count", "empty file", "no atoms"],
)
def test_extxyz_damaged_file_is_named(tmp_path: Path, groups: dict[str, Any], damage: Callable[[str], str]) -> None:
    path = write_extxyz(tmp_path / "a.xyz", frames_of(groups))
    path.write_text(damage(path.read_text()))
    refused(extxyz(path).read, str(path))


def test_take_and_concatenate(tmp_path: Path, groups: dict[str, Any]) -> None:
    """Chosen structures keep their own atoms and labels; of joined sets, groups of one subset and name are one."""
    structures = ani1x(write_ani1x(tmp_path / "a.h5", groups)).read()
    chosen = structures.take(np.array([6, 0, 6]))
    assert chosen.sizes.tolist() == [3, 5, 3]
    np.testing.assert_array_equal(chosen.energy, structures.energy[[6, 0, 6]])
    np.testing.assert_array_equal(chosen.positions[3:8], structures.positions[:5])
    np.testing.assert_array_equal(chosen.forces[:3], structures.forces[28:31])
    np.testing.assert_array_equal(chosen.forces[:3], chosen.forces[8:])
    assert len(structures.take(np.zeros(0, np.int64))) == 0
    both = concatenate([structures, chosen], "both")
    assert both.group.tolist() == [0] * 5 + [1] * 4 + [1, 0, 1]
    assert both.group_names == ("C1H4", "H2O1")
    apart = concatenate([structures, replace(chosen, subset_names=("other",))], "both")
    assert len(set(apart.group[9:].tolist()) & set(apart.group[:9].tolist())) == 0
    assert [apart.group_names[k] for k in apart.group[9:]] == ["H2O1", "C1H4", "H2O1"]
    assert apart.subset.tolist() == [0] * 9 + [1] * 3
    blocks = list(both.blocks(5))
    assert [len(block) for block in blocks] == [5, 5, 2]
    for name in ("positions", "forces", "numbers", "energy", "group", "conformation"):
        joined = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_array_equal(joined, getattr(both, name))
    assert all(block.offsets[0] == 0 for block in blocks)
    np.testing.assert_array_equal(both.take(np.array([10])).positions, structures.positions[:5])
    composition = both.composition([1, 6, 8])
    np.testing.assert_array_equal(composition[[0, 5, 9]], [[4, 1, 0], [2, 0, 1], [2, 0, 1]])
    refused(lambda: concatenate([], "nothing"), "nothing", "no structures")
