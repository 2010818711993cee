"""Numbers of every model of conf/model: in all ways, precisions and scripted; second derivatives; hierarchicality."""

import io
import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.accelerate import accelerate
from hiphop_train.potential import Potential, hierarchicality
from tests.conftest import GraphOf, MakeAtoms, PotentialOf
from tests.contract.conftest import EvaluatorOf, accelerated, four_point, largest, values

E0 = 2e4 / 3  # eV


def test_all_ways_give_the_same_numbers(
    model_name: str, way: str, mixed_structures: list[Atoms], graph_of: GraphOf, evaluator_of: EvaluatorOf
) -> None:
    graph = graph_of(mixed_structures)
    expected = values(evaluator_of(model_name, "plain")(graph, virial=True))
    found = values(evaluator_of(model_name, way)(graph, virial=True))
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert largest(found[key], value) < 1e-12, key


@pytest.mark.parametrize("way", ["plain", "training", "inference"])  # of exported files, see tests/export
def test_single_precision_is_close_to_double(
    model_name: str, way: str, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Energies are float64 whatever the network is, and a large E0 costs no accuracy."""
    single, double = potential_of(model_name, torch.float32), potential_of(model_name, torch.float64)
    double.load_state_dict(single.state_dict())
    for potential in (single, double):
        potential.e0.fill_(-E0)  # which float32 cannot hold
    evaluate = single if way == "plain" else accelerated(single, way)
    rounded = evaluate(graph_of(mixed_structures, dtype=torch.float32), virial=True)
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


def test_level_of_theory_chooses_its_row_of_e0(
    model_name: str, make_molecule: MakeAtoms, potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    one = potential_of(model_name)
    two = Potential(list(one.terms), one.elements, one.cutoff, n_theories=2).eval()
    two.e0.copy_(torch.stack([one.e0[0], 2 * one.e0[0] - 1]))
    atoms = make_molecule(5, seed=28)
    graph = graph_of([atoms, atoms])._replace(theory=torch.tensor([1, 0]))
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


@pytest.mark.parametrize("is_accelerated", [False, True], ids=["plain", "accelerated"])
def test_parameter_gradient_of_a_force_loss(
    model_name: str, is_accelerated: bool, mixed_structures: list[Atoms], potential_of: PotentialOf, graph_of: GraphOf
) -> None:
    """Second derivatives, along random directions of all parameters, against finite differences of the loss."""
    potential, graph = potential_of(model_name).train(), graph_of(mixed_structures)
    if is_accelerated:
        accelerate(potential, torch.float64, torch.device("cpu"), "training")
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
    step = 1e-6  # norms of small tensors are sharply curved
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
