"""What every model of conf/model must do with the targets beyond energy and forces."""

import numpy as np
from ase import Atoms

from hiphop_train.targets import TARGETS
from tests.conftest import GraphOf, MakeAtoms, PotentialOf


def strained(atoms: Atoms, step: float) -> list[Atoms]:
    """Deform by symmetric strains, xx, yy, zz, yz, xz, xy, each of -2, -1, 1 and 2 steps."""
    found = []
    for component in TARGETS["stress"].components:
        for count in (-2, -1, 1, 2):
            strain = np.zeros((3, 3))
            strain[component // 3, component % 3] = count * step
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
            found.append(copy)
    return found


def test_stress_is_the_strain_derivative_per_volume(
    model_name: str, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, atoms, step = potential_of(model_name), make_box(4, seed=41), 2e-4
    stress = potential(graph_of([atoms]), forces=False, virial=True)["stress"].detach().numpy()[0]
    energies = potential(graph_of(strained(atoms, step)), forces=False)["energy"].detach().numpy().reshape(6, 4)
    slopes = energies @ np.array([1.0, -8.0, 8.0, -1.0]) / (12 * step)
    expected = slopes / atoms.get_volume()
    assert np.abs(expected).max() > 1e-3
    found = stress.ravel()[TARGETS["stress"].components]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    np.testing.assert_allclose(stress, stress.T, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_stress_is_zero_where_there_is_no_volume(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Open structures and slabs, beside crystals in one batch."""
    outputs = potential_of(model_name)(graph_of(mixed_structures), virial=True)
    stress, virial = outputs["stress"].detach().numpy(), outputs["virial"].detach().numpy()
    for k, atoms in enumerate(mixed_structures):
        expected = -virial[k] / atoms.get_volume() if atoms.pbc.all() else np.zeros((3, 3))
        np.testing.assert_allclose(stress[k], expected, rtol=1e-13)
