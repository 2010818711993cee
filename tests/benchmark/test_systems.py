"""Boxes of water, and graphs made from structures."""

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import find_mic
from ase.io import write
from ase.neighborlist import neighbor_list

from hiphop_train.benchmark import systems
from hiphop_train.errors import ConfigError, DataError


@pytest.mark.parametrize("n_atoms", [3, 9, 24, 96, 300, 378, 3000])
def test_water_has_one_density_and_no_overlaps(n_atoms: int) -> None:
    water = systems.water(n_atoms, seed=1)
    assert len(water) == n_atoms
    grams = n_atoms / 3 * 18.015 / 6.02214076e23
    assert grams / (np.linalg.det(water.cell) * 1e-24) == pytest.approx(1.0, rel=1e-9)
    atoms = Atoms(water.numbers, water.positions, cell=water.cell, pbc=water.pbc)
    assert atoms.symbols[:3].get_chemical_formula() == "H2O"
    i, j, shift, distance = neighbor_list("ijSd", atoms, 2.0)
    within = (i // 3 == j // 3) & ~shift.any(axis=1)
    assert distance[~within].min() >= 1.5
    bonds = distance[within & (water.numbers[i] == 8)]
    assert len(bonds) == n_atoms // 3 * 2
    assert bonds == pytest.approx(0.9572)
    arms = find_mic(water.positions[1::3] - water.positions[::3], water.cell)[0]
    others = find_mic(water.positions[2::3] - water.positions[::3], water.cell)[0]
    cosine = (arms * others).sum(1) / 0.9572**2
    assert np.degrees(np.arccos(cosine)) == pytest.approx(104.52)


def test_water_is_turned_at_random() -> None:
    water = systems.water(3000, seed=0)
    dipoles = water.positions[1::3] + water.positions[2::3] - 2 * water.positions[::3]
    dipoles /= np.linalg.norm(dipoles, axis=1, keepdims=True)
    assert np.abs(dipoles.mean(0)).max() < 0.1
    assert np.diag(dipoles.T @ dipoles / len(dipoles)) == pytest.approx(1 / 3, abs=0.06)


def test_boxes_of_all_sizes_have_as_many_neighbours() -> None:
    counts = []
    for n_atoms in (300, 1200, 3900):
        work = systems.work_of(systems.water(n_atoms, seed=0), 5.0)
        counts.append(len(work.pair_i) / n_atoms)
    assert max(counts) / min(counts) < 1.04


def test_water_follows_the_seed() -> None:
    first, again, other = (systems.water(96, seed) for seed in (3, 3, 4))
    assert np.array_equal(first.positions, again.positions)
    assert not np.allclose(first.positions, other.positions)


@pytest.mark.parametrize(("n_atoms", "nearest"), [(100, 99), (101, 102), (0, 3), (-6, 3), (1, 3)])
def test_water_of_part_of_a_molecule_is_refused(n_atoms: int, nearest: int) -> None:
    with pytest.raises(ConfigError, match=f"nearest: {nearest} "):
        systems.check_water(n_atoms)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 1000, 4001])
def test_lattice_wastes_little(n: int) -> None:
    shape = systems.lattice(n)
    assert n <= np.prod(shape) <= max(1.15 * n, n + 1)


def test_first_structure_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "two.xyz"
    write(file, [Atoms("OH", [[0, 0, 0], [0, 0, 1.0]]), Atoms("N")])
    system = systems.from_file(file)
    assert system.name == "two"
    assert system.numbers.tolist() == [8, 1]
    assert not system.pbc.any()


def test_periodic_file_keeps_its_cell(tmp_path: Path) -> None:
    file = tmp_path / "box.extxyz"
    write(file, Atoms("O", cell=np.diag([3.0, 4.0, 5.0]), pbc=(True, False, True)))
    system = systems.from_file(file)
    assert system.pbc.tolist() == [True, False, True]
    assert np.diag(system.cell).tolist() == [3.0, 0.0, 5.0]


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        systems.from_file(tmp_path / "none.pdb")
    (tmp_path / "bad.xyz").write_text("three\n")
    with pytest.raises(DataError, match=r"bad\.xyz cannot be read by ASE"):
        systems.from_file(tmp_path / "bad.xyz")


def test_pairs_have_their_vectors() -> None:
    work = systems.work_of(systems.water(24, seed=0), 4.0)
    vectors = work.positions[work.pair_j] + work.translations() - work.positions[work.pair_i]
    assert work.pair_shift.any()
    assert np.linalg.norm(vectors, axis=1).max() < 4.0
    atoms = Atoms(work.numbers, work.positions, cell=work.cell[0], pbc=True)
    assert len(work.pair_i) == len(neighbor_list("i", atoms, 4.0))


def test_work_survives_a_file(tmp_path: Path) -> None:
    work = systems.batch_of(systems.clusters(3, seed=0), 5.0)
    work.save(tmp_path / "work.npz")
    again = type(work).read(tmp_path / "work.npz")
    assert again.n_systems == 3
    for name in ("numbers", "positions", "system", "pair_i", "pair_shift", "forces", "energy"):
        assert np.array_equal(getattr(again, name), getattr(work, name))
    assert (again.system[again.pair_i] == again.system[again.pair_j]).all()
