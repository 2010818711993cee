"""Labels of stress must agree with the energies of neighbouring cells: a wrong sign or unit is found and named."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator

from hiphop_train.data.checks.labels import check_labels
from hiphop_train.data.formats.collector import Collector
from hiphop_train.data.structures import Structures
from hiphop_train.errors import DataError
from tests.data.formats.layouts import make_reader

CUTOFF = 5.5
SHIFTS = np.stack(np.meshgrid(*[np.arange(-2, 3)] * 3), axis=-1).reshape(-1, 3)
N_FRAMES = 25


def pair_potential(cell: np.ndarray, positions: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Energy, forces and stress of the pair energy 8 s^6 - 3 s^3, s = 1 - r^2 / cutoff^2, over all periodic images."""
    vector = (positions[None, :] - positions[:, None])[:, :, None] + SHIFTS @ cell  # (n, n, n_shifts, 3)
    square = (vector**2).sum(axis=-1)
    s = np.where((square > 0) & (square < CUTOFF**2), 1 - square / CUTOFF**2, 0.0)
    slope = (48 * s**5 - 9 * s**2) * -2 / CUTOFF**2  # with respect to r, over r
    gradient = slope[..., None] * vector
    stress = 0.5 * np.einsum("ijsx,ijsy->xy", gradient, vector) / abs(np.linalg.det(cell))
    return 0.5 * float((8 * s**6 - 3 * s**3).sum()), gradient.sum(axis=(1, 2)), stress


def crystal(strain: float, displacement: float, seed: int = 0) -> list[Atoms]:
    """A random walk of a small crystal through cells and positions, with labels of the pair potential."""
    rng = np.random.default_rng(seed)
    cell, fractional = 6.0 * np.eye(3), np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    frames = []
    for _ in range(N_FRAMES):
        step = rng.normal(scale=strain, size=(3, 3))
        cell = cell @ (np.eye(3) + step + step.T)
        fractional = fractional + rng.normal(scale=displacement / 6.0, size=fractional.shape)
        atoms = Atoms("Ar4", scaled_positions=fractional, cell=cell, pbc=True)
        energy, forces, stress = pair_potential(cell, atoms.positions)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
        frames.append(atoms)
    return frames


def collected(frames: list[Atoms], factor: float = 1.0) -> Structures:
    found = Collector("set.xyz")
    for atoms in frames:
        results = atoms.calc.results
        labels = {"energy": np.array([results["energy"]]), "forces": results["forces"][None]}
        labels["stress"] = factor * results["stress"][None]
        found.add("Ar4", atoms.numbers, atoms.positions[None], labels, atoms.cell.array[None], atoms.pbc[None])
    return found.finish("all")


def test_the_pair_potential_is_consistent() -> None:
    (atoms, *_) = crystal(0.002, 0.05)
    cell, positions, step = atoms.cell.array, atoms.positions, 1e-5
    _, forces, stress = pair_potential(cell, positions)
    for x, y in [(0, 0), (1, 2)]:
        energies = []
        for sign in (1, -1):
            strain = np.eye(3)
            strain[x, y] += sign * step
            energies.append(pair_potential(cell @ strain.T, positions @ strain.T)[0])
        assert (energies[0] - energies[1]) / (2 * step * atoms.cell.volume) == pytest.approx(stress[x, y], abs=1e-7)
    moved = positions.copy()
    moved[1, 2] += step
    energy = pair_potential(cell, positions)[0]
    assert (energy - pair_potential(cell, moved)[0]) / step == pytest.approx(forces[1, 2], abs=1e-4)


@pytest.mark.parametrize("displacement", [0.0, 0.03], ids=["strain alone", "strain and displacements"])
def test_correct_stress_passes_and_wrong_stress_is_named(displacement: float) -> None:
    frames = crystal(0.004, displacement)
    statistics = check_labels(collected(frames))
    assert statistics.n_strained == N_FRAMES - 1
    assert statistics.stress_slope == pytest.approx(1.0, abs=0.05)
    with pytest.raises(DataError, match=r"(?s)set\.xyz.*opposite sign of stress.*stress_sign"):
        check_labels(collected(frames, -1.0))
    for factor in (1 / units.GPa, units.GPa, 10.0, 0.1):
        with pytest.raises(DataError, match=r"(?s)set\.xyz.*stress.*stress_unit"):
            check_labels(collected(frames, factor))


@pytest.mark.parametrize(
    ("strain", "displacement"),
    [(0.0, 0.03), (0.05, 0.03), (0.004, 1.0)],
    ids=["one cell", "far cells", "far positions"],
)
def test_inconclusive_frames_pass(strain: float, displacement: float) -> None:
    check_labels(collected(crystal(strain, displacement), -1.0))


def test_zeros_instead_of_missing_stress() -> None:
    with pytest.raises(DataError, match=r"stress exactly zero in 25 of 25 structures: zeros apparently mark"):
        check_labels(collected(crystal(0.004, 0.03), 0.0))


def test_units_of_a_file_are_checked_as_declared(tmp_path: Path) -> None:
    frames = crystal(0.004, 0.03)
    for atoms in frames:
        atoms.calc.results["stress"] = -atoms.calc.results["stress"] / units.GPa  # as many programs print it
    ase.io.write(tmp_path / "a.traj", frames)
    declared = {"stress_unit": "GPa", "stress_sign": "compression_positive"}
    check_labels(make_reader("ase", tmp_path / "a.traj", **declared).read())
    for wrong in ({"stress_unit": "eV/angstrom^3"}, {"stress_sign": "tension_positive"}):
        with pytest.raises(DataError, match=r"(?s)a\.traj.*stress"):
            check_labels(make_reader("ase", tmp_path / "a.traj", **(declared | wrong)).read())
