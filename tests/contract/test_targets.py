"""What every model of conf/model must do with the targets beyond energy and forces."""

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.accelerate import accelerate
from hiphop_train.targets import TARGETS, Target
from tests.conftest import GraphOf, MakeAtoms, PotentialOf

KERNELS = {"n_features": 16}
"""A width that kernels in C take."""


def transformed(values: np.ndarray, target: Target, matrix: np.ndarray) -> np.ndarray:
    """Transform entries by an orthogonal matrix as the record says."""
    for axis in range(1, 1 + target.rank):
        values = np.moveaxis(np.tensordot(values, matrix, axes=(axis, 1)), -1, axis)
    is_pseudo = target.is_odd != (target.rank % 2 == 1)
    return values * np.linalg.det(matrix) if is_pseudo else values


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
    """Open structures and slabs, with crystals in one batch."""
    outputs = potential_of(model_name)(graph_of(mixed_structures), virial=True)
    stress, virial = outputs["stress"].detach().numpy(), outputs["virial"].detach().numpy()
    for k, atoms in enumerate(mixed_structures):
        expected = -virial[k] / atoms.get_volume() if atoms.pbc.all() else np.zeros((3, 3))
        np.testing.assert_allclose(stress[k], expected, rtol=1e-13)


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_targets_transform_as_their_records_say(
    model_name: str,
    handedness: int,
    mixed_structures: list[Atoms],
    potential_of: PotentialOf,
    graph_of: GraphOf,
) -> None:
    potential = potential_of(model_name)
    assert set(potential.targets) <= TARGETS.keys()
    matrix = handedness * Rotation.random(random_state=np.random.RandomState(6)).as_matrix()
    turned = [atoms.copy() for atoms in mixed_structures]
    for atoms in turned:
        atoms.set_cell(atoms.cell.array @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T
    before, after = (potential(graph_of(each), virial=True) for each in (mixed_structures, turned))
    n_systems, n_atoms = len(mixed_structures), sum(map(len, mixed_structures))
    pbc = np.array([atoms.pbc for atoms in mixed_structures])
    for key in potential.targets:
        target, found = TARGETS[key], after[key].detach().numpy()
        assert found.shape == target.array_shape(n_systems, n_atoms)
        expected = transformed(before[key].detach().numpy(), target, matrix)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        if target.per != "atom":  # and is zero where it is not defined
            assert (found.reshape(n_systems, -1).any(axis=1) <= target.is_defined(pbc)).all()


def test_extensive_targets_of_far_apart_structures_add_up(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Charges are neutralised over the whole structure; copies of one molecule get equal corrections."""
    potential = potential_of(model_name)
    first, second = make_molecule(6, seed=24), make_molecule(6, seed=24)
    second.rotate(70, (1, 2, 3))
    second.positions += [60.0, -40.0, 10.0]
    alone, together = potential(graph_of([first, second])), potential(graph_of([first + second]))
    for key in potential.targets:
        if key in alone and TARGETS[key].extensive:
            expected = alone[key].sum(0).detach().numpy()
            np.testing.assert_allclose(together[key][0].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_loss_of_all_targets_has_the_same_gradient_when_accelerated(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Stress and dipole reach the parameters through the twins as they do through the plain modules."""
    potential, graph = potential_of(model_name, **KERNELS).train(), graph_of(mixed_structures)
    parameters = list(potential.parameters())

    def gradients() -> list[torch.Tensor | None]:
        outputs = potential(graph, virial=True)
        loss = sum(outputs[key].square().sum() for key in potential.targets if key != "energy")
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))

    plain = gradients()
    chosen = accelerate(potential, torch.float64, torch.device("cpu"), "training")
    graph = chosen.prepare(graph)
    found = gradients()
    largest = max(float(gradient.abs().max()) for gradient in plain if gradient is not None)
    for fast, expected in zip(found, plain, strict=True):
        assert (fast is None) == (expected is None)
        if fast is not None and expected is not None:
            torch.testing.assert_close(fast, expected, rtol=1e-9, atol=1e-10 * largest)
