"""Sums over triples are the same in blocks, with first and second derivatives."""

import pytest
import torch
from torch import Tensor

from hiphop_train.graph.segments import segment_sum_of_columns
from hiphop_train.graph.triples import pairs_of_pairs
from hiphop_train.nn import triple_sums
from hiphop_train.nn.triple_sums import sum_in_blocks


def terms(vectors: Tensor, j: Tensor, k: Tensor) -> Tensor:
    product = (vectors[j] * vectors[k]).sum(1)
    return torch.stack([product.sin(), product.square() * vectors[j, 0]])


@pytest.mark.parametrize("mixed", [False, True])
def test_blocks_are_the_whole(mixed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triple_sums, "TRIPLES", 7)
    torch.manual_seed(0)
    pair_i = torch.arange(5).repeat_interleave(torch.tensor([4, 0, 5, 1, 3]))
    vectors = torch.randn(len(pair_i), 3, dtype=torch.float64, requires_grad=True)
    triples = torch.stack(pairs_of_pairs(pair_i, 5))
    if mixed:  # no order is needed
        triples = triples[:, torch.randperm(triples.shape[1])]
    channel = 2 * pair_i[triples[0]] + (triples[1] % 2)

    found = sum_in_blocks(terms, vectors, triples, channel, 10)
    expected = segment_sum_of_columns(terms(vectors, *triples), channel, 10)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)
    seeds = torch.randn_like(expected)
    first = [torch.autograd.grad(sums, vectors, seeds, retain_graph=True)[0] for sums in (found, expected)]
    torch.testing.assert_close(*first, rtol=1e-13, atol=1e-13)
    second = []
    for sums in (found, expected):
        (slope,) = torch.autograd.grad((sums * seeds).square().sum(), vectors, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), vectors)[0])
    torch.testing.assert_close(*second, rtol=1e-12, atol=1e-12)


def test_no_triples() -> None:
    vectors = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    none = torch.zeros((2, 0), dtype=torch.int64)
    sums = sum_in_blocks(terms, vectors, none, none[0], 4)
    assert torch.equal(sums, torch.zeros(2, 4, dtype=torch.float64))
    assert torch.equal(torch.autograd.grad(sums.sum(), vectors)[0], torch.zeros_like(vectors))
