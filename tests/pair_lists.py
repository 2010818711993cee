"""Lists of pairs that do not hold the reverse of each pair, made from one that does.

In all but the one with a missing pair, atoms receive as often as they send. Code that sums over half of the pairs, or
takes what an atom sends from the pairs in which it receives, computes wrong forces for them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from hiphop_train.graph.assemble import make_graph
from hiphop_train.types import Graph

MakeList = Callable[[Graph], Graph]


def with_pairs(graph: Graph, pair_i: Tensor, pair_j: Tensor, pair_shift: Tensor) -> Graph:
    """Return the graph with other pairs, sorted by receiver."""
    order = torch.argsort(pair_i, stable=True)
    return make_graph(
        graph.species, graph.positions, graph.cell, graph.pbc, graph.system, graph.n_systems,
        pair_i[order], pair_j[order], pair_shift[order], graph.pair_vectors.dtype, graph.theory, None, graph.n_owned,
    )  # fmt: skip


def moved(graph: Graph, positions: Tensor) -> Graph:
    """Return the graph with the same pairs at other positions."""
    return with_pairs(graph._replace(positions=positions), graph.pair_i, graph.pair_j, graph.pair_shift)


def directed_cycle(graph: Graph) -> Graph:
    """0<-1, 1<-2, 2<-0, and nothing else."""
    pair_i = torch.arange(3)
    return with_pairs(graph, pair_i, (pair_i + 1) % 3, torch.zeros((3, 3), dtype=torch.int64))


def wrong_shift(graph: Graph) -> Graph:
    """One pair leads to another image of its sender, nearer than 4 Angstrom."""
    shift = graph.pair_shift.clone()
    for change in torch.cat([torch.eye(3), -torch.eye(3)]).long():
        distance = torch.linalg.norm(graph.pair_vectors + change.double() @ graph.cell[0], dim=1)
        near = torch.nonzero((distance > 0.9) & (distance < 4.0))[:, 0]
        if len(near):
            shift[near[0]] += change
            return with_pairs(graph, graph.pair_i, graph.pair_j, shift)
    raise AssertionError("no second image is near")


def duplicated_pairs(graph: Graph) -> Graph:
    """0<-1 and 3<-2 are replaced by 0<-2 and 3<-1, which then occur twice."""
    pairs = list(zip(graph.pair_i.tolist(), graph.pair_j.tolist(), strict=True))
    source = torch.arange(len(graph.pair_i))
    source[pairs.index((0, 1))] = pairs.index((0, 2))
    source[pairs.index((3, 2))] = pairs.index((3, 1))
    changed = with_pairs(graph, graph.pair_i[source], graph.pair_j[source], graph.pair_shift[source])
    assert torch.equal(torch.bincount(changed.pair_i), torch.bincount(changed.pair_j))
    return changed


def missing_pair(graph: Graph) -> Graph:
    """All pairs but one."""
    return with_pairs(graph, graph.pair_i[1:], graph.pair_j[1:], graph.pair_shift[1:])


PAIR_LISTS: list[MakeList] = [directed_cycle, wrong_shift, duplicated_pairs, missing_pair]
