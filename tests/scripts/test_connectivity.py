"""Fragments and their keys: the same for the same molecule, different for isomers."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule

from hiphop_train.errors import DataError
from scripts.connectivity import bond_matrix, fragments, molecule_key

TINY = Path(__file__).resolve().parents[2] / "hiphop_train" / "data" / "tiny" / "tiny.h5"


def key(atoms: Atoms) -> str:
    return molecule_key(atoms.numbers, atoms.positions)


def dimer(first: str, second: str, distance: float = 8.0) -> Atoms:
    other = molecule(second)
    other.translate([distance, 0.0, 0.0])
    return molecule(first) + other


@pytest.mark.parametrize("name", ["CH3CH2OH", "bicyclobutane", "C2H6NH", "N2", "CH3NO2"])
def test_key_ignores_orientation_and_order_of_atoms(name: str) -> None:
    atoms = molecule(name)
    rng = np.random.default_rng(0)
    expected = key(atoms)
    for _ in range(5):
        other = atoms[rng.permutation(len(atoms))]
        other.euler_rotate(*rng.uniform(0, 360, 3))
        other.translate(rng.normal(size=3))
        other.positions += rng.normal(scale=0.03, size=other.positions.shape)
        assert key(other) == expected


@pytest.mark.parametrize(
    "isomers",
    [
        ("CH3CH2OH", "CH3OCH3"),
        ("CH3COOH", "HCOOCH3"),
        ("CH3NO2", "CH3ONO"),
        ("C3H4_C2v", "C3H4_C3v", "C3H4_D2d"),
        ("2-butyne", "bicyclobutane", "butadiene", "cyclobutene", "methylenecyclopropane"),
    ],
)
def test_isomers_have_different_keys_of_one_formula(isomers: tuple[str, ...]) -> None:
    keys = [key(molecule(name)) for name in isomers]
    assert len(set(keys)) == len(isomers)
    assert len({k.split("-")[0] for k in keys}) == 1


def test_rings_that_plain_colour_refinement_confuses() -> None:
    # The carbon skeletons of decalin and bicyclopentyl: every atom has the same neighbours, and theirs, in both.
    def polygon(corners: int) -> np.ndarray:  # (corners, 3), sides of 1.5 A, a corner on the x axis
        angles = 2 * np.pi * np.arange(corners) / corners
        radius = 0.75 / np.sin(np.pi / corners)
        return radius * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1)

    hexagon, pentagon = polygon(6), polygon(5)
    step = hexagon[0] + hexagon[1]  # centre of the hexagon across the side from corner 0 to 1
    decalin = np.concatenate([hexagon, [corner for corner in hexagon + step if np.linalg.norm(corner) > 1.6]])
    other = pentagon * [-1, 1, 1] + [2 * pentagon[0, 0] + 1.5, 0, 0]
    bicyclopentyl = np.concatenate([pentagon, other])
    carbon = np.full(10, 6)
    degrees = [sorted(bond_matrix(carbon, points).sum(axis=0)) for points in (decalin, bicyclopentyl)]
    assert degrees == 2 * [8 * [2] + 2 * [3]]
    assert molecule_key(carbon, decalin) != molecule_key(carbon, bicyclopentyl)


def test_dimer_has_the_fragments_of_its_monomers() -> None:
    atoms = dimer("H2O", "CH3OH")
    found = fragments(atoms.numbers, atoms.positions)
    assert [list(f.atoms) for f in found] == [[0, 1, 2], [3, 4, 5, 6, 7, 8]]
    assert [f.key for f in found] == [key(molecule("H2O")), key(molecule("CH3OH"))]
    assert key(atoms) == key(dimer("CH3OH", "H2O")) == "+".join(sorted(f.key for f in found))


def test_homodimer_repeats_its_key() -> None:
    assert key(dimer("NH3", "NH3")) == "+".join(2 * [key(molecule("NH3"))])


def test_key_is_readable_and_safe_on_a_command_line() -> None:
    name = key(dimer("CH3CH2OH", "HCN"))
    assert not set(name) & set("=()#,~ ")
    assert sorted(k.split("-")[0] for k in name.split("+")) == ["C1H1N1", "C2H6O1"]
    assert len(name) < 40


def test_key_is_the_same_in_every_process() -> None:
    code = (
        "from ase.build import molecule; from scripts.connectivity import molecule_key; "
        "a = molecule('CH3CHO'); print(molecule_key(a.numbers, a.positions))"
    )
    root = str(TINY.parents[3])
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": s, "PYTHONPATH": root}, capture_output=True, check=True
        ).stdout
        for s in ("1", "2")
    }
    assert runs == {f"{key(molecule('CH3CHO'))}\n".encode()}


def test_single_atom_and_no_atom() -> None:
    assert molecule_key([8], [[0.0, 0.0, 0.0]]).startswith("O1-")
    assert fragments([], np.zeros((0, 3))) == []


def test_molecules_at_up_to_1000_kelvin_are_recognised() -> None:
    counts: dict[str, Counter[str]] = {}
    with h5py.File(TINY, "r") as file:
        for group in file.values():
            numbers = group["atomic_numbers"][:]
            for path, points in zip(group["path"][::3], group["coordinates"][::3], strict=True):
                if path != b"dimer":
                    counts.setdefault(path.decode(), Counter())[molecule_key(numbers, points)] += 1
    usual = [c.most_common(1)[0] for c in counts.values()]
    assert len({name for name, _ in usual}) == len(counts) == 50
    assert sum(c.total() for c in counts.values()) - sum(n for _, n in usual) <= 5


@pytest.mark.parametrize(
    ("numbers", "positions", "message"),
    [
        ([1, 1], np.zeros((1, 2, 3)), "one structure at a time"),
        ([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, np.nan]], "NaN"),
        ([0, 1], np.eye(3)[:2], "padding"),
    ],
)
def test_wrong_input_is_refused(numbers: list[int], positions: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bond_matrix(numbers, positions)
