"""With schnetpack's weights our SchNet gives its energies and forces (float64).

schnetpack is installed by scripts/test.sh: it cannot be an ordinary extra, since it requires an older torchmetrics.
"""

import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TypeVar

import pytest
import torch
from ase import Atoms
from torch import Tensor, nn

from hiphop_train.accelerate import accelerate
from hiphop_train.models.schnet import SchNet
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian_expansion
from hiphop_train.potential import Network, Potential
from hiphop_train.readout.atomwise import AtomwiseEnergy
from hiphop_train.types import Graph

GraphOf = Callable[..., Graph]

ELEMENTS = ["H", "C", "N", "O"]
NUMBERS = [1, 6, 7, 8]
CUTOFF = 4.0
N_GAUSSIANS = 17  # a quarter of an Angstrom apart: schnetpack's single-precision centres and widths are exact
RELATIVE_BOUND = 1e-9


@pytest.fixture(scope="module")
def schnetpack() -> ModuleType:
    """Import schnetpack, which needs a name that torch's data loader no longer has, and sets a filter of warnings."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(torch.utils.data.dataloader, "T_co", TypeVar("T_co", covariant=True), raising=False)
        warnings.simplefilter("ignore")
        import schnetpack as module
    return module


def reference_model(
    schnetpack: ModuleType, n_interactions: int, n_features: int, hidden: list[int], activation: str
) -> nn.Module:
    """Make schnetpack's network, with every parameter away from its default."""
    functions = {
        "shifted_softplus": schnetpack.nn.shifted_softplus,
        "silu": torch.nn.functional.silu,
        "tanh": torch.tanh,
    }
    torch.manual_seed(n_interactions)
    model = schnetpack.model.NeuralNetworkPotential(
        representation=schnetpack.representation.SchNet(
            n_atom_basis=n_features,
            n_interactions=n_interactions,
            radial_basis=schnetpack.nn.GaussianRBF(N_GAUSSIANS, CUTOFF),
            cutoff_fn=schnetpack.nn.CosineCutoff(CUTOFF),
        ),
        input_modules=[schnetpack.atomistic.PairwiseDistances()],
        output_modules=[
            schnetpack.atomistic.Atomwise(
                n_in=n_features,
                n_hidden=hidden,
                n_layers=len(hidden) + 1,
                activation=functions[activation],
                output_key="energy",
                per_atom_output_key="energy_of_atom",
            ),
            schnetpack.atomistic.Forces(),
        ],
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def evaluate(schnetpack: ModuleType, model: nn.Module, structures: Sequence[Atoms]) -> dict[str, Tensor]:
    """Let schnetpack make the batch, find the pairs and differentiate."""
    convert = schnetpack.interfaces.AtomsConverter(
        neighbor_list=schnetpack.transform.ASENeighborList(cutoff=CUTOFF), dtype=torch.float64
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it hands torch's tensors to ASE as arrays
        batch = convert(list(structures))
    outputs = model(batch)
    return {key: value.detach() for key, value in outputs.items()}


def copy_weights(potential: Potential, model: nn.Module) -> None:
    """Copy schnetpack's parameters one to one."""
    untouched = {id(parameter) for parameter in potential.parameters()}

    def put(ours: Tensor, theirs: Tensor) -> None:
        assert ours.shape == theirs.shape
        ours.copy_(theirs)
        untouched.remove(id(ours))

    def put_layers(ours: nn.Sequential, theirs: nn.Sequential) -> None:
        layers = [layer for layer in ours if isinstance(layer, nn.Linear)]
        for layer, other in zip(layers, theirs, strict=True):
            put(layer.weight, other.weight)
            put(layer.bias, other.bias)

    network = potential.terms[0]
    with torch.no_grad():
        put(network.representation.embedding.weight, model.representation.embedding.weight[NUMBERS])
        for ours, theirs in zip(network.representation.interactions, model.representation.interactions, strict=True):
            put(ours.inward.weight, theirs.in2f.weight)
            put_layers(ours.filter_network, theirs.filter_network)
            put_layers(ours.outward, theirs.f2out)
        put_layers(network.readout.network, model.output_modules[0].outnet)
    assert not untouched


def compare(
    schnetpack: ModuleType,
    structures: Sequence[Atoms],
    graph_of: GraphOf,
    n_interactions: int,
    n_features: int = 8,
    hidden: Sequence[int] = (4,),
    activation: str = "shifted_softplus",
) -> None:
    """Energies against their sizes, forces against the largest."""
    representation = SchNet(ELEMENTS, CUTOFF, n_features, n_interactions, N_GAUSSIANS)
    readout = AtomwiseEnergy(representation.feature_sizes, list(hidden), activation)
    potential = Potential([Network(representation.double(), readout.double())], ELEMENTS, CUTOFF)
    model = reference_model(schnetpack, n_interactions, n_features, list(hidden), activation)
    copy_weights(potential, model)
    expected = evaluate(schnetpack, model, structures)
    graph = graph_of(structures, elements=ELEMENTS, cutoff=CUTOFF)
    assert expected["forces"].abs().max() > 0.1
    for purpose in (None, "training", "inference"):
        if purpose is not None:
            accelerate(potential, torch.float64, torch.device("cpu"), purpose)
        found = potential(graph)
        energy, of_atoms, forces = (found[key].detach() for key in ("energy", "atomic_energy", "forces"))
        assert ((energy - expected["energy"]).abs() / expected["energy"].abs()).max() < RELATIVE_BOUND
        assert (forces - expected["forces"]).abs().max() / expected["forces"].abs().max() < RELATIVE_BOUND
        torch.testing.assert_close(of_atoms, expected["energy_of_atom"][:, 0], rtol=RELATIVE_BOUND, atol=1e-12)


@pytest.mark.parametrize("n_interactions", [1, 2, 3, 6])
def test_open_and_periodic_structures_in_one_batch(
    schnetpack: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, n_interactions: int
) -> None:
    """With an isolated atom, slabs, and cells smaller than the cutoff."""
    compare(schnetpack, mixed_structures, graph_of, n_interactions)


@pytest.mark.parametrize("periodic", [False, True])
def test_open_and_periodic_structures_separately(
    schnetpack: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, periodic: bool
) -> None:
    structures = [atoms for atoms in mixed_structures if atoms.pbc.any() == periodic and len(atoms) > 1]
    assert len(structures) >= 2
    compare(schnetpack, structures, graph_of, 3, n_features=16)


@pytest.mark.parametrize("activation", ["shifted_softplus", "silu", "tanh"])
@pytest.mark.parametrize("hidden", [[], [5], [6, 3]], ids=str)
def test_readouts(
    schnetpack: ModuleType, mixed_structures: list[Atoms], graph_of: GraphOf, hidden: list[int], activation: str
) -> None:
    compare(schnetpack, mixed_structures, graph_of, 2, hidden=hidden, activation=activation)


def test_expansion_and_cutoff(schnetpack: ModuleType) -> None:
    """Centres and widths at the defaults, where schnetpack rounds them."""
    distance = torch.linspace(0.1, 6.0, 60)
    expected = schnetpack.nn.GaussianRBF(50, 5.0)(distance)
    torch.testing.assert_close(gaussian_expansion(distance, 0.0, 5.0, 50), expected, rtol=0, atol=1e-5)
    expected = schnetpack.nn.CosineCutoff(5.0)(distance)
    torch.testing.assert_close(cosine_cutoff(distance, 5.0), expected, rtol=0, atol=1e-6)


def test_same_weights_before_training(schnetpack: ModuleType) -> None:
    """Biases zero, and the spread of all others schnetpack's."""
    torch.manual_seed(0)
    theirs = schnetpack.representation.SchNet(
        64, 1, schnetpack.nn.GaussianRBF(50, CUTOFF), schnetpack.nn.CosineCutoff(CUTOFF)
    )
    ours = SchNet(ELEMENTS, CUTOFF, 64, 1, 50)
    mine, others = ours.interactions[0], theirs.interactions[0]
    for first, second in zip(
        [*mine.filter_network.parameters(), *mine.inward.parameters(), *mine.outward.parameters()],
        [*others.filter_network.parameters(), *others.in2f.parameters(), *others.f2out.parameters()],
        strict=True,
    ):
        assert first.shape == second.shape
        if first.ndim == 1:
            assert not first.any()
            assert not second.any()
        else:
            assert float(first.detach().std()) == pytest.approx(float(second.detach().std()), rel=0.1)
    embedding = theirs.embedding.weight[NUMBERS].detach()
    assert float(ours.embedding.weight.detach().std()) == pytest.approx(float(embedding.std()), rel=0.2)
