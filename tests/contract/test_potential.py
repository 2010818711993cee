"""What every model of conf/model must do as a potential: derivatives, symmetries, limits, precision, TorchScript."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.potential import Potential, hierarchicality
from hiphop_train.types import Graph, Outputs

MakeAtoms = Callable[..., Atoms]
GraphOf = Callable[..., Graph]
PotentialOf = Callable[..., Potential]

KINDS = ["molecule", "cell smaller than the cutoff", "slab", "wire"]
CUTOFF = 4.0
E0 = 2e4 / 3  # eV


@pytest.fixture(params=KINDS)
def atoms(request: pytest.FixtureRequest, make_molecule: MakeAtoms, make_box: MakeAtoms) -> Atoms:
    """A structure of each kind."""
    if request.param == "molecule":
        return make_molecule(7, seed=21)
    pbc = {
        "cell smaller than the cutoff": (True, True, True),
        "slab": (True, False, True),
        "wire": (False, True, False),
    }
    return make_box(4, seed=22, pbc=pbc[request.param])


def values(outputs: Outputs) -> dict[str, np.ndarray]:
    return {key: value.detach().numpy() for key, value in outputs.items()}


def largest(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest deviation, relative to the largest expected value; where all are zero, any deviation is infinite."""
    deviation, size = np.abs(found - expected).max(), np.abs(expected).max()
    return float(deviation / size) if deviation else 0.0


def four_point(energies: np.ndarray, step: float) -> np.ndarray:
    """First derivative from values at -2, -1, 1, 2 steps (last axis), exact to fourth order."""
    return (energies @ np.array([1.0, -8.0, 8.0, -1.0])) / (12 * step)


