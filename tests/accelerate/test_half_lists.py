"""A half neighbour list stands for the whole, where that holds the reverse of each pair."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import half_lists
from hiphop_train.accelerate.half_lists import sums_both_ways
from hiphop_train.accelerate.pairs import half_list
from hiphop_train.graph.segments import segment_sum
from hiphop_train.types import Graph
from tests.conftest import GraphOf, MakeAtoms


def boxes(make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf) -> Graph:
    """Atoms that meet several images of others and of themselves, a molecule, and a lonely atom."""
    atoms = [make_box(3, seed=2), make_box(1, seed=4, length=2.0), make_molecule(6, seed=1), make_molecule(1, seed=3)]
    graph = graph_of(atoms)
    assert (graph.pair_i == graph.pair_j).any()
    return graph


def directed(graph: Graph, chosen: Tensor, forward: bool) -> set[tuple[int, ...]]:
    i, j, shift = graph.pair_i[chosen], graph.pair_j[chosen], graph.pair_shift[chosen]
    columns = [i, j, *shift.T] if forward else [j, i, *-shift.T]
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_each_pair_once(make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    graph = boxes(make_box, make_molecule, graph_of)
    half = half_list(graph)
    assert half is not None
    forward, backward = directed(graph, half, True), directed(graph, half, False)
    assert len(forward) == len(backward) == len(half)
    assert not forward & backward
    assert forward | backward == directed(graph, torch.arange(len(graph.pair_i)), True)


def test_none_where_a_reverse_may_be_missing(make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf) -> None:
    graph = boxes(make_box, make_molecule, graph_of)
    assert half_list(graph._replace(n_owned=len(graph.species) - 1)) is None
    few = slice(0, -1)
    shorter = graph._replace(
        pair_i=graph.pair_i[few],
        pair_j=graph.pair_j[few],
        pair_shift=graph.pair_shift[few],
        pair_vectors=graph.pair_vectors[few],
    )
    assert half_list(shorter) is None
    assert half_list(graph._replace(pair_i=graph.pair_i.to("meta"), pair_j=graph.pair_j.to("meta"))) is None


def test_sums_and_derivatives(
    make_box: MakeAtoms, make_molecule: MakeAtoms, graph_of: GraphOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those over all pairs, in several blocks, the last of them shorter; once and twice differentiated."""
    monkeypatch.setattr(half_lists, "ROWS", 7)
    graph = boxes(make_box, make_molecule, graph_of)
    half = half_list(graph)
    assert half is not None
    i, j = graph.pair_i[half], graph.pair_j[half]
    assert len(half) % 7 > 0
    generator = torch.Generator().manual_seed(0)
    filters = torch.randn(len(half), 2, dtype=torch.float64, generator=generator, requires_grad=True)
    features = torch.randn(len(graph.species), 2, dtype=torch.float64, generator=generator, requires_grad=True)
    both = torch.cat([filters, filters])
    expected = segment_sum(both * features[torch.cat([j, i])], torch.cat([i, j]), len(features))
    torch.testing.assert_close(sums_both_ways(filters, features, i, j), expected, rtol=1e-13, atol=1e-13)

    few = slice(0, 16)

    def sums(filters: Tensor, features: Tensor) -> Tensor:
        return sums_both_ways(filters, features, i[few], j[few])

    inputs = (filters[few].detach().requires_grad_(), features)
    assert torch.autograd.gradcheck(sums, inputs)
    assert torch.autograd.gradgradcheck(sums, inputs)
