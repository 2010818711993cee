"""The generator of the embedded set: its labels are those stored, its parts become a release-layout file."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest
from ase.build import molecule

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "hiphop_train" / "data" / "tiny" / "tiny.h5"


@pytest.fixture(scope="module")
def generate_tiny() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("generate_tiny", ROOT / "scripts" / "generate_tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate_tiny"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["generate_tiny"]


def write_part(generate_tiny: ModuleType, directory: Path, seed: int, name: str) -> None:
    atoms = molecule(name)
    atoms = atoms[np.argsort(atoms.get_chemical_symbols(), kind="stable")]
    with generate_tiny.new_file(generate_tiny.part_path(directory, seed, 0)) as file:
        file["atomic_numbers"] = atoms.numbers.astype(np.uint8)
        file["coordinates"] = atoms.positions.astype(np.float32)
        file["wb97x_dz.energy"] = -float(seed)
        file["wb97x_dz.forces"] = np.zeros((len(atoms), 3), np.float32)
        file.attrs.update(path=name, temperature=300.0, recipe=generate_tiny.RECIPE)


def test_label_of_a_stored_water_is_reproduced(generate_tiny: ModuleType) -> None:
    with h5py.File(TINY, "r") as file:
        group = file["H2O1"]
        energy, forces = generate_tiny.label(group["atomic_numbers"][:], group["coordinates"][3])
        assert energy == pytest.approx(group["wb97x_dz.energy"][3], abs=1e-6, rel=0)  # Hartree
        assert forces == pytest.approx(group["wb97x_dz.forces"][3], abs=1e-5, rel=0)  # Hartree/Angstrom


def test_monomers_are_the_molecules_of_the_set(generate_tiny: ModuleType) -> None:
    with h5py.File(TINY, "r") as file:
        paths = {path.decode() for group in file.values() for path in group["path"][:]}
    assert set(generate_tiny.monomers()) == paths - {"dimer"}


def test_random_rotation_is_proper(generate_tiny: ModuleType) -> None:
    rng = np.random.default_rng(0)
    rotations = [generate_tiny.random_rotation(rng) for _ in range(2000)]
    assert all(np.allclose(r @ r.T, np.eye(3)) and np.isclose(np.linalg.det(r), 1) for r in rotations[:20])
    assert np.abs(np.mean(rotations, axis=0)).max() < 0.05  # uniform: the mean is zero


def test_dimers_are_drawn_apart_and_repeatably(generate_tiny: ModuleType) -> None:
    molecules = generate_tiny.monomers()
    for seed in range(5):
        atoms = generate_tiny.random_dimer(molecules, np.random.default_rng(seed))
        again = generate_tiny.random_dimer(molecules, np.random.default_rng(seed))
        assert np.array_equal(atoms.positions, again.positions)
        contacts = [
            distances.min()
            for n in range(2, len(atoms) - 1)
            for distances in [np.linalg.norm(atoms.positions[:n, None] - atoms.positions[None, n:], axis=-1)]
        ]
        assert max(contacts) >= 1.7


def test_merge_writes_the_release_layout(generate_tiny: ModuleType, tmp_path: Path) -> None:
    for seed, name in enumerate(["CH3OCH3", "H2O", "CH3CH2OH"]):
        write_part(generate_tiny, tmp_path, seed, name)
    output = tmp_path / "merged.h5"
    assert generate_tiny.merge(argparse.Namespace(directories=[tmp_path], output=output)) == 0
    assert not list(tmp_path.glob("*.partial"))
    with h5py.File(output, "r") as file, h5py.File(TINY, "r") as tiny:
        assert list(file) == ["C2H6O1", "H2O1"]
        assert list(file["C2H6O1"]["path"][:]) == [b"CH3CH2OH", b"CH3OCH3"]
        assert list(file["C2H6O1"]["wb97x_dz.energy"][:]) == [-2.0, 0.0]
        for key, dataset in tiny["C2H6O1"].items():
            assert file["C2H6O1"][key].ndim == dataset.ndim
            assert file["C2H6O1"][key].dtype.kind == dataset.dtype.kind
        assert np.array_equal(file["C2H6O1"]["atomic_numbers"][:], tiny["C2H6O1"]["atomic_numbers"][:])


def test_part_of_another_recipe_is_refused(generate_tiny: ModuleType, tmp_path: Path) -> None:
    write_part(generate_tiny, tmp_path, 0, "H2O")
    with h5py.File(generate_tiny.part_path(tmp_path, 0, 0), "a") as file:
        file.attrs["recipe"] = 0
    with pytest.raises(SystemExit, match="recipe 0, expected"):
        generate_tiny.merge(argparse.Namespace(directories=[tmp_path], output=tmp_path / "merged.h5"))


def test_failed_write_leaves_nothing(generate_tiny: ModuleType, tmp_path: Path) -> None:
    def write_and_fail() -> None:
        with generate_tiny.new_file(tmp_path / "part.h5") as file:
            file["energy"] = 1.0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_missing_package_names_the_install_line(generate_tiny: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tblite", None)
    with pytest.raises(SystemExit, match=r'tblite.*pip install "hiphop-train\[generate\]"'):
        generate_tiny.require("pyscf", "tblite")


@pytest.mark.parametrize(("option", "value"), [("--count", "0"), ("--processes", "many"), ("--seed", "-1")])
def test_wrong_numbers_are_refused(
    generate_tiny: ModuleType, capsys: pytest.CaptureFixture[str], option: str, value: str
) -> None:
    arguments = ["sample", "parts", "--count", "2", f"{option}={value}"]
    with pytest.raises(SystemExit) as stopped:
        generate_tiny.command_line().parse_args(arguments)
    assert stopped.value.code == 2
    assert f"argument {option}: {value!r} is not an integer of at least" in capsys.readouterr().err
