"""Sums over a half neighbour list equal those over the full one."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import half_lists
from hiphop_train.accelerate.half_lists import sums_both_ways
from hiphop_train.accelerate.pairs import half_list
from hiphop_train.graph.segments import segment_sum
from hiphop_train.types import Graph


def test_sums_and_derivatives(varied: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those over all pairs, in several blocks, the last of them shorter; once and twice differentiated."""
    monkeypatch.setattr(half_lists, "ROWS", 7)
    graph = varied
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
