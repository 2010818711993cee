"""What every model of conf/model must do in every way of evaluation: derivatives, symmetries, limits."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from tests.conftest import GraphOf, MakeAtoms, PotentialOf
from tests.contract.conftest import WAYS, Evaluate, EvaluatorOf, four_point, largest, values
from tests.pair_lists import PAIR_LISTS, MakeList, directed_cycle, moved

CUTOFF = 4.0
STEP = 2e-4  # Angstrom, and of strain
DIRECTION = np.array([0.48, 0.6, -0.64])  # of length 1


@pytest.fixture(scope="module")
def structures(make_molecule: MakeAtoms, make_box: MakeAtoms) -> list[Atoms]:
    """A molecule, a cell smaller than the cutoff, a slab and a wire."""
    directions = [(True, True, True), (True, False, True), (False, True, False)]
    return [make_molecule(7, seed=21), *(make_box(4, seed=22, pbc=pbc) for pbc in directions)]


def each(structures: Sequence[Atoms], of_atoms: np.ndarray) -> list[np.ndarray]:
    """Divide values of the atoms of a batch between its structures."""
    return np.split(of_atoms, np.cumsum([len(atoms) for atoms in structures])[:-1])


def displaced(atoms: Atoms) -> list[Atoms]:
    """Each coordinate by -2, -1, 1, 2 steps."""
    found = []
    for index in range(3 * len(atoms)):
        for count in (-2, -1, 1, 2):
            copy = atoms.copy()
            copy.positions[index // 3, index % 3] += count * STEP
            found.append(copy)
    return found


def strained(atoms: Atoms) -> list[Atoms]:
    """Each component by -2, -1, 1, 2 steps."""
    found = []
    for index in range(9):
        for count in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[index // 3, index % 3] += count * STEP
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ strain)
            copy.positions = atoms.positions @ strain
            found.append(copy)
    return found


def test_the_battery_finds_the_models() -> None:
    """An empty folder would make every test here pass."""
    names = {file.stem for file in (Path(__file__).resolve().parents[2] / "conf" / "model").glob("*.yaml")}
    assert {"hiphop", "hipnn"} <= names


def test_forces_are_finite_differences(evaluate: Evaluate, structures: list[Atoms], graph_of: GraphOf) -> None:
    forces = each(structures, values(evaluate(graph_of(structures)))["forces"])
    for atoms, found in zip(structures, forces, strict=True):
        energies = values(evaluate(graph_of(displaced(atoms)), forces=False))["energy"]
        expected = -four_point(energies.reshape(-1, 3, 4), STEP)
        assert np.abs(expected).max() > 0.1
        assert largest(found, expected) < 1e-8
        assert np.abs(found.sum(axis=0)).max() < 1e-12


def test_virial_is_minus_the_strain_derivative(evaluate: Evaluate, structures: list[Atoms], graph_of: GraphOf) -> None:
    virials = values(evaluate(graph_of(structures), forces=False, virial=True))["virial"]
    for atoms, virial in zip(structures, virials, strict=True):
        energies = values(evaluate(graph_of(strained(atoms)), forces=False))["energy"]
        expected = -four_point(energies.reshape(3, 3, 4), STEP)
        assert np.abs(expected).max() > 0.1
        assert largest(virial, expected) < 1e-8
        assert largest(virial, virial.T) < 1e-12


def test_virial_of_an_open_system_is_the_sum_of_positions_times_forces(
    evaluate: Evaluate, make_molecule: MakeAtoms, graph_of: GraphOf
) -> None:
    atoms = make_molecule(7, seed=23)
    outputs = values(evaluate(graph_of([atoms]), virial=True))
    assert largest(outputs["virial"][0], atoms.positions.T @ outputs["forces"]) < 1e-12


def test_outputs_appear_when_requested(
    evaluate: Evaluate,
    model_name: str,
    mixed_structures: list[Atoms],
    potential_of: PotentialOf,
    graph_of: GraphOf,
) -> None:
    graph = graph_of(mixed_structures)
    always = {"energy", "atomic_energy", "level_energies", "hierarchicality"}
    always |= potential_of(model_name).terms[0](graph).keys() - {"energies"}  # what the readout adds
    n_atoms, n_systems = len(graph.species), graph.n_systems
    for forces in (False, True):
        for virial in (False, True):
            outputs = evaluate(graph, forces=forces, virial=virial)
            assert set(outputs) == always.union(["forces"] * forces, ["virial", "stress"] * virial)
            assert outputs["energy"].shape == outputs["hierarchicality"].shape == (n_systems,)
            assert outputs["atomic_energy"].shape == (n_atoms,)
    assert outputs["forces"].shape == (n_atoms, 3)
    assert outputs["virial"].shape == (n_systems, 3, 3)
    found = values(outputs)
    np.testing.assert_allclose(found["level_energies"].sum(axis=1), found["atomic_energy"], rtol=1e-14)
    sums = np.bincount(graph.system.numpy(), weights=found["atomic_energy"], minlength=n_systems)
    np.testing.assert_allclose(found["energy"], sums, rtol=1e-14)


def test_invariant_under_permutation(evaluate: Evaluate, structures: list[Atoms], graph_of: GraphOf) -> None:
    rng = np.random.default_rng(0)
    orders = [rng.permutation(len(atoms)) for atoms in structures]
    permuted = [atoms[order] for atoms, order in zip(structures, orders, strict=True)]
    before, after = (values(evaluate(graph_of(some), virial=True)) for some in (structures, permuted))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["virial"], before["virial"]) < 1e-10
    forces = [part[order] for part, order in zip(each(structures, before["forces"]), orders, strict=True)]
    assert largest(after["forces"], np.concatenate(forces)) < 1e-10


def test_invariant_under_translation(evaluate: Evaluate, structures: list[Atoms], graph_of: GraphOf) -> None:
    """Of the whole, and of single atoms by lattice vectors of periodic directions."""
    rng = np.random.default_rng(0)
    translated = []
    for atoms in structures:
        copy = atoms.copy()
        lattice = rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
        copy.positions += np.array([3.1, -7.7, 11.3]) + lattice @ atoms.cell.array
        translated.append(copy)
    before, after = (values(evaluate(graph_of(some), virial=True)) for some in (structures, translated))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["forces"], before["forces"]) < 1e-10
    assert largest(after["virial"], before["virial"]) < 1e-10


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_rotates_with_the_structure(
    evaluate: Evaluate, structures: list[Atoms], handedness: int, graph_of: GraphOf
) -> None:
    matrix = handedness * Rotation.random(random_state=np.random.RandomState(5)).as_matrix()
    turned = [atoms.copy() for atoms in structures]
    for atoms in turned:
        atoms.set_cell(atoms.cell.array @ matrix.T)
        atoms.positions = atoms.positions @ matrix.T
    before, after = (values(evaluate(graph_of(some), virial=True)) for some in (structures, turned))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["atomic_energy"], before["atomic_energy"]) < 1e-12
    assert largest(after["forces"], before["forces"] @ matrix.T) < 1e-10
    assert largest(after["virial"], matrix @ before["virial"] @ matrix.T) < 1e-10


def test_far_apart_copies_add_up(evaluate: Evaluate, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    first, second = make_molecule(6, seed=24), make_molecule(5, seed=25)
    far = second.copy()
    far.positions += [60.0, -40.0, 10.0]
    a, b, both = (values(evaluate(graph_of([s]), virial=True)) for s in (first, second, first + far))
    np.testing.assert_allclose(both["energy"], a["energy"] + b["energy"], rtol=1e-13)
    assert largest(both["forces"], np.concatenate([a["forces"], b["forces"]])) < 1e-12
    assert largest(both["virial"], a["virial"] + b["virial"]) < 1e-11


def test_supercell_is_the_periodic_cell_repeated(evaluate: Evaluate, make_box: MakeAtoms, graph_of: GraphOf) -> None:
    atoms = make_box(3, seed=26)
    assert atoms.cell.lengths().min() < CUTOFF
    cell = values(evaluate(graph_of([atoms]), virial=True))
    repeated = values(evaluate(graph_of([atoms.repeat((2, 1, 3))]), virial=True))
    np.testing.assert_allclose(repeated["energy"], 6 * cell["energy"], rtol=1e-13)
    assert largest(repeated["forces"], np.tile(cell["forces"], (6, 1))) < 1e-11
    assert largest(repeated["virial"], 6 * cell["virial"]) < 1e-11


@pytest.mark.parametrize("way", [way for way in WAYS if way != "exported"])  # not worth an export
def test_inside_of_a_cluster_is_the_periodic_cell(
    model_name: str, way: str, make_box: MakeAtoms, evaluator_of: EvaluatorOf, graph_of: GraphOf
) -> None:
    """An explicit open cluster, large enough, gives its inner atoms the periodic energy."""
    evaluate = evaluator_of(model_name, way, n_interactions=1)
    atoms = make_box(2, seed=27, length=3.5)
    cell = values(evaluate(graph_of([atoms])))
    cluster = atoms.repeat((5, 5, 5))
    middle = slice(62 * 2, 63 * 2)
    cluster.pbc = False
    outputs = values(evaluate(graph_of([cluster]), forces=False))
    np.testing.assert_allclose(outputs["atomic_energy"][middle], cell["atomic_energy"], rtol=1e-12)
    everywhere = outputs["atomic_energy"].reshape(-1, 2)
    assert np.abs(everywhere - cell["atomic_energy"]).max() > 1e-3  # the surface is not the inside


def test_batch_equals_singles(evaluate: Evaluate, mixed_structures: list[Atoms], graph_of: GraphOf) -> None:
    batch = values(evaluate(graph_of(mixed_structures), virial=True))
    singles = [values(evaluate(graph_of([atoms]), virial=True)) for atoms in mixed_structures]
    for key, together in batch.items():
        assert largest(together, np.concatenate([single[key] for single in singles])) < 1e-11, key


def test_isolated_atom(
    evaluate: Evaluate, model_name: str, isolated_atom: Atoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """No forces, and an energy that does not depend on where it is or what else is in the batch."""
    outputs = values(evaluate(graph_of([isolated_atom]), virial=True))
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert not outputs["forces"].any()
    assert not outputs["virial"].any()
    assert outputs["level_energies"][0, 0] == float(potential_of(model_name).e0[0, 2])
    large_box = Atoms("N", [[1.0, 2.0, 3.0]], cell=20 * np.eye(3), pbc=True)
    both = values(evaluate(graph_of([isolated_atom, large_box])))
    np.testing.assert_allclose(both["energy"], outputs["energy"][0], rtol=1e-14, atol=1e-14)


def test_diatomic(evaluate: Evaluate, diatomic: MakeAtoms, graph_of: GraphOf) -> None:
    """Forces lie on the axis, are opposite, and are the slope of the energy."""
    forces = values(evaluate(graph_of([diatomic(1.4)])))["forces"]
    axis = np.array([0.36, -0.48, 0.8])
    stencil = [diatomic(1.4 + count * STEP) for count in (-2, -1, 1, 2)]
    slope = four_point(values(evaluate(graph_of(stencil), forces=False))["energy"], STEP)
    assert abs(slope) > 1e-2
    assert largest(forces, np.outer([1.0, -1.0], axis) * slope) < 1e-8
    assert np.abs(forces[0] + forces[1]).max() < 1e-14


def across_the_cutoff(
    evaluate: Evaluate, graph_of: GraphOf, atoms: Atoms, gap: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs with the last atom just inside and just outside of the cutoff of the first, its only neighbour there."""
    axis = (atoms.positions[-1] - atoms.positions[0]) / np.linalg.norm(atoms.positions[-1] - atoms.positions[0])
    outputs = []
    for distance in (CUTOFF - gap, CUTOFF + gap):
        copy = atoms.copy()
        copy.positions[-1] = atoms.positions[0] + distance * axis
        graph = graph_of([copy])
        outputs.append((values(evaluate(graph)), len(graph.pair_i)))
    (inside, n_inside), (outside, n_outside) = outputs
    assert n_inside == n_outside + 2
    return inside, outside


