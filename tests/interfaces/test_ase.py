"""The ASE calculator gives the potential's numbers in ASE's units, order and sign."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError
from omegaconf import OmegaConf

from hiphop_train import checkpoint
from hiphop_train.build import make_potential
from hiphop_train.config import load_config
from hiphop_train.errors import CheckpointError, DataError
from hiphop_train.export.torchscript import ExportedPotential, export
from hiphop_train.interfaces.ase import HipHopCalculator
from hiphop_train.models.hiphop import HIPHOP
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.hierarchical import HierarchicalEnergy

ELEMENTS = ["H", "C", "O"]


@pytest.fixture(scope="module")
def potential() -> Potential:
    torch.manual_seed(7)
    representation = HIPHOP(
        ELEMENTS, 4.0, 8, n_interactions=2, n_atom_layers=1, n_sensitivities=6, soft_min=0.8, soft_max=3.5,
        l_max=2, n_max=3,
    ).double()  # fmt: skip
    readout = HierarchicalEnergy(representation.feature_sizes).double()
    made = Potential([Network(representation, readout)], ELEMENTS, 4.0)
    made.e0 = torch.tensor([[-13.0, -1000.0, -2000.0]], dtype=torch.float64)
    return made


@pytest.fixture(scope="module")
def model_file(potential, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("ase") / "model.pt"
    export(potential, path, {})
    return path


def test_a_checkpoint_gives_the_numbers_of_its_exported_file(tmp_path: Path, crystal: Atoms) -> None:
    """From the file or its run directory, compiled and in the order of the pairs."""
    model = load_config("train", ["model=hiphop", "model.n_features=16", "model.elements=[H,C]"]).model
    torch.manual_seed(0)
    potential = make_potential(model, torch.float64).eval()
    content = checkpoint.of_weights(
        OmegaConf.to_container(model, resolve=True), "float64", potential.state_dict(), "a test"
    )
    file = tmp_path / "run" / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    torch.save(content, file)
    export(potential, tmp_path / "model.pt", {})
    results = []
    for path in (tmp_path / "model.pt", file, tmp_path / "run"):
        crystal.calc = HipHopCalculator(path)
        stress = crystal.get_stress()
        results.append(np.concatenate([[crystal.get_potential_energy()], crystal.get_forces().ravel(), stress]))
    assert crystal.calc.potential.potential.terms[0].representation.kernels is not None
    for found in results[1:]:
        np.testing.assert_allclose(found, results[0], rtol=1e-10, atol=1e-10)


@pytest.fixture
def crystal(model_file) -> Atoms:
    atoms = bulk("C", "diamond", a=3.6)
    atoms.rattle(0.1, seed=1)
    atoms.set_cell(atoms.cell.array + np.array([[0.0, 0.1, 0.0], [0.0, 0.0, 0.2], [0.05, 0.0, 0.0]]), scale_atoms=True)
    atoms.calc = HipHopCalculator(model_file)
    return atoms


def test_energy_and_forces_equal_the_potential(potential, model_file):
    atoms = molecule("CH3CH2OH")
    atoms.calc = HipHopCalculator(model_file)
    module = ExportedPotential(potential, "{}")
    expected = module.energy_forces(
        module.species_of(torch.as_tensor(atoms.numbers)),
        torch.as_tensor(atoms.positions),
        torch.zeros(3, 3, dtype=torch.float64),
        torch.zeros(3, dtype=torch.bool),
    )
    energy = float(expected["energy"])
    assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-12)
    assert atoms.get_potential_energy(force_consistent=True) == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(atoms.get_forces(), expected["forces"].numpy(), rtol=0, atol=1e-10)
    assert atoms.get_potential_energies().sum() == pytest.approx(energy, rel=1e-12)


def test_stress_is_the_derivative_under_strain(crystal):
    stress = crystal.get_stress()
    cell, volume, epsilon = crystal.cell.array.copy(), crystal.get_volume(), 1e-4
    numerical = []
    for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]:  # Voigt's order
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += 0.5 * sign * epsilon
            strain[j, i] += 0.5 * sign * epsilon
            crystal.set_cell(cell @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(crystal.get_potential_energy())
        numerical.append((energies[0] - energies[1]) / (2 * epsilon * volume))
    np.testing.assert_allclose(stress, numerical, rtol=1e-6, atol=5e-7)


def test_stress_of_a_file_of_an_older_version(crystal, tmp_path):
    tests = Path(__file__).parents[1]
    export(checkpoint.load(str(tests / "checkpoints" / "version2.ckpt")).potential, tmp_path / "new.pt", {})
    stresses = []
    for file in (tests / "export" / "format1.pt", tmp_path / "new.pt"):
        crystal.calc = HipHopCalculator(file)
        stresses.append(crystal.get_stress())
    np.testing.assert_allclose(*stresses, rtol=1e-10)


def test_forces_are_the_derivative_of_the_energy(crystal):
    forces, epsilon = crystal.get_forces(), 1e-4
    energies = []
    for sign in (1, -1):
        moved = crystal.copy()
        moved.calc = crystal.calc
        moved.positions[1, 2] += sign * epsilon
        energies.append(moved.get_potential_energy())
    assert forces[1, 2] == pytest.approx(-(energies[0] - energies[1]) / (2 * epsilon), rel=1e-6)


def test_supercell_multiplies_the_energy(crystal):
    large = crystal.repeat((2, 1, 2))
    large.calc = crystal.calc
    energy = crystal.get_potential_energy()
    assert large.get_potential_energy() == pytest.approx(4 * energy, rel=1e-12)


def test_stress_needs_three_periodic_directions(model_file):
    atoms = molecule("H2O", vacuum=3.0, pbc=(True, True, False))
    atoms.calc = HipHopCalculator(model_file)
    assert np.isfinite(atoms.get_forces()).all()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_unknown_elements_are_named(model_file):
    atoms = molecule("SiH4") + Atoms("Cl", [(5.0, 0.0, 0.0)])
    atoms.calc = HipHopCalculator(model_file)
    with pytest.raises(DataError, match="Si, Cl; it knows H, C, O"):
        atoms.get_potential_energy()


def test_missing_lattice_vector_is_named(model_file):
    atoms = Atoms("H2", [(0, 0, 0), (0, 0, 0.8)], cell=(4.0, 4.0, 0.0), pbc=True)
    atoms.calc = HipHopCalculator(model_file)
    with pytest.raises(DataError, match="lattice vector 2 is zero"):
        atoms.get_potential_energy()


def test_missing_and_wrong_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no such file; write one with hiphop-export"):
        HipHopCalculator(tmp_path / "missing.pt")
    for name, message in (("model.pt", "not an exported potential"), ("best.ckpt", "was not written by hiphop-train")):
        torch.save({"state_dict": {}}, tmp_path / name)
        with pytest.raises(CheckpointError, match=message):
            HipHopCalculator(str(tmp_path / name))
    with pytest.raises(CheckpointError, match="contains no checkpoints/best"):
        HipHopCalculator(tmp_path)


def test_newer_format_is_refused(model_file, monkeypatch):
    monkeypatch.setattr("hiphop_train.export.torchscript.FORMAT_VERSION", 0)
    with pytest.raises(CheckpointError, match="format 1"):
        HipHopCalculator(model_file)