def displaced(atoms: Atoms, step: float) -> list[Atoms]:
    found = []
    for index in range(3 * len(atoms)):
        for count in (-2, -1, 1, 2):
            copy = atoms.copy()
            copy.positions[index // 3, index % 3] += count * step
            found.append(copy)
    return found


def strained(atoms: Atoms, step: float) -> list[Atoms]:
    found = []
    for index in range(9):
        for count in (-2, -1, 1, 2):
            strain = np.eye(3)
            strain[index // 3, index % 3] += count * step
            copy = atoms.copy()
            copy.set_cell(atoms.cell.array @ strain)
            copy.positions = atoms.positions @ strain
            found.append(copy)
    return found


def test_the_battery_finds_the_models() -> None:
    """An empty folder would make every test here pass."""
    names = {file.stem for file in (Path(__file__).resolve().parents[2] / "conf" / "model").glob("*.yaml")}
    assert {"hiphop", "hipnn"} <= names


def test_forces_are_finite_differences(
    model_name: str, atoms: Atoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, step = potential_of(model_name), 2e-4
    forces = values(potential(graph_of([atoms])))["forces"]
    energies = values(potential(graph_of(displaced(atoms, step)), forces=False))["energy"]
    expected = -four_point(energies.reshape(-1, 3, 4), step)
    assert np.abs(expected).max() > 0.1
    assert largest(forces, expected) < 1e-8
    assert np.abs(forces.sum(axis=0)).max() < 1e-12


def test_virial_is_minus_the_strain_derivative(
    model_name: str, atoms: Atoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, step = potential_of(model_name), 2e-4
    virial = values(potential(graph_of([atoms]), forces=False, virial=True))["virial"][0]
    energies = values(potential(graph_of(strained(atoms, step)), forces=False))["energy"]
    expected = -four_point(energies.reshape(3, 3, 4), step)
    assert np.abs(expected).max() > 0.1
    assert largest(virial, expected) < 1e-8
    assert largest(virial, virial.T) < 1e-12


def test_virial_of_an_open_system_is_the_sum_of_positions_times_forces(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    atoms = make_molecule(7, seed=23)
    outputs = values(potential_of(model_name)(graph_of([atoms]), virial=True))
    assert largest(outputs["virial"][0], atoms.positions.T @ outputs["forces"]) < 1e-12


def test_outputs_appear_when_asked_for(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of(model_name), graph_of(mixed_structures)
    always = {"energy", "atomic_energy", "level_energies", "hierarchicality"}
    always |= potential.terms[0](graph).keys() - {"energies"}  # what the readout adds
    n_atoms, n_systems = len(graph.species), graph.n_systems
    for forces in (False, True):
        for virial in (False, True):
            outputs = potential(graph, forces=forces, virial=virial)
            assert set(outputs) == always.union(["forces"] * forces, ["virial", "stress"] * virial)
            assert outputs["energy"].shape == outputs["hierarchicality"].shape == (n_systems,)
            assert outputs["atomic_energy"].shape == (n_atoms,)
    assert outputs["forces"].shape == (n_atoms, 3)
    assert outputs["virial"].shape == (n_systems, 3, 3)
    found = values(outputs)
    np.testing.assert_allclose(found["level_energies"].sum(axis=1), found["atomic_energy"], rtol=1e-14)
    sums = np.bincount(graph.system.numpy(), weights=found["atomic_energy"], minlength=n_systems)
    np.testing.assert_allclose(found["energy"], sums, rtol=1e-14)


def test_invariant_under_permutation(
    model_name: str, atoms: Atoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of(model_name)
    order = np.random.default_rng(0).permutation(len(atoms))
    assert (order != np.arange(len(atoms))).any()
    before = values(potential(graph_of([atoms]), virial=True))
    after = values(potential(graph_of([atoms[order]]), virial=True))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["forces"], before["forces"][order]) < 1e-10
    assert largest(after["virial"], before["virial"]) < 1e-10


def test_invariant_under_translation(
    model_name: str, atoms: Atoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Of the whole, and of single atoms by lattice vectors of periodic directions."""
    potential = potential_of(model_name)
    moved = atoms.copy()
    moved.positions += [3.1, -7.7, 11.3]
    lattice = np.random.default_rng(0).integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    moved.positions += lattice @ atoms.cell.array
    before, after = (values(potential(graph_of([a]), virial=True)) for a in (atoms, moved))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["forces"], before["forces"]) < 1e-10
    assert largest(after["virial"], before["virial"]) < 1e-10


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_turns_with_the_structure(
    model_name: str, atoms: Atoms, handedness: int, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of(model_name)
    matrix = handedness * Rotation.random(random_state=np.random.RandomState(5)).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ matrix.T)
    turned.positions = atoms.positions @ matrix.T
    before, after = (values(potential(graph_of([a]), virial=True)) for a in (atoms, turned))
    assert largest(after["energy"], before["energy"]) < 1e-12
    assert largest(after["atomic_energy"], before["atomic_energy"]) < 1e-12
    assert largest(after["forces"], before["forces"] @ matrix.T) < 1e-10
    assert largest(after["virial"][0], matrix @ before["virial"][0] @ matrix.T) < 1e-10


def test_far_apart_copies_add_up(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of(model_name)
    first, second = make_molecule(6, seed=24), make_molecule(5, seed=25)
    far = second.copy()
    far.positions += [60.0, -40.0, 10.0]
    a, b, both = (values(potential(graph_of([s]), virial=True)) for s in (first, second, first + far))
    np.testing.assert_allclose(both["energy"], a["energy"] + b["energy"], rtol=1e-13)
    assert largest(both["forces"], np.concatenate([a["forces"], b["forces"]])) < 1e-12
    assert largest(both["virial"], a["virial"] + b["virial"]) < 1e-11


def test_supercell_is_the_periodic_cell_repeated(
    model_name: str, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, atoms = potential_of(model_name), make_box(3, seed=26)
    assert atoms.cell.lengths().min() < CUTOFF
    cell = values(potential(graph_of([atoms]), virial=True))
    repeated = values(potential(graph_of([atoms.repeat((2, 1, 3))]), virial=True))
    np.testing.assert_allclose(repeated["energy"], 6 * cell["energy"], rtol=1e-13)
    assert largest(repeated["forces"], np.tile(cell["forces"], (6, 1))) < 1e-11
    assert largest(repeated["virial"], 6 * cell["virial"]) < 1e-11


def test_inside_of_a_cluster_is_the_periodic_cell(
    model_name: str, make_box: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """An explicit open cluster, large enough, gives its inner atoms the periodic energy."""
    potential = potential_of(model_name, n_interactions=1)
    atoms = make_box(2, seed=27, length=3.5)
    cell = values(potential(graph_of([atoms])))
    cluster = atoms.repeat((5, 5, 5))
    middle = slice(62 * 2, 63 * 2)
    cluster.pbc = False
    outputs = values(potential(graph_of([cluster]), forces=False))
    np.testing.assert_allclose(outputs["atomic_energy"][middle], cell["atomic_energy"], rtol=1e-12)
    everywhere = outputs["atomic_energy"].reshape(-1, 2)
    assert np.abs(everywhere - cell["atomic_energy"]).max() > 1e-3  # the surface is no inside


def test_batch_equals_singles(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential = potential_of(model_name)
    batch = values(potential(graph_of(mixed_structures), virial=True))
    singles = [values(potential(graph_of([atoms]), virial=True)) for atoms in mixed_structures]
    for key, together in batch.items():
        assert largest(together, np.concatenate([single[key] for single in singles])) < 1e-11, key


def test_isolated_atom(model_name: str, isolated_atom: Atoms, potential_of: PotentialOf, graph_of: GraphOf) -> None:
    """No forces, and an energy that does not depend on where it is or what else is in the batch."""
    potential = potential_of(model_name)
    outputs = values(potential(graph_of([isolated_atom]), virial=True))
    assert all(np.isfinite(value).all() for value in outputs.values())
    assert not outputs["forces"].any()
    assert not outputs["virial"].any()
    assert outputs["level_energies"][0, 0] == float(potential.e0[0, 2])
    large_box = Atoms("N", [[1.0, 2.0, 3.0]], cell=20 * np.eye(3), pbc=True)
    both = values(potential(graph_of([isolated_atom, large_box])))
    np.testing.assert_allclose(both["energy"], outputs["energy"][0], rtol=1e-14)


def test_diatomic(model_name: str, diatomic: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf) -> None:
    """Forces lie on the axis, are opposite, and are the slope of the energy."""
    potential, step = potential_of(model_name), 2e-4
    forces = values(potential(graph_of([diatomic(1.3)])))["forces"]
    axis = np.array([0.36, -0.48, 0.8])
    stencil = [diatomic(1.3 + count * step) for count in (-2, -1, 1, 2)]
    slope = four_point(values(potential(graph_of(stencil), forces=False))["energy"], step)
    assert abs(slope) > 1e-2
    assert largest(forces, np.outer([1.0, -1.0], axis) * slope) < 1e-8
    assert np.abs(forces[0] + forces[1]).max() < 1e-14


def across_the_cutoff(
    potential: Potential, graph_of: GraphOf, atoms: Atoms, gap: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Outputs with the last atom just inside and just outside of the cutoff of the first, its only neighbour there."""
    axis = (atoms.positions[-1] - atoms.positions[0]) / np.linalg.norm(atoms.positions[-1] - atoms.positions[0])
    outputs = []
    for distance in (CUTOFF - gap, CUTOFF + gap):
        moved = atoms.copy()
        moved.positions[-1] = atoms.positions[0] + distance * axis
        graph = graph_of([moved])
        outputs.append((values(potential(graph)), len(graph.pair_i)))
    (inside, n_inside), (outside, n_outside) = outputs
    assert n_inside == n_outside + 2
    return inside, outside


@pytest.mark.parametrize("surroundings", ["two atoms", "another neighbour"])
def test_energy_and_forces_are_continuous_at_the_cutoff(
    model_name: str, surroundings: str, diatomic: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Differences across the cutoff vanish with the gap; a jump would stay."""
    potential = potential_of(model_name)
    atoms = diatomic(1.3)
    if surroundings == "another neighbour":
        atoms = Atoms("CHO", [[0.0, 0.0, 0.0], [-1.1, 0.2, 0.0], [1.3, 0.0, 0.0]])
    scale = values(potential(graph_of([atoms])))
    jumps = []
    for gap in (1e-3, 1e-4, 1e-5):
        inside, outside = across_the_cutoff(potential, graph_of, atoms, gap)
        jumps.append([np.abs(inside[key] - outside[key]).max() for key in ("energy", "forces")])
    energy, forces = np.array(jumps).T
    assert forces[0] > 0
    assert (forces[1:] < 0.2 * forces[:-1]).all()
    assert energy[2] < 1e-8 * np.abs(scale["energy"]).max()
    assert forces[2] < 1e-3 * np.abs(scale["forces"]).max()


def test_single_precision_is_close_to_double(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Energies are float64 whatever the network is, and a large E0 costs no accuracy."""
    single, double = potential_of(model_name, torch.float32), potential_of(model_name, torch.float64)
    double.load_state_dict(single.state_dict())
    for potential in (single, double):
        potential.e0.fill_(-E0)  # which float32 cannot hold
    rounded = single(graph_of(mixed_structures, dtype=torch.float32), virial=True)
    exact = double(graph_of(mixed_structures, dtype=torch.float64), virial=True)
    for key in ("energy", "atomic_energy", "level_energies"):
        assert rounded[key].dtype == exact[key].dtype == torch.float64
    assert rounded["forces"].dtype == torch.float32
    assert exact["forces"].dtype == torch.float64
    small, fine = values(rounded), values(exact)
    assert largest(small["level_energies"][:, 1:], fine["level_energies"][:, 1:]) < 1e-5
    n_atoms = np.array([len(atoms) for atoms in mixed_structures])
    assert largest(small["energy"] + E0 * n_atoms, fine["energy"] + E0 * n_atoms) < 1e-5
    assert largest(small["forces"], fine["forces"]) < 1e-4
    assert largest(small["virial"], fine["virial"]) < 1e-4
    assert np.abs(small["forces"] - fine["forces"]).max() > 0  # it was another precision


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_torchscript_agrees(
    model_name: str, dtype: torch.dtype, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Scripted, saved and loaded; again at other shapes and after the profiled runs, when TorchScript optimises."""
    potential = potential_of(model_name, dtype)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(potential), buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    bound = 1e-11 if dtype == torch.float64 else 1e-5
    for structures in (mixed_structures, mixed_structures[:1], mixed_structures[2:3], mixed_structures[::-1]):
        graph = graph_of(structures, dtype=dtype)
        eager, scripted = values(potential(graph, virial=True)), values(loaded(graph, virial=True))
        assert set(scripted) == set(eager)
        for key, value in eager.items():
            assert scripted[key].dtype == value.dtype
            assert np.abs(scripted[key] - value).max() <= bound * max(1.0, np.abs(value).max()), key


def test_ghosts_act_but_carry_no_energy(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Two domains that share the atoms of a structure add up to the whole; each one's forces are its energy's."""
    potential, atoms = potential_of(model_name), mixed_structures[0]
    whole = values(potential(graph_of([atoms]), virial=True))
    n_owned, n_atoms = 3, len(atoms)
    energy, virial, forces = 0.0, np.zeros((3, 3)), np.zeros((n_atoms, 3))
    for first in (np.arange(n_owned), np.arange(n_owned, n_atoms)):
        order = np.concatenate([first, np.setdiff1d(np.arange(n_atoms), first)])
        graph = graph_of([atoms[order]])._replace(n_owned=len(first))
        outputs = values(potential(graph, virial=True))
        np.testing.assert_allclose(outputs["atomic_energy"][: len(first)], whole["atomic_energy"][first], rtol=1e-12)
        assert not outputs["atomic_energy"][len(first) :].any()
        assert not outputs["level_energies"][len(first) :].any()
        np.testing.assert_allclose(outputs["energy"], whole["atomic_energy"][first].sum(), rtol=1e-12)
        assert np.abs(outputs["forces"][len(first) :]).max() > 1e-3  # forces act on ghosts too
        energy += outputs["energy"][0]
        virial += outputs["virial"][0]
        forces[order] += outputs["forces"]
        step = 2e-4
        energies = [
            values(potential(graph_of([copy])._replace(n_owned=len(first)), forces=False))["energy"][0]
            for copy in displaced(atoms[order], step)[-12:]  # the last atom, a ghost
        ]
        expected = -four_point(np.array(energies).reshape(3, 4), step)
        np.testing.assert_allclose(outputs["forces"][-1], expected, atol=1e-8 * np.abs(outputs["forces"]).max())
    assert energy == pytest.approx(whole["energy"][0], rel=1e-13)
    assert largest(virial, whole["virial"][0]) < 1e-11
    assert largest(forces, whole["forces"]) < 1e-11


def test_level_of_theory_chooses_its_row_of_e0(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    one = potential_of(model_name)
    two = Potential(list(one.terms), one.elements, one.cutoff, n_levels_of_theory=2).eval()
    two.e0.copy_(torch.stack([one.e0[0], 2 * one.e0[0] - 1]))
    atoms = make_molecule(5, seed=28)
    graph = graph_of([atoms, atoms])._replace(level=torch.tensor([1, 0]))
    outputs = values(two(graph))
    expected = values(one(graph_of([atoms])))
    change = sum(float(one.e0[0, "HCNO".index(symbol)]) - 1 for symbol in atoms.symbols)
    np.testing.assert_allclose(outputs["energy"], expected["energy"] + np.array([change, 0.0]), rtol=1e-13)
    assert largest(outputs["forces"], np.tile(expected["forces"], (2, 1))) < 1e-12


def test_scale_multiplies_the_network(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of(model_name), graph_of([make_molecule(5, seed=29)])
    before = values(potential(graph))
    potential.terms[0].scale.mul_(3.0)
    after = values(potential(graph))
    np.testing.assert_allclose(after["level_energies"][:, 1:], 3 * before["level_energies"][:, 1:], rtol=1e-13)
    np.testing.assert_allclose(after["level_energies"][:, 0], before["level_energies"][:, 0], rtol=0)
    assert largest(after["forces"], 3 * before["forces"]) < 1e-12


def test_training_mode_gives_the_same_numbers(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    potential, graph = potential_of(model_name), graph_of(mixed_structures)
    evaluated = values(potential(graph, virial=True))
    trained = values(potential.train()(graph, virial=True))
    for key, value in evaluated.items():
        assert largest(trained[key], value) < 1e-13, key


def test_parameter_gradient_of_a_force_loss(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Second derivatives, along random directions of all parameters, against finite differences of the loss."""
    potential, graph = potential_of(model_name).train(), graph_of(mixed_structures)
    parameters = list(potential.parameters())

    def loss() -> Tensor:
        outputs = potential(graph)
        further = [
            outputs[key].square().sum() for key in potential.targets if key not in ("energy", "forces", "stress")
        ]
        return outputs["forces"].square().sum() + (outputs["energy"] * 0.1).square().sum() + sum(further)

    gradients = torch.autograd.grad(loss(), parameters)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    generator = torch.Generator().manual_seed(0)
    step = 1e-4
    for _ in range(3):
        direction = [torch.randn(p.shape, dtype=p.dtype, generator=generator) for p in parameters]
        slope = float(sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)))
        losses, at = [], 0
        for count in (-2, -1, 1, 2):
            with torch.no_grad():
                for parameter, change in zip(parameters, direction, strict=True):
                    parameter.add_((count - at) * step * change)
            at = count
            losses.append(float(loss().detach()))
        with torch.no_grad():
            for parameter, change in zip(parameters, direction, strict=True):
                parameter.sub_(at * step * change)
        expected = float(four_point(np.array(losses), step))
        assert slope == pytest.approx(expected, rel=1e-6)


def test_hierarchicality_is_the_formula() -> None:
    """R = sum over levels of E_n^2 / (E_n^2 + E_(n-1)^2); two levels that vanish add nothing, and no NaN."""
    energies = np.random.default_rng(0).normal(size=(6, 4))
    energies[1, 1:3] = 0.0
    energies[2] = 0.0
    expected = np.zeros(6)
    for atom, levels in enumerate(energies):
        for lower, upper in itertools.pairwise(levels):
            if upper**2 + lower**2 > 0:
                expected[atom] += upper**2 / (upper**2 + lower**2)
    tensor = torch.from_numpy(energies).requires_grad_(True)
    found = hierarchicality(tensor)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-14, atol=1e-15)
    found.sum().backward()
    assert torch.isfinite(tensor.grad).all()


def test_hierarchicality_of_a_structure_is_the_mean_over_its_own_atoms(
    model_name: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Of energies that are levels; 0 of all others, so that the loss has no such term."""
    potential = potential_of(model_name)
    graph = graph_of(mixed_structures)
    outputs = potential(graph, forces=False)
    if not potential.is_hierarchical:
        assert not outputs["hierarchicality"].any()
        return
    of_atoms = hierarchicality(outputs["level_energies"]).detach().numpy()
    system = graph.system.numpy()
    expected = [of_atoms[system == k].mean() for k in range(graph.n_systems)]
    np.testing.assert_allclose(outputs["hierarchicality"].detach().numpy(), expected, rtol=1e-12)
    some = potential(graph_of(mixed_structures[:1])._replace(n_owned=3), forces=False)
    np.testing.assert_allclose(some["hierarchicality"].detach().numpy(), of_atoms[:3].mean(), rtol=1e-12)
