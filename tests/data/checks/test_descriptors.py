"""Descriptors of structures, computed without a loop over them, equal those computed one by one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation

from hiphop_train.data.checks import descriptors
from hiphop_train.data.checks.atom_energies import fit_atoms
from hiphop_train.data.checks.descriptors import geometry_descriptors, largest_norms, net_forces
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures

MakeAtoms = Callable[..., Atoms]


def collected(molecules: list[Atoms], forces: list[np.ndarray] | None = None) -> Structures:
    found = Collector("set")
    for k, atoms in enumerate(molecules):
        periodic = bool(atoms.pbc.any())
        found.add(
            str(atoms.symbols),
            atoms.numbers.astype(np.int64),
            atoms.positions[None],
            {"energy": np.zeros(1), "forces": None if forces is None else forces[k][None]},
            atoms.cell.array[None] if periodic else None,
            atoms.pbc[None] if periodic else None,
        )
    return found.finish("all")


@pytest.mark.parametrize("large", [1000, 10], ids=["all pairs", "tree"])
def test_closest_distances_one_by_one(
    make_molecule: MakeAtoms, make_box: MakeAtoms, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "LARGE", large)
    molecules = [make_molecule(n, seed) for seed, n in enumerate([2, 5, 12, 5, 30, 12, 1, 5])] + [make_box(6, 3)]
    found = geometry_descriptors(collected(molecules))
    for k, atoms in enumerate(molecules):
        if len(atoms) == 1:
            assert np.isinf(found.nearest[k])
            continue
        i, j, distance = neighbor_list("ijd", atoms, 4.0)
        radii = covalent_radii[atoms.numbers]
        assert found.nearest[k] == pytest.approx(distance.min(), rel=1e-5)
        assert found.contact[k] == pytest.approx((distance / (radii[i] + radii[j])).min(), rel=1e-5)


def test_net_forces_and_torques_one_by_one(make_molecule: MakeAtoms) -> None:
    rng = np.random.default_rng(0)
    molecules = [make_molecule(n, n) for n in (3, 8, 4)]
    forces = [rng.normal(size=atoms.positions.shape) for atoms in molecules]
    structures = collected(molecules, forces)
    found, largest = net_forces(structures), largest_norms(structures)["forces"]
    for k, (atoms, f) in enumerate(zip(molecules, forces, strict=True)):
        torque = np.cross(atoms.positions - atoms.positions.mean(0), f).sum(0)
        assert found.net_force[k] == pytest.approx(np.linalg.norm(f.sum(0)), rel=1e-5)
        assert found.net_torque[k] == pytest.approx(np.linalg.norm(torque), rel=1e-5)
        assert largest[k] == pytest.approx(np.linalg.norm(f, axis=1).max(), rel=1e-5)


def test_exact_hashes(make_molecule: MakeAtoms) -> None:
    """Equal for any order of atoms, different when one coordinate differs by one bit or two elements are exchanged."""
    atoms = make_molecule(9, 1)
    shuffled = atoms[np.random.default_rng(0).permutation(9).tolist()]
    moved, swapped = atoms.copy(), atoms.copy()
    moved.positions[3, 1] = np.nextafter(moved.positions[3, 1], 9.0)
    different = next(k for k in range(1, 9) if atoms.numbers[k] != atoms.numbers[0])
    swapped.numbers[[0, different]] = atoms.numbers[[different, 0]]
    hashes = geometry_descriptors(collected([atoms, shuffled, moved, swapped])).exact.tolist()
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("n_atoms", [3, 12, 40])
def test_near_hashes(make_molecule: MakeAtoms, n_atoms: int) -> None:
    """Rotated copies are always found, those moved by 0.0003 Angstrom nearly always, those moved by 0.1 not."""
    rng = np.random.default_rng(n_atoms)
    atoms = make_molecule(n_atoms, 5)
    found = {}
    for spread in (0.0, 0.0003, 0.1):
        copies = [atoms]
        for turn in Rotation.random(200, random_state=np.random.RandomState(1)):
            copy = atoms.copy()
            copy.positions = turn.apply(atoms.positions + rng.normal(scale=spread, size=(n_atoms, 3))) + 7.0
            copies.append(copy)
        near = geometry_descriptors(collected(copies)).near
        found[spread] = int((near[1:] == near[0]).any(axis=1).sum())
    assert found[0.0] >= 199  # rounding of float32 may cut one apart
    assert found[0.0003] > 170
    assert found[0.1] < 10


def test_levels_of_theory_do_not_make_duplicates(make_molecule: MakeAtoms) -> None:
    structures = collected([make_molecule(5, 1)] * 2)
    hashes = geometry_descriptors(replace(structures, theory=np.array([0, 1]), theory_names=("dz", "tz")))
    assert hashes.exact[0] != hashes.exact[1]
    assert (hashes.near[0] != hashes.near[1]).all()


def test_largest_norms_of_any_target(make_molecule: MakeAtoms) -> None:
    """Of each structure's entries; NaN where the label is unknown."""
    rng = np.random.default_rng(0)
    molecules = [make_molecule(n, n) for n in (3, 8, 4)]
    structures = collected(molecules, [rng.normal(size=atoms.positions.shape) for atoms in molecules])
    stress, energy = rng.normal(size=(3, 3, 3)), np.array([-4.0, np.nan, 3.0])
    stress[0] = np.nan
    found = largest_norms(structures.with_labels(energy=energy, stress=stress))
    assert set(found) == {"energy", "forces", "stress"}
    np.testing.assert_array_equal(found["energy"], [4.0, np.nan, 3.0])
    np.testing.assert_allclose(found["stress"], [np.nan, *np.linalg.norm(stress[1:], axis=(1, 2))], rtol=1e-6)


def test_atoms_are_fitted_without_outliers() -> None:
    rng = np.random.default_rng(0)
    compositions = np.zeros((4, 119), np.int32)
    compositions[:, [1, 6]] = [[4, 1], [6, 2], [4, 2], [2, 2]]
    composition = rng.integers(4, size=400)
    e0 = np.array([-13.6, -1030.0])
    energy = compositions[composition][:, [1, 6]] @ e0 + rng.normal(scale=0.01, size=400)
    energy[7] += 500.0
    fit = fit_atoms(energy, composition, compositions)
    np.testing.assert_allclose(fit.e0, e0, atol=0.01)
    assert (fit.elements, fit.rank) == ([1, 6], 2)
    assert np.argmax(np.abs(fit.residual)) == 7
