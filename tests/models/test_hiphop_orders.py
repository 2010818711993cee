"""HIP-HOP-NN with unpublished invariants: a potential like any other, up to the exported file.

The tests in tests/contract use the published set; here is what depends on the invariants.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from scipy.spatial.transform import Rotation

from hiphop_train.errors import ConfigError
from hiphop_train.export.torchscript import export, load
from hiphop_train.nn.invariants import invariant_contractions
from hiphop_train.potential import Potential
from hiphop_train.types import Graph

MakeAtoms = Callable[..., Atoms]
GraphOf = Callable[..., Graph]
PotentialOf = Callable[..., Potential]

ORDERS = [(3, 4), (4, 4), (5, 2), (2, 5), (0, 1)]


@pytest.fixture(params=ORDERS, ids=str)
def flexible(request: pytest.FixtureRequest, potential_of: PotentialOf) -> Potential:
    l_max, n_max = request.param
    return potential_of("hiphop", invariants="flexible", l_max=l_max, n_max=n_max)


@pytest.fixture
def structures(make_molecule: MakeAtoms, make_box: MakeAtoms) -> list[Atoms]:
    """A molecule, a cell smaller than the cutoff, and an isolated atom."""
    return [make_molecule(7, seed=31), make_box(3, seed=32), Atoms("N", [[0.3, -0.2, 5.0]])]


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_forces_rotate_with_the_structure(
    flexible: Potential, structures: list[Atoms], graph_of: GraphOf, handedness: int
) -> None:
    matrix = handedness * Rotation.random(random_state=np.random.RandomState(4)).as_matrix()
    turned = [
        Atoms(atoms.numbers, atoms.positions @ matrix.T, cell=atoms.cell.array @ matrix.T, pbc=atoms.pbc)
        for atoms in structures
    ]
    before, after = flexible(graph_of(structures)), flexible(graph_of(turned))
    torch.testing.assert_close(after["energy"], before["energy"], rtol=1e-12, atol=1e-10)
    expected = before["forces"].detach() @ torch.from_numpy(matrix).T
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(after["forces"].detach(), expected, rtol=1e-9, atol=1e-10)


def test_forces_and_their_derivatives_are_finite_differences(
    flexible: Potential, structures: list[Atoms], graph_of: GraphOf
) -> None:
    """The second derivative is the one that training takes, with respect to parameters."""
    generator = np.random.default_rng(5)
    direction = [generator.normal(size=atoms.positions.shape) for atoms in structures]

    def moved(step: float) -> list[Atoms]:
        copies = [atoms.copy() for atoms in structures]
        for atoms, shift in zip(copies, direction, strict=True):
            atoms.positions += step * shift
        return copies

    step = 2e-4
    graphs = [graph_of(moved(k * step)) for k in (-2, -1, 1, 2)]
    energies = [float(flexible(graph, forces=False)["energy"].detach().sum()) for graph in graphs]
    expected = -float(np.dot(energies, [1, -8, 8, -1])) / (12 * step)
    outputs = flexible(graph_of(structures))
    found = float((outputs["forces"].detach() * torch.from_numpy(np.concatenate(direction))).sum())
    assert abs(found - expected) < 1e-7 * max(1.0, abs(expected))

    parameter = flexible.terms[0].representation.interactions[0].mixing

    def force_norm() -> torch.Tensor:
        flexible.train()
        norm: torch.Tensor = flexible(graph_of(structures))["forces"].square().sum()
        return norm

    (slope,) = torch.autograd.grad(force_norm(), parameter)
    change = torch.randn(parameter.shape, dtype=parameter.dtype, generator=torch.Generator().manual_seed(6))
    values = []
    for k in (-2, -1, 1, 2):
        with torch.no_grad():
            parameter += k * 1e-5 * change
        values.append(float(force_norm().detach()))
        with torch.no_grad():
            parameter -= k * 1e-5 * change
    expected = float(np.dot(values, [1, -8, 8, -1])) / (12 * 1e-5)
    assert abs(expected) > 1e-3
    assert abs(float((slope * change).sum()) - expected) < 1e-6 * abs(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_exported_file_agrees(dtype: torch.dtype, potential_of: PotentialOf, graph_of: GraphOf, tmp_path: Path) -> None:
    potential = potential_of("hiphop", dtype, invariants="flexible", l_max=4, n_max=4)
    export(potential, tmp_path / "model.pt", {})  # compares with the potential, and raises where it differs
    model = load(tmp_path / "model.pt")
    atoms = Atoms("OCHNH", [[0, 0, 0.1], [0.8, 0.9, 0.6], [-0.7, 0, 0.7], [0.2, -1.2, -0.8], [1.6, -1.4, -1.1]])
    species = model.species_of(torch.from_numpy(atoms.numbers))
    cell, pbc = torch.zeros(3, 3, dtype=torch.float64), torch.tensor([False] * 3)
    found = model.energy_forces(species, torch.from_numpy(atoms.positions), cell, pbc)
    expected = potential(graph_of([atoms], dtype=dtype))
    bound = {torch.float32: 2e-5, torch.float64: 1e-11}[dtype]
    scale = float(expected["forces"].detach().abs().max())
    assert scale > 0.1
    assert (found["forces"] - expected["forces"].detach()).abs().max() < bound * scale
    assert (found["energy"] - expected["energy"][0].detach()).abs() < bound * 100


def test_flexible_set_contains_the_published_one(
    potential_of: PotentialOf, structures: list[Atoms], graph_of: GraphOf
) -> None:
    """With the weights of a published model, each at its invariant, and none for the fourteenth: the same energies."""
    published = potential_of("hiphop", invariants="published", group_norm=False)
    flexible = potential_of("hiphop", invariants="flexible", group_norm=False)
    theirs, ours = (invariant_contractions(kind, 3, 4) for kind in ("published", "flexible"))
    state = published.state_dict()
    for name in [name for name in state if name.endswith("mixing")]:
        spread = torch.zeros(14, *state[name].shape[1:], dtype=state[name].dtype)
        spread[[ours.index(contraction) for contraction in theirs]] = state[name]
        state[name] = spread
    flexible.load_state_dict(state)
    expected, found = (model(graph_of(structures)) for model in (published, flexible))
    torch.testing.assert_close(found["energy"], expected["energy"], rtol=1e-13, atol=1e-10)
    torch.testing.assert_close(found["forces"], expected["forces"], rtol=1e-9, atol=1e-10)


def test_orders_beyond_the_published_are_refused(potential_of: PotentialOf) -> None:
    with pytest.raises(ConfigError, match=r"model\.invariants=flexible"):
        potential_of("hiphop", l_max=4)
