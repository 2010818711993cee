"""Irreducible tensors of any rank, against their definition on full Cartesian tensors."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.nn.tensors import component_index, irreducible_tensors, next_tensor
from tests.nn.conftest import FREE, expand, tensors_of, turn

RANKS = range(6)


def norm(rank: int) -> float:
    """Square of the norm of the tensor of a unit vector: l! / (2 l - 1)!!."""
    return math.factorial(rank) / math.prod(range(2 * rank - 1, 0, -2))


def random_directions(count: int) -> Tensor:
    vectors = torch.randn(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return vectors / vectors.norm(dim=1, keepdim=True)


def full_from_definition(unit: Tensor, rank: int) -> Tensor:
    """Products of a unit vector with itself, less the traces: (n, 3) -> (3, ..., 3, n).

    Sum over k of (-1)^k (2l - 2k - 1)!! / (2l - 1)!! times all products of k unit matrices and l - 2k vectors.
    """
    delta = torch.eye(3, dtype=unit.dtype)
    total = torch.zeros(*(3,) * rank, len(unit), dtype=unit.dtype)
    for k in range(rank // 2 + 1):
        factor = (-1) ** k * math.prod(range(2 * (rank - k) - 1, 0, -2)) / math.prod(range(2 * rank - 1, 0, -2))
        for index in itertools.product(range(3), repeat=rank):
            for matched in pairings(range(rank), k):
                flat = {place for pair in matched for place in pair}
                product = math.prod(float(delta[index[a], index[b]]) for a, b in matched)
                if product:
                    vectors = [unit[:, index[place]] for place in range(rank) if place not in flat]
                    total[index] += factor * math.prod(vectors, start=torch.ones(len(unit), dtype=unit.dtype))
    return total


def pairings(places: range, k: int) -> list[tuple[tuple[int, int], ...]]:
    """All sets of k pairs of different indices."""
    pairs = list(itertools.combinations(places, 2))
    return [chosen for chosen in itertools.combinations(pairs, k) if len({p for pair in chosen for p in pair}) == 2 * k]


@pytest.mark.parametrize("l_max", RANKS)
def test_components_are_those_of_the_definition(l_max: int) -> None:
    unit = random_directions(20)
    components = irreducible_tensors(unit, l_max)
    assert components.shape == (20, (l_max + 1) ** 2)
    for rank, tensor in enumerate(tensors_of(components.T, l_max)):
        torch.testing.assert_close(tensor, full_from_definition(unit, rank), rtol=0, atol=1e-14)


def test_first_ranks_do_not_depend_on_how_many_follow() -> None:
    """Weights belong to components, whatever l_max."""
    unit = random_directions(20)
    for l_max in RANKS:
        assert torch.equal(irreducible_tensors(unit, l_max), irreducible_tensors(unit, 5)[:, : (l_max + 1) ** 2])


def test_recurrence_gives_the_explicit_ranks_too() -> None:
    unit = random_directions(20)
    components = irreducible_tensors(unit, 3).T
    for rank in (1, 2, 3):
        found = next_tensor(components[(rank - 1) ** 2 : rank**2], unit, rank)
        torch.testing.assert_close(found, components[rank**2 : (rank + 1) ** 2], rtol=0, atol=1e-15)


def test_order_of_the_components() -> None:
    found = [component_index(rank, index.count(0), index.count(2)) for rank in RANKS for index in FREE[rank]]
    assert found == list(range(36))


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_expanded_tensors_are_symmetric_and_traceless(rank: int) -> None:
    components = irreducible_tensors(random_directions(20), 5).T[rank**2 : (rank + 1) ** 2]
    tensor = expand(components, rank)
    for order in itertools.permutations(range(rank)):
        assert torch.equal(tensor, tensor.permute(*order, rank))
    assert torch.diagonal(tensor, dim1=0, dim2=1).sum(-1).abs().max() < 1e-15


def test_contractions_are_legendre_polynomials() -> None:
    """T(u) . T(w) = l! / (2 l - 1)!! P_l(u . w), which fixes each rank's norm."""
    u, w = random_directions(40)[:20], random_directions(40)[20:]
    cosine = (u * w).sum(1).numpy()
    first, second = (tensors_of(irreducible_tensors(x, 5).T, 5) for x in (u, w))
    for rank in RANKS:
        contraction = (first[rank] * second[rank]).reshape(3**rank, 20).sum(0)
        legendre = np.polynomial.legendre.Legendre.basis(rank)(cosine)
        np.testing.assert_allclose(contraction.numpy(), norm(rank) * legendre, rtol=0, atol=1e-14)


def test_ranks_are_orthogonal_on_the_sphere() -> None:
    """The mean of T_a T_b over all directions vanishes between ranks, and within one is the projector times a norm."""
    cosine, weight = np.polynomial.legendre.leggauss(8)
    angle = 2 * np.pi * np.arange(16) / 16
    sine = np.sqrt(1 - cosine**2)
    unit = np.stack([np.outer(sine, np.cos(angle)), np.outer(sine, np.sin(angle)), np.outer(cosine, np.ones(16))], -1)
    weights = torch.from_numpy(np.repeat(weight / 2 / 16, 16))
    full = [
        tensor.reshape(3**rank, -1)
        for rank, tensor in enumerate(tensors_of(irreducible_tensors(torch.from_numpy(unit.reshape(-1, 3)), 5).T, 5))
    ]
    for a, b in itertools.product(RANKS, repeat=2):
        mean = torch.einsum("an,bn,n->ab", full[a], full[b], weights)
        if a != b:
            assert mean.abs().max() < 1e-15
        else:
            projector = mean / norm(a) * (2 * a + 1)
            torch.testing.assert_close(projector @ projector, projector, rtol=0, atol=1e-13)
            assert float(projector.trace()) == pytest.approx(2 * a + 1, abs=1e-12)


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_tensors_of_rotated_directions_are_rotated_tensors(handedness: int) -> None:
    matrix = handedness * torch.from_numpy(Rotation.random(random_state=np.random.RandomState(3)).as_matrix())
    unit = random_directions(20)
    found = tensors_of(irreducible_tensors(unit @ matrix.T, 5).T, 5)
    expected = turn(tensors_of(irreducible_tensors(unit, 5).T, 5), matrix)
    for tensor, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(tensor, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("l_max", [3, 5])
def test_derivatives(l_max: int) -> None:
    unit = random_directions(2).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: irreducible_tensors(x, l_max), unit)
    assert torch.autograd.gradgradcheck(lambda x: irreducible_tensors(x, l_max), unit)


@pytest.mark.parametrize("l_max", RANKS)
def test_scripted_equals_eager(l_max: int) -> None:
    unit = random_directions(7)
    assert torch.equal(torch.jit.script(irreducible_tensors)(unit, l_max), irreducible_tensors(unit, l_max))
