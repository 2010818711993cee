"""Lists of pairs that twins can rely on are recognised, in C and in torch."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.pairs import first_pairs, half_list, has_reverses
from hiphop_train.types import Graph
from tests.accelerate.conftest import MakeSetting
from tests.conftest import GraphOf, MakeAtoms
from tests.pair_lists import PAIR_LISTS, MakeList, with_pairs


def directed(graph: Graph, chosen: Tensor, forward: bool) -> set[tuple[int, ...]]:
    i, j, shift = graph.pair_i[chosen], graph.pair_j[chosen], graph.pair_shift[chosen]
    columns = [i, j, *shift.T] if forward else [j, i, *-shift.T]
    return set(zip(*(column.tolist() for column in columns), strict=True))


def test_half_list_holds_each_pair_once(varied: Graph) -> None:
    """Images of others and of the atom itself among them."""
    assert (varied.pair_i == varied.pair_j).any()
    half = half_list(varied)
    assert half is not None
    forward, backward = directed(varied, half, True), directed(varied, half, False)
    assert len(forward) == len(backward) == len(half)
    assert not forward & backward
    assert forward | backward == directed(varied, torch.arange(len(varied.pair_i)), True)


def test_first_pairs(varied: Graph, make_setting: MakeSetting) -> None:
    """With shifts, and where one zero represents all shifts."""
    library = make_setting().compile("pairs.c")
    start = first_pairs(varied, library)
    counts = torch.bincount(varied.pair_i, minlength=len(varied.species))
    assert start is not None
    assert torch.equal(start, torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]))
    open_systems = varied.pair_shift.new_zeros((1, 3)).expand(len(varied.pair_i), 3)
    is_open = ~varied.pbc[varied.system[varied.pair_i]].any(1)
    some = [part[is_open] for part in (varied.pair_i, varied.pair_j, open_systems)]
    graph = varied._replace(pair_i=some[0], pair_j=some[1], pair_shift=open_systems[: len(some[0])])
    assert first_pairs(graph, library) is not None
    assert half_list(graph) is not None


@pytest.mark.parametrize("make_list", PAIR_LISTS)
def test_lists_without_all_reverses(
    make_list: MakeList, make_box: MakeAtoms, graph_of: GraphOf, make_setting: MakeSetting
) -> None:
    graph = graph_of([make_box(4, seed=3)])
    changed = make_list(graph)
    assert has_reverses(graph)
    assert not has_reverses(changed)
    assert half_list(changed) is None
    assert first_pairs(changed, make_setting().compile("pairs.c")) is None
    assert not torch.jit.script(has_reverses)(changed)


def test_any_single_change_is_detected(make_box: MakeAtoms, graph_of: GraphOf) -> None:
    """Of any index or shift of any pair."""
    graph = graph_of([make_box(3, seed=3, length=2.5)])
    for pair in range(0, len(graph.pair_i), 7):
        for name, step in (("pair_i", 1), ("pair_j", 1), ("pair_shift", torch.tensor([0, 1, 0]))):
            changed = getattr(graph, name).clone()
            changed[pair] += step
            assert not has_reverses(graph._replace(**{name: changed})), (pair, name)


def test_a_pair_and_its_reverse_may_occur_twice(
    make_box: MakeAtoms, graph_of: GraphOf, make_setting: MakeSetting
) -> None:
    graph = graph_of([make_box(3, seed=3)])
    twice = torch.arange(len(graph.pair_i)).repeat_interleave(2)
    doubled = with_pairs(graph, graph.pair_i[twice], graph.pair_j[twice], graph.pair_shift[twice])
    half = half_list(doubled)
    assert half is not None
    assert len(half) == len(graph.pair_i)
    assert first_pairs(doubled, make_setting().compile("pairs.c")) is not None


def test_ghosts_other_devices_and_other_orders(varied: Graph, make_setting: MakeSetting) -> None:
    library = make_setting().compile("pairs.c")
    ghosts = varied._replace(n_owned=len(varied.species) - 1)
    assert half_list(ghosts) is None
    assert first_pairs(ghosts, library) is None
    assert half_list(varied._replace(pair_i=varied.pair_i.to("meta"), pair_j=varied.pair_j.to("meta"))) is None
    backwards = varied._replace(
        pair_i=varied.pair_i.flip(0), pair_j=varied.pair_j.flip(0), pair_shift=varied.pair_shift.flip(0)
    )
    assert first_pairs(backwards, library) is None
    assert half_list(backwards) is not None  # in any order
