"""With hippynn's weights our HIP-NN, HIP-NN-TS and HIP-HOP-NN give its energies, forces and hierarchicality."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.neighborlist import primitive_neighbor_list
from torch import Tensor, nn

from hiphop_train.accelerate import accelerate
from hiphop_train.importing.hippynn import convert
from hiphop_train.models.base import Representation
from hiphop_train.models.hiphop import HIPHOP
from hiphop_train.models.hipnn import HIPNN
from hiphop_train.models.hipnn_ts import HIPNNTS
from hiphop_train.potential import Network, Potential, hierarchicality
from hiphop_train.readout.hierarchical import HierarchicalEnergy
from hiphop_train.types import Graph, Outputs
from tests.hippynn_reference import hippynn_in_float64

GraphOf = Callable[..., Graph]

ELEMENTS = ["H", "C", "N", "O"]
NUMBERS = [0, 1, 6, 7, 8]  # hippynn's first species is padding
SIZES = {"n_features": 16, "n_sensitivities": 6, "n_atom_layers": 2}
RANGE = {"cutoff": 4.0, "soft_min": 0.8, "soft_max": 3.5}
RELATIVE_BOUND = 1e-9


class Reference(NamedTuple):
    """hippynn's outputs for a batch."""

    energy: Tensor  # (n_systems,), without E0
    forces: Tensor  # (n_atoms, 3)
    atom_energy: Tensor  # (n_atoms,), with E0
    atom_hierarchicality: Tensor  # (n_atoms,)


@pytest.fixture(scope="module")
def hippynn() -> Iterator[ModuleType]:
    with hippynn_in_float64() as module:
        yield module


