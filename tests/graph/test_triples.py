"""Triples are all pairs of neighbours of an atom, each once."""

import itertools

import torch

from hiphop_train.graph.triples import pairs_of_pairs


def check(pair_i: torch.Tensor, n_atoms: int) -> int:
    first, second = pairs_of_pairs(pair_i, n_atoms)
    scripted = torch.jit.script(pairs_of_pairs)(pair_i, n_atoms)
    assert torch.equal(scripted[0], first)
    assert torch.equal(scripted[1], second)
    expected = {(a, b) for a, b in itertools.combinations(range(len(pair_i)), 2) if pair_i[a] == pair_i[b]}
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(expected)
    assert set(found) == expected
    assert (pair_i[first].diff() >= 0).all()  # triples of an atom are contiguous
    return len(found)


def test_every_pair_of_pairs_once() -> None:
    """Atoms without neighbours, with one, with many, at the ends and in the middle."""
    generator = torch.Generator().manual_seed(0)
    for n_pairs in (1, 2, 5, 40):
        pair_i = torch.randint(0, 9, (n_pairs,), generator=generator).sort().values + 1
        check(pair_i, 12)
    assert check(torch.tensor([2, 2, 2, 5, 7, 7]), 9) == 3 + 0 + 1


def test_no_pairs_and_no_atoms() -> None:
    assert check(torch.zeros(0, dtype=torch.int64), 3) == 0
    assert check(torch.zeros(0, dtype=torch.int64), 0) == 0