@pytest.mark.parametrize("surroundings", ["two atoms", "another neighbour"])
def test_energy_and_forces_are_continuous_at_the_cutoff(
    evaluate: Evaluate, surroundings: str, diatomic: MakeAtoms, graph_of: GraphOf
) -> None:
    """Differences across the cutoff vanish with the gap; a jump would stay."""
    atoms = diatomic(1.3)
    if surroundings == "another neighbour":
        atoms = Atoms("CHO", [[0.0, 0.0, 0.0], [-1.1, 0.2, 0.0], [1.3, 0.0, 0.0]])
    scale = values(evaluate(graph_of([atoms])))
    jumps = []
    for gap in (1e-3, 1e-4, 1e-5):
        inside, outside = across_the_cutoff(evaluate, graph_of, atoms, gap)
        jumps.append([np.abs(inside[key] - outside[key]).max() for key in ("energy", "forces")])
    energy, forces = np.array(jumps).T
    assert forces[0] > 0
    assert (forces[1:] < 0.2 * forces[:-1]).all()
    assert energy[2] < 1e-8 * np.abs(scale["energy"]).max()
    assert forces[2] < 1e-3 * np.abs(scale["forces"]).max()


def test_ghosts_act_but_carry_no_energy(evaluate: Evaluate, mixed_structures: list[Atoms], graph_of: GraphOf) -> None:
    """Two domains that share the atoms of a structure add up to the whole; each one's forces are its energy's."""
    atoms = mixed_structures[0]
    whole = values(evaluate(graph_of([atoms]), virial=True))
    n_owned, n_atoms = 3, len(atoms)
    energy, virial, forces = 0.0, np.zeros((3, 3)), np.zeros((n_atoms, 3))
    for first in (np.arange(n_owned), np.arange(n_owned, n_atoms)):
        order = np.concatenate([first, np.setdiff1d(np.arange(n_atoms), first)])
        graph = graph_of([atoms[order]])._replace(n_owned=len(first))
        outputs = values(evaluate(graph, virial=True))
        np.testing.assert_allclose(outputs["atomic_energy"][: len(first)], whole["atomic_energy"][first], rtol=1e-12)
        assert not outputs["atomic_energy"][len(first) :].any()
        assert not outputs["level_energies"][len(first) :].any()
        np.testing.assert_allclose(outputs["energy"], whole["atomic_energy"][first].sum(), rtol=1e-12)
        assert np.abs(outputs["forces"][len(first) :]).max() > 1e-3  # forces act on ghosts too
        energy += outputs["energy"][0]
        virial += outputs["virial"][0]
        forces[order] += outputs["forces"]
        energies = []
        for count in (-2, -1, 1, 2):
            copy = atoms[order]
            copy.positions[-1] += count * STEP * DIRECTION  # of a ghost
            energies.append(values(evaluate(graph_of([copy])._replace(n_owned=len(first)), forces=False))["energy"][0])
        expected = -four_point(np.array(energies), STEP)
        assert outputs["forces"][-1] @ DIRECTION == pytest.approx(expected, abs=1e-8 * np.abs(outputs["forces"]).max())
    assert energy == pytest.approx(whole["energy"][0], rel=1e-13)
    assert largest(virial, whole["virial"][0]) < 1e-11
    assert largest(forces, whole["forces"]) < 1e-11


