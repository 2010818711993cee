"""The convolution over tables is that of the plain interaction, and so are its derivatives."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hiphop_train.accelerate import table_convolution
from hiphop_train.accelerate.hip_layout import PrepareLayout
from hiphop_train.accelerate.table_convolution import TableConvolution
from hiphop_train.graph.assemble import make_graph, with_pair_vectors
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.models.backbone import HIPInteraction, neighbours_of
from hiphop_train.models.hiphop import Interaction
from hiphop_train.nn.invariants import Invariants
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.types import Graph

MakeInteraction = Callable[[int, int], HIPInteraction]

CUTOFF = 4.0
N_TYPES = 4
PREPARE = PrepareLayout(N_TYPES, 2, 5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Forty atoms, most of them with many neighbours, some isolated, one species missing; unsorted pairs."""
    positions = 2.2 * random(40, 3) + torch.tensor([2.0, 0.0, 0.0])
    positions[-1] += 100.0
    open_box = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    pair_i, pair_j, shift = neighbours(positions, *open_box, CUTOFF)
    order = torch.randperm(len(pair_i), generator=torch.Generator().manual_seed(1))
    species = torch.tensor([0, 1, 3])[torch.arange(40) % 3]
    return make_graph(
        species, positions, open_box[0][None], open_box[1][None], torch.zeros(40, dtype=torch.int64),
        1, pair_i[order], pair_j[order], shift[order], torch.float64,
    )  # fmt: skip


@pytest.fixture
def make_interaction() -> MakeInteraction:
    """Make an interaction of 5 sensitivities and tensors up to rank 2."""

    def make(n_in: int, n_out: int) -> HIPInteraction:
        sensitivity = InverseGaussianSensitivity(5, 0.8, 3.5, CUTOFF)
        return Interaction(n_in, n_out, sensitivity, Invariants("published", 2, 1), False).double()

    return make


def by_tables(graph: Graph, interaction: HIPInteraction, features: Tensor, are_species: bool) -> Tensor:
    convolution = TableConvolution(graph, PREPARE)
    environment = convolution.environment(interaction, features, are_species)
    return convolution.in_order_of_atoms(environment.flatten(1)).reshape(environment.shape)


def plain(graph: Graph, interaction: HIPInteraction, features: Tensor, are_species: bool) -> Tensor:
    return interaction.environment(features, neighbours_of(graph, 2))


def few(graph: Graph) -> Graph:
    """Only near atoms: forming the message first takes fewer multiplications."""
    near = torch.nonzero(torch.linalg.norm(graph.pair_vectors, dim=1) < 1.5)[:, 0]
    changed = graph._asdict() | {
        k: graph._asdict()[k][near] for k in ("pair_i", "pair_j", "pair_shift", "pair_vectors")
    }
    return Graph(**changed)


@pytest.mark.parametrize("are_species", [True, False], ids=["of species", "of features"])
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_equals_plain_interaction(
    graph: Graph,
    make_interaction: MakeInteraction,
    are_species: bool,
    large: bool,
    frozen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values, derivatives with respect to pair vectors and weights, and second ones as in training on forces."""
    monkeypatch.setattr(table_convolution, "LARGE", 0 if large else 2**24)
    monkeypatch.setattr(table_convolution, "FEATURES_PER_BLOCK", 4)
    features = one_hot(graph.species, N_TYPES).double() if are_species else random(40, 4, seed=3)
    interaction = make_interaction(4, 6).requires_grad_(not frozen)
    results = []
    for environment_of in (by_tables, plain):
        vectors = graph.pair_vectors.clone().requires_grad_()
        environment = environment_of(with_pair_vectors(graph, vectors), interaction, features, are_species)
        grad_output = random(*environment.shape, seed=5)
        wanted = [vectors] if frozen else [vectors, interaction.weight, *interaction.sensitivity.parameters()]
        once = torch.autograd.grad(environment, wanted, grad_output, retain_graph=True)
        gradient = torch.autograd.grad(environment, vectors, grad_output, create_graph=True)[0]
        twice = torch.autograd.grad(gradient.square().sum() + environment.square().sum(), wanted)
        results.append([environment.detach(), *once, *twice])
    for found, expected in zip(*results, strict=True):
        assert float((found - expected).abs().max()) <= 1e-11 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("is_prepared", [True, False], ids=["prepared", "not prepared"])
def test_order_of_summation_follows_the_number_of_neighbours(
    graph: Graph, make_interaction: MakeInteraction, is_prepared: bool
) -> None:
    features = one_hot(graph.species, N_TYPES).double()
    interaction = make_interaction(4, 6)
    for some, environment_first in ((graph, True), (few(graph), False)):
        given = PREPARE(some) if is_prepared else some
        assert (PREPARE.layout_of(given).by_species is not None) == environment_first
        found = by_tables(given, interaction, features, True)
        torch.testing.assert_close(found, plain(some, interaction, features, True), rtol=1e-11, atol=1e-11)


def test_large_systems_take_no_memory_for_pairs_times_features(
    graph: Graph, make_interaction: MakeInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is kept for the derivative nor what is made is that large."""
    monkeypatch.setattr(table_convolution, "LARGE", 0)
    monkeypatch.setattr(table_convolution, "FEATURES_PER_BLOCK", 4)
    interaction = make_interaction(4, 64).requires_grad_(False)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.dim() == 2 and len(result) >= len(graph.pair_i):
                largest = max(largest, result.shape[1])
            return result

    vectors = graph.pair_vectors.clone().requires_grad_()
    with Watch():
        by_tables(with_pair_vectors(graph, vectors), interaction, random(40, 4), False).sum().backward()
    assert 4 <= largest <= 9  # components of the tensors; there are 64 features
