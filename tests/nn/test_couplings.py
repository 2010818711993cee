"""Couplings and harmonics against e3nn, and their algebra."""

import itertools

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from hiphop_train.nn.couplings import TensorType, all_types, coupling, harmonics, metric, products, true_types

L_MAX = 4
TRIPLES = [
    (a, b, c)
    for a, b in itertools.product(range(L_MAX + 1), repeat=2)
    for c in range(abs(a - b), min(L_MAX, a + b) + 1)
]


def unit_vectors(n: int = 60) -> Tensor:
    vectors = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.normalize(vectors, dim=1)


def of_rank(values: Tensor, rank: int) -> Tensor:
    return values[:, rank * rank : (rank + 1) ** 2]


def to_spherical(rank: int) -> Tensor:
    """Matrix from our components to e3nn's, from the harmonics of both."""
    from e3nn import o3

    unit = unit_vectors()
    theirs = o3.spherical_harmonics(rank, unit, normalize=False, normalization="component")
    ours = of_rank(harmonics(unit, rank), rank)
    matrix = torch.linalg.lstsq(ours, theirs).solution.T
    torch.testing.assert_close(ours @ matrix.T, theirs, rtol=0, atol=1e-12)
    return matrix


def test_size_of_harmonics() -> None:
    values = harmonics(unit_vectors(), L_MAX)
    for rank in range(L_MAX + 1):
        own = of_rank(values, rank)
        torch.testing.assert_close(((own @ metric(rank)) * own).sum(1), torch.full((60,), 2 * rank + 1.0).double())


@pytest.mark.parametrize("ranks", TRIPLES, ids=str)
def test_couplings_are_the_wigner_3j_symbols(ranks: tuple[int, int, int]) -> None:
    from e3nn import o3

    a, b, c = (to_spherical(rank) for rank in ranks)
    ours = torch.einsum("kK,Kmn,mM,nN->MNk", c, coupling(*ranks), a.inverse(), b.inverse())
    theirs = o3.wigner_3j(*ranks, dtype=torch.float64) * (2 * ranks[2] + 1) ** 0.5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


@pytest.mark.parametrize("handedness", [1, -1], ids=["rotation", "reflection"])
def test_couplings_are_equivariant(handedness: int) -> None:
    """Coupled harmonics of turned vectors are the turned couplings, pseudotensors with a sign."""
    matrix = torch.from_numpy(handedness * Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix())
    u, v = unit_vectors(30), unit_vectors(60)[30:]
    before, after = [[harmonics(w, L_MAX) for w in pair] for pair in ((u, v), (u @ matrix.T, v @ matrix.T))]
    basis = unit_vectors()
    still, turned = harmonics(basis, L_MAX), harmonics(basis @ matrix.T, L_MAX)
    turns = [torch.linalg.lstsq(of_rank(still, k), of_rank(turned, k)).solution for k in range(L_MAX + 1)]
    for a, b, c in TRIPLES:
        sign = handedness ** (a + b + c)
        first, second = [
            torch.einsum("kmn,pm,pn->pk", coupling(a, b, c), of_rank(x, a), of_rank(y, b)) for x, y in (before, after)
        ]
        torch.testing.assert_close(second, sign * first @ turns[c], rtol=0, atol=1e-11)


def test_types() -> None:
    vector, pseudovector = TensorType(1, -1), TensorType(1, 1)
    assert true_types(2) == [TensorType(0, 1), vector, TensorType(2, 1)]
    assert all_types(1) == [TensorType(0, 1), TensorType(0, -1), pseudovector, vector]
    assert products(vector, vector) == [TensorType(0, 1), pseudovector, TensorType(2, 1)]
    assert products(vector, pseudovector) == [TensorType(0, -1), vector, TensorType(2, -1)]