@pytest.mark.parametrize("make_list", PAIR_LISTS)
def test_pairs_without_all_reverses(
    model_name: str,
    way: str,
    make_list: MakeList,
    make_box: MakeAtoms,
    graph_of: GraphOf,
    evaluator_of: EvaluatorOf,
) -> None:
    """Twins that rely on reverses must detect that some are missing: all numbers equal those of the plain modules."""
    graph = make_list(graph_of([make_box(4, seed=3)]))
    expected = values(evaluator_of(model_name, "plain")(graph, virial=True))
    found = values(evaluator_of(model_name, way)(graph, virial=True))
    assert np.abs(expected["forces"]).max() > 1e-3
    for key, value in expected.items():
        assert largest(found[key], value) < 1e-11, key


def test_forces_of_a_directed_cycle_are_finite_differences(
    evaluate: Evaluate, make_box: MakeAtoms, graph_of: GraphOf
) -> None:
    graph = directed_cycle(graph_of([make_box(4, seed=3)]))
    direction = torch.randn(graph.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    forces = values(evaluate(graph))["forces"]
    energies = [
        values(evaluate(moved(graph, graph.positions + count * STEP * direction), forces=False))["energy"][0]
        for count in (-2, -1, 1, 2)
    ]
    expected = -four_point(np.array(energies), STEP)
    assert abs(expected) > 1e-3
    assert float((forces * direction.numpy()).sum()) == pytest.approx(expected, rel=1e-7)
