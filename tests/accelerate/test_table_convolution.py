"""The interaction equals its definition, whatever the order of summation, and so do its derivatives."""

import pytest
import torch
from hiphop_train.nn.messages import convolve, distances, in_order_of_atoms
from hiphop_train.nn.pairs import Pairs, lay_out_pairs
from torch import Tensor

from hiphop_train.graph.assemble import make_graph, with_pair_vectors
from hiphop_train.graph.neighbours import neighbours
from hiphop_train.nn import messages
from hiphop_train.nn.sensitivity import InverseGaussianSensitivity
from hiphop_train.nn.tensors import irreducible_tensors
from hiphop_train.types import Graph

CUTOFF = 4.0
N_TYPES = 4


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def graph() -> Graph:
    """Forty atoms, most of them crowded, some alone, one species missing; pairs in no order."""
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
def sensitivity() -> InverseGaussianSensitivity:
    return InverseGaussianSensitivity(5, 0.8, 3.5, CUTOFF).double()


def defined(graph: Graph, sensitivity: InverseGaussianSensitivity, features: Tensor, weight: Tensor) -> Tensor:
    distance = torch.linalg.norm(graph.pair_vectors, dim=1)
    tensors = irreducible_tensors(graph.pair_vectors / distance[:, None], 2)
    heard = torch.einsum("pn,pb,bna->pa", sensitivity.evaluate(distance), features[graph.pair_j], weight)
    terms = tensors[:, :, None] * heard[:, None, :]
    return torch.zeros(len(features), 9, weight.shape[2], dtype=terms.dtype).index_add(0, graph.pair_i, terms)


def found(
    graph: Graph, sensitivity: InverseGaussianSensitivity, features: Tensor, weight: Tensor, first: bool
) -> tuple[Tensor, Pairs]:
    pairs = lay_out_pairs(graph, N_TYPES, 2, 5)
    environment = convolve(sensitivity(distances(pairs, first)), features, weight, pairs, first)
    return in_order_of_atoms(environment.flatten(1), pairs).reshape(environment.shape), pairs


def few(graph: Graph) -> Graph:
    """Only atoms that are near: message first takes fewer multiplications."""
    near = torch.nonzero(torch.linalg.norm(graph.pair_vectors, dim=1) < 1.5)[:, 0]
    changed = graph._asdict() | {
        k: graph._asdict()[k][near] for k in ("pair_i", "pair_j", "pair_shift", "pair_vectors")
    }
    return Graph(**changed)


@pytest.mark.parametrize("first", [True, False], ids=["of species", "of features"])
@pytest.mark.parametrize("large", [True, False], ids=["large", "small"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
def test_equals_its_definition(
    graph: Graph,
    sensitivity: InverseGaussianSensitivity,
    first: bool,
    large: bool,
    frozen: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Values, derivatives by pair vectors and weights, and derivatives of the former as in training on forces."""
    monkeypatch.setattr(messages, "LARGE", 0 if large else 2**24)
    monkeypatch.setattr(messages, "FEATURES_AT_A_TIME", 4)
    sensitivity.requires_grad_(not frozen)
    features = torch.nn.functional.one_hot(graph.species, N_TYPES).double() if first else random(40, 4, seed=3)
    weight = random(features.shape[1], 5, 6, seed=4).requires_grad_(not frozen)
    outcomes = []
    for call in (lambda *given: found(*given, first)[0], defined):
        vectors = graph.pair_vectors.clone().requires_grad_()
        environment = call(with_pair_vectors(graph, vectors), sensitivity, features, weight)
        seeds = random(*environment.shape, seed=5)
        wanted = [vectors] if frozen else [vectors, weight, *sensitivity.parameters()]
        once = torch.autograd.grad(environment, wanted, seeds, retain_graph=True)
        pull = torch.autograd.grad(environment, vectors, seeds, create_graph=True)[0]
        twice = torch.autograd.grad(pull.square().sum() + environment.square().sum(), wanted)
        outcomes.append([environment.detach(), *once, *twice])
    for ours, theirs in zip(*outcomes, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-11 * max(1.0, float(theirs.abs().max()))


def test_order_of_summation_follows_the_number_of_neighbours(
    graph: Graph, sensitivity: InverseGaussianSensitivity
) -> None:
    features = torch.nn.functional.one_hot(graph.species, N_TYPES).double()
    weight = random(N_TYPES, 5, 6, seed=4)
    for some, environment_first in ((graph, True), (few(graph), False)):
        environment, pairs = found(some, sensitivity, features, weight, True)
        assert (pairs.by_species is not None) == environment_first
        torch.testing.assert_close(environment, defined(some, sensitivity, features, weight), rtol=1e-11, atol=1e-11)


def test_large_systems_take_no_memory_for_pairs_times_features(
    graph: Graph, sensitivity: InverseGaussianSensitivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is kept for the derivative nor what is made is that large."""
    monkeypatch.setattr(messages, "LARGE", 0)
    monkeypatch.setattr(messages, "FEATURES_AT_A_TIME", 4)
    sensitivity.requires_grad_(False)
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
        environment, _ = found(
            with_pair_vectors(graph, vectors), sensitivity, random(40, 4), random(4, 5, 64, seed=4), False
        )
        environment.sum().backward()
    assert 4 <= largest <= 9  # components of the tensors; there are 64 features