def hippynn_model(
    hippynn: ModuleType,
    n_features: int,
    n_interactions: int,
    invariants: dict[str, object] | None = None,
    plain: str = "Hipnn",
) -> tuple[nn.Module, nn.Module]:
    """Make hippynn's network and energy layer, with every parameter away from its default."""
    torch.manual_seed(n_interactions)
    sizes = {**SIZES, "n_features": n_features}
    arguments = dict(
        **sizes,
        n_interaction_layers=n_interactions,
        dist_soft_min=RANGE["soft_min"],
        dist_soft_max=RANGE["soft_max"],
        dist_hard_max=RANGE["cutoff"],
        possible_species=NUMBERS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # beta state, and settings with one invariant only
        if invariants is None:
            network = getattr(hippynn.networks.hipnn, plain)(**arguments)
        else:
            network = hippynn.networks.hiphop.HipHopNNModule(**arguments, **invariants)
    energy = hippynn.layers.targets.HEnergy(network.feature_sizes)
    network, energy = network.double(), energy.double()
    with torch.no_grad():
        for parameter in [*network.parameters(), *energy.parameters()]:
            if parameter.requires_grad:  # tensor constants do not
                parameter.add_(0.1 * torch.randn_like(parameter))
    return network, energy


def reference(network: nn.Module, energy: nn.Module, structures: Sequence[Atoms]) -> Reference:
    """Evaluate hippynn on pairs found by ASE."""
    positions = torch.from_numpy(np.concatenate([atoms.positions for atoms in structures])).requires_grad_(True)
    first, second, shifts, system = [], [], [], []
    start = 0
    for k, atoms in enumerate(structures):
        i, j, shift = primitive_neighbor_list("ijS", atoms.pbc, atoms.cell.array, atoms.positions, RANGE["cutoff"])
        first.append(i + start)
        second.append(j + start)
        shifts.append(shift @ atoms.cell.array)
        system += [k] * len(atoms)
        start += len(atoms)
    pair_first, pair_second, shift = (torch.from_numpy(np.concatenate(part)) for part in (first, second, shifts))
    vectors = positions[pair_second] - positions[pair_first] + shift
    numbers = np.concatenate([atoms.numbers for atoms in structures])
    species = torch.from_numpy(numbers[:, None] == np.array(NUMBERS[1:])).to(torch.float64)
    distance = vectors.norm(dim=1)
    scalar = type(network).__name__ == "Hipnn"
    geometry = (distance,) if scalar else (distance, vectors)
    features = network(species, pair_first, pair_second, *geometry)
    mol_index = torch.tensor(system)
    total, atom_energy, partial_sums, _, atom_hierarchicality, _, _ = energy(features, mol_index, len(structures))
    gradient = torch.autograd.grad(total.sum(), positions)[0]
    return Reference(
        energy=(total - partial_sums[0])[:, 0].detach(),
        forces=-gradient,
        atom_energy=atom_energy[:, 0].detach(),
        atom_hierarchicality=atom_hierarchicality[:, 0].detach(),
    )


def compare(
    representation: Representation,
    network: nn.Module,
    energy: nn.Module,
    structures: Sequence[Atoms],
    graph_of: GraphOf,
) -> None:
    readout = HierarchicalEnergy(representation.feature_sizes)
    potential = Potential([Network(representation.double(), readout.double())], ELEMENTS, RANGE["cutoff"])
    state = nn.ModuleDict({"network": network, "energy": energy}).state_dict()
    potential.load_state_dict(convert(state, RANGE["cutoff"], "eV", ELEMENTS).weights)
    expected = reference(network, energy, structures)
    graph = graph_of(structures, elements=ELEMENTS, cutoff=RANGE["cutoff"])
    for purpose in (None, "training", "inference"):
        if purpose is not None:
            accelerate(potential, torch.float64, torch.device("cpu"), purpose)
        assert_equal(potential(graph), expected, graph)


def assert_equal(outputs: Outputs, expected: Reference, graph: Graph) -> None:
    levels = outputs["level_energies"].detach()
    learned = torch.zeros(graph.n_systems, dtype=torch.float64).index_add(0, graph.system, levels[:, 1:].sum(1))
    relative = (learned - expected.energy).abs() / expected.energy.abs()
    assert relative.max() < RELATIVE_BOUND
    forces = outputs["forces"].detach()
    assert expected.forces.abs().max() > 0.1
    assert (forces - expected.forces).abs().max() / expected.forces.abs().max() < RELATIVE_BOUND
    torch.testing.assert_close(outputs["atomic_energy"].detach(), expected.atom_energy, rtol=RELATIVE_BOUND, atol=1e-12)
    torch.testing.assert_close(hierarchicality(levels), expected.atom_hierarchicality, rtol=RELATIVE_BOUND, atol=0)
    of_system = [expected.atom_hierarchicality[graph.system == k].mean() for k in range(graph.n_systems)]
    torch.testing.assert_close(outputs["hierarchicality"].detach(), torch.stack(of_system), rtol=RELATIVE_BOUND, atol=0)


def hiphop(n_features: int, n_interactions: int, **invariants: object) -> HIPHOP:
    return HIPHOP(ELEMENTS, n_interactions=n_interactions, **{**SIZES, "n_features": n_features}, **RANGE, **invariants)


@pytest.mark.parametrize("n_max", [1, 2, 3, 4])
@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_hiphop_of_every_order(
    hippynn: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, l_max: int, n_max: int
) -> None:
    """Open and periodic structures and an isolated atom in one batch."""
    network, energy = hippynn_model(hippynn, 16, 2, {"l_max": l_max, "n_max": n_max})
    compare(hiphop(16, 2, l_max=l_max, n_max=n_max), network, energy, mixed_structures, graph_of)


@pytest.mark.parametrize("group_norm", [True, False])
@pytest.mark.parametrize("n_interactions", [1, 2, 3])
def test_hiphop_of_one_to_three_interactions(
    hippynn: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, n_interactions: int, group_norm: bool
) -> None:
    network, energy = hippynn_model(hippynn, 16, n_interactions, {"l_max": 3, "n_max": 4, "group_norm": group_norm})
    ours = hiphop(16, n_interactions, l_max=3, n_max=4, group_norm=group_norm)
    compare(ours, network, energy, mixed_structures, graph_of)


@pytest.mark.parametrize("n_features", [4, 16])
@pytest.mark.parametrize("n_interactions", [1, 2, 3])
def test_hipnn(
    hippynn: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, n_interactions: int, n_features: int
) -> None:
    """With as many features as elements the first layer has no matrix around it."""
    network, energy = hippynn_model(hippynn, n_features, n_interactions)
    ours = HIPNN(ELEMENTS, n_interactions=n_interactions, **{**SIZES, "n_features": n_features}, **RANGE)
    compare(ours, network, energy, mixed_structures, graph_of)


@pytest.mark.parametrize("l_max", [1, 2])
@pytest.mark.parametrize("n_interactions", [1, 2, 3])
def test_hipnn_ts(
    hippynn: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, n_interactions: int, l_max: int
) -> None:
    network, energy = hippynn_model(hippynn, 16, n_interactions, plain=["HipnnVec", "HipnnQuad"][l_max - 1])
    ours = HIPNNTS(ELEMENTS, n_interactions=n_interactions, **SIZES, **RANGE, l_max=l_max)
    compare(ours, network, energy, mixed_structures, graph_of)


def test_hiphop_with_as_many_features_as_elements(
    hippynn: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf
) -> None:
    network, energy = hippynn_model(hippynn, 4, 2, {"l_max": 3, "n_max": 4})
    compare(hiphop(4, 2, l_max=3, n_max=4), network, energy, mixed_structures, graph_of)


def test_same_weights_before_training(hippynn: ModuleType) -> None:
    """Centres, widths and the spread of the mixing weights are hippynn's at construction."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = hippynn.networks.hiphop.HipHopNNModule(
            24, 6, RANGE["soft_min"], RANGE["soft_max"], RANGE["cutoff"], 1, 1, possible_species=NUMBERS
        )
    base = network.blocks[0][0].base_layer
    ours = hiphop(24, 1, l_max=3, n_max=4).interactions[0]
    torch.testing.assert_close(ours.sensitivity.centre, base.sensitivity.mu[0].to(torch.float32))
    torch.testing.assert_close(ours.sensitivity.inverse_width, base.sensitivity.sigma[0].to(torch.float32))
    for mine, theirs in ((ours.mixing, base.mixing_weights), (ours.weight, base.int_weights)):
        assert float(mine.detach().std()) == pytest.approx(float(theirs.detach().std()), rel=0.15)
