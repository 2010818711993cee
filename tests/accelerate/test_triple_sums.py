"""Sums over triples in blocks are those of the whole, and so are their derivatives."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate import triple_sums
from hiphop_train.accelerate.triple_sums import Slopes, plain_sums, sums_in_blocks


def terms(of_j: Tensor, of_k: Tensor) -> Tensor:
    return torch.stack([of_j[0] * of_k[1].square(), of_j[1] * of_k[1], of_j[0] + of_k[0]])


def slopes(of_j: Tensor, of_k: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    first, second, third = gradient
    of_first = torch.stack([first * of_k[1].square() + third, second * of_k[1]])
    of_second = torch.stack([third, 2 * first * of_j[0] * of_k[1] + second * of_j[1]])
    return of_first, of_second


@pytest.mark.parametrize("given", [slopes, None], ids=["slopes by hand", "by autograd"])
def test_sums_and_derivatives(given: Slopes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once and twice differentiated, in blocks of which the last is shorter; channels without triples are zero."""
    monkeypatch.setattr(triple_sums, "TRIPLES", 4)
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(2, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    triples = torch.tensor([[0, 0, 1, 3, 3, 3, 2, 0, 4, 1], [1, 2, 2, 4, 2, 0, 4, 4, 0, 3]])
    channel = torch.tensor([0, 1, 1, 4, 5, 5, 5, 0, 1, 4])

    def sums(pairs: Tensor) -> Tensor:
        return sums_in_blocks(terms, pairs, triples, channel, 7, given)

    values = terms(pairs[:, triples[0]], pairs[:, triples[1]])
    expected = torch.stack([values[:, channel == number].sum(1) for number in range(7)], dim=1)
    torch.testing.assert_close(sums(pairs), expected, rtol=1e-14, atol=1e-14)
    plain = plain_sums(terms, pairs, triples, channel, 7)
    torch.testing.assert_close(plain, expected, rtol=1e-14, atol=1e-14)
    assert torch.autograd.gradcheck(sums, pairs)
    assert torch.autograd.gradgradcheck(sums, pairs)


@pytest.mark.parametrize("given", [slopes, None], ids=["slopes by hand", "by autograd"])
def test_no_triples(given: Slopes | None) -> None:
    pairs = torch.ones(2, 3, requires_grad=True)
    none = torch.zeros((2, 0), dtype=torch.int64)
    sums = sums_in_blocks(terms, pairs, none, none[0], 4, given)
    assert torch.equal(sums, torch.zeros(3, 4))
    (gradient,) = torch.autograd.grad(sums.sum(), pairs)
    assert torch.equal(gradient, torch.zeros(2, 3))
