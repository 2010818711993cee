"""Twins of ALIGNN give its numbers, first and second derivatives."""

from collections.abc import Callable

import pytest
import torch
from ase import Atoms
from torch import Tensor

from hiphop_train.accelerate.alignn import PrepareLineGraph
from hiphop_train.accelerate.expansion import expand
from hiphop_train.accelerate.gated_graph import Groups, activate, convolve
from hiphop_train.accelerate.pairs import reverses
from hiphop_train.accelerate.twin import Setting
from hiphop_train.graph.triples import line_graph_within
from hiphop_train.models.alignn import EdgeGatedConvolution, Expansion
from hiphop_train.types import Graph
from tests.pair_lists import PAIR_LISTS
from tests.references.common import perturb

GraphOf = Callable[..., Graph]
MakeAtoms = Callable[..., Atoms]

SETTING = Setting(torch.float64, torch.device("cpu"), "training", True, "full")


def derivatives(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Values, first derivatives of a random linear form, and second ones of a random form of those."""
    generator = torch.Generator().manual_seed(0)

    def form(tensors: list[Tensor]) -> Tensor:
        return torch.stack([(torch.randn(t.shape, generator=generator).double() * t).sum() for t in tensors]).sum()

    n_geometry = 3  # features and weights; a loss contains no derivatives with respect to parameters
    scalar = form([output.square() for output in outputs])
    first = list(torch.autograd.grad(scalar, inputs, create_graph=True))
    second = list(torch.autograd.grad(form([each.square() for each in first[:n_geometry]]), inputs, allow_unused=True))
    return [*outputs, *first, *[torch.zeros(()) if each is None else each for each in second]]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip((each.detach() for each in found), (each.detach() for each in expected), strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() <= 1e-12 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("width", [3, 8, 14, 40])
def test_activation(width: int) -> None:
    """Of widths that fill the processor's vectors, and of others; more rows than are summed at once."""
    library = SETTING.compile("gated_graph.c", {"N_FEATURES": width})
    torch.manual_seed(0)
    given = [torch.randn(150, width), torch.randn(width), torch.randn(width), torch.randn(150, width)]
    inputs = [each.double().requires_grad_(True) for each in given]
    x, weight, bias, residual = inputs
    plain = residual + torch.nn.functional.silu(torch.nn.functional.layer_norm(x, [width], weight, bias))

    def of(output: Tensor) -> list[Tensor]:
        first = torch.autograd.grad(output.pow(3).sum(), inputs, create_graph=True)
        second = torch.autograd.grad(first[0].pow(3).sum(), inputs)
        return [output, *first, *second]

    assert_equal(of(activate(library, x, weight, bias, residual)), of(plain))


@pytest.mark.parametrize("shares_rows", [False, True])
@pytest.mark.parametrize("updates_edges", [True, False])
@pytest.mark.parametrize("width", [5, 16])
def test_convolution(width: int, updates_edges: bool, shares_rows: bool) -> None:
    """Over a graph in two blocks, with a node that receives nothing, in another order."""
    library = SETTING.compile("gated_graph.c", {"N_FEATURES": width})
    torch.manual_seed(0)
    convolution = EdgeGatedConvolution(width, 0.3, updates_edges).double()
    perturb(convolution, seed=0)
    sender = torch.tensor([0, 1, 2, 0, 1, 4, 5])
    receiver = torch.tensor([2, 2, 0, 0, 0, 5, 5])
    node, start = torch.tensor([2, 0, 1, 3, 5, 4]), torch.tensor([0, 2, 5, 5, 5, 7, 7])
    place = torch.tensor([0, 1, 0, 2, 1, 3, 4])
    groups = Groups(sender, node, start, place if shares_rows else None, torch.tensor([0, 3, 6]))
    given = [torch.randn(6, width), torch.randn(5 if shares_rows else 7, width), torch.rand(7)]
    nodes, edges, weights = (each.double().requires_grad_(True) for each in given)
    inputs = [nodes, edges, weights, *convolution.parameters()]
    all_edges = edges.index_select(0, place) if shares_rows else edges
    expected = convolution(nodes, all_edges, sender, receiver, weights)
    found = convolve(library, convolution, nodes, edges, weights, groups)
    n_results = 1 + updates_edges
    assert_equal(derivatives(list(found[:n_results]), inputs), derivatives(list(expected[:n_results]), inputs))


def test_expansion() -> None:
    expansion = Expansion(-1.0, 1.0, 40)
    values = torch.linspace(-1.2, 3.0, 50, dtype=torch.float64).requires_grad_(True)

    def of(output: Tensor) -> list[Tensor]:
        (first,) = torch.autograd.grad(output.pow(3).sum(), values, create_graph=True)
        return [output, first, *torch.autograd.grad(first.pow(3).sum(), values)]

    assert_equal(of(expand(expansion, values)), of(expansion(values)))


def test_lists_are_the_line_graph(make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    """In another order; shared angles and distances are those of the pairs themselves."""
    graph = graph_of([make_box(3, seed=6), make_molecule(6, seed=2), Atoms("N"), make_box(1, seed=4, length=2.0)])
    lists = PrepareLineGraph(3.0).make(graph)
    expected = line_graph_within(graph, 3.0).T.tolist()
    assert sorted(zip(lists.after.tolist(), lists.before.tolist(), strict=True)) == [(b, a) for a, b in expected]
    counts = lists.start[1:] - lists.start[:-1]
    assert torch.equal(torch.repeat_interleave(lists.node, counts), lists.after)
    assert torch.equal(graph.pair_i[lists.before], graph.pair_j[lists.after])
    assert sorted(lists.node.tolist()) == list(range(len(graph.pair_i)))
    vectors = graph.pair_vectors
    torch.testing.assert_close(vectors[lists.half].norm(dim=1)[lists.place], vectors.norm(dim=1), rtol=1e-14, atol=0)
    units = torch.nn.functional.normalize(vectors, dim=1)
    cosines = torch.cat([(units[lists.first] * units[lists.second]).sum(1), torch.ones(len(graph.species))])
    own = -(units[lists.before] * units[lists.after]).sum(1)
    torch.testing.assert_close(cosines[lists.angle], own, rtol=0, atol=1e-14)
    assert len(lists.first) < 0.5 * len(lists.before)
    atom = graph.pair_j[lists.node]  # no two blocks share a pair
    for first, last in zip(lists.block[:-2].tolist(), lists.block[1:-1].tolist(), strict=True):
        assert len(set(atom[first:last].tolist())) <= 1


def test_reverses(make_box: MakeAtoms, graph_of: GraphOf) -> None:
    graph = graph_of([make_box(3, seed=6)])
    found = reverses(graph)
    assert found is not None
    assert torch.equal(graph.pair_i[found], graph.pair_j)
    assert torch.equal(graph.pair_shift[found], -graph.pair_shift)
    assert torch.equal(found[found], torch.arange(len(found)))
    for make_list in PAIR_LISTS:
        assert reverses(make_list(graph_of([make_box(4, seed=3)]))) is None
