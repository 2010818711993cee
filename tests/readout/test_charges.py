"""Charges are neutral in sum, their dipole rotates with the structure, they are learned from dipoles, and exported."""

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

from hiphop_train.build import make_potential
from hiphop_train.export.torchscript import export, load, verify
from hiphop_train.interfaces.ase import HipHopCalculator
from tests.conftest import GraphOf, MakeAtoms, PotentialOf, model_section

MODEL = "hiphop_dipole"


def test_structures_are_neutral_and_dipoles_are_those_of_the_charges(
    mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    outputs = potential_of(MODEL)(graph_of(mixed_structures))
    charges, dipole = outputs["charges"].detach().numpy(), outputs["dipole"].detach().numpy()
    start = 0
    for k, atoms in enumerate(mixed_structures):
        own = charges[start : start + len(atoms)]
        start += len(atoms)
        assert abs(own.sum()) < 1e-13
        assert len(atoms) == 1 or np.abs(own).max() > 1e-2
        expected = np.zeros(3) if atoms.pbc.any() else own @ atoms.positions
        np.testing.assert_allclose(dipole[k], expected, rtol=1e-12, atol=1e-14)


def test_dipole_depends_neither_on_the_origin_nor_on_the_order(
    make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, atoms = potential_of(MODEL, torch.float32), make_molecule(7, seed=51)
    order = np.random.default_rng(1).permutation(7)
    moved = atoms[order]
    moved.positions += [300.0, -1000.0, 20.0]
    before, after = (potential(graph_of([each], dtype=torch.float32)) for each in (atoms, moved))
    assert before["dipole"].norm() > 0.1
    torch.testing.assert_close(after["dipole"], before["dipole"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(after["charges"], before["charges"][torch.from_numpy(order)], rtol=1e-5, atol=1e-6)


def test_charges_change_neither_energies_nor_forces(
    make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of(MODEL), graph_of([make_molecule(7, seed=52)])
    plain = potential_of("hiphop")
    state = {key.replace("readout.energy.", "readout."): value for key, value in potential.state_dict().items()}
    plain.load_state_dict({key: value for key, value in state.items() if ".readout.network." not in key})
    found, expected = potential(graph, virial=True), plain(graph, virial=True)
    assert found.keys() - expected.keys() == {"charges", "dipole"}
    for key in expected:
        assert torch.equal(found[key], expected[key])


def test_ghosts_carry_no_charge(make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf) -> None:
    potential, atoms = potential_of(MODEL), make_molecule(7, seed=53)
    outputs = potential(graph_of([atoms])._replace(n_owned=5))
    charges = outputs["charges"].detach().numpy()
    assert not charges[5:].any()
    assert abs(charges.sum()) < 1e-13
    np.testing.assert_allclose(outputs["dipole"][0].detach().numpy(), charges @ atoms.positions, rtol=1e-12)


@pytest.mark.parametrize("energy", ["atomwise.AtomwiseEnergy", "per_element.PerElementEnergy"])
def test_energies_may_come_from_any_readout(energy: str, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    """It gets from the model what it would get without charges."""
    readout = {"_target_": f"hiphop_train.readout.{energy}", "hidden": [5], "activation": "silu"}
    section = model_section("schnet") | {"n_features": 8, "n_interactions": 1}
    own = model_section(MODEL)["readout"]
    potential = make_potential(section | {"readout": own | {"energy": readout}}, torch.float64)
    graph = graph_of([make_molecule(5, seed=54)], cutoff=potential.cutoff)
    outputs = potential(graph)
    assert outputs["dipole"].abs().max() > 0
    assert outputs["forces"].abs().max() > 0


def test_charges_and_dipole_are_exported_and_in_ase(
    tmp_path: Path, make_molecule: MakeAtoms, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, atoms = potential_of(MODEL), make_molecule(6, seed=55)
    export(potential, tmp_path / "model.pt", {})
    expected = potential(graph_of([atoms]))
    atoms.calc = HipHopCalculator(tmp_path / "model.pt")
    np.testing.assert_allclose(atoms.get_dipole_moment(), expected["dipole"][0].detach(), rtol=1e-10)
    np.testing.assert_allclose(atoms.get_charges(), expected["charges"].detach(), rtol=1e-10)
    crystal = make_box(4, seed=56)
    crystal.calc = atoms.calc
    assert abs(crystal.get_charges().sum()) < 1e-12
    with pytest.raises(PropertyNotImplementedError):
        crystal.get_dipole_moment()

    model = load(tmp_path / "model.pt")
    assert all("dipole" in answer for answer in model.golden)
    model.golden[1]["dipole"].add_(0.1)
    with pytest.warns(DeprecationWarning, match=r"torch\.jit\.save"):
        torch.jit.save(model, str(tmp_path / "corrupted.pt"))
    assert verify(tmp_path / "model.pt").agrees
    assert not verify(tmp_path / "corrupted.pt").agrees


def test_models_without_charges_have_none_in_ase(
    tmp_path: Path, make_molecule: MakeAtoms, potential_of: PotentialOf
) -> None:
    export(potential_of("hipnn"), tmp_path / "model.pt", {})
    atoms = make_molecule(4, seed=57)
    atoms.calc = HipHopCalculator(tmp_path / "model.pt")
    for ask in (atoms.get_dipole_moment, atoms.get_charges):
        with pytest.raises(PropertyNotImplementedError):
            ask()
