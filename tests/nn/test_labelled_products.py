"""Products with labels: as many as the theory of groups counts, independent, each invariant once."""

import math

import numpy as np
import pytest
import torch

from hiphop_train.nn.couplings import metric
from hiphop_train.nn.labelled_products import (
    LabelledProducts,
    ProductsOfGraph,
    independent_products,
    labelled_products,
)
from hiphop_train.nn.tensors import full_tensor


def n_invariants(order: int, n_labels: list[int]) -> int:
    """Count the invariant polynomials of a degree in n_labels[l] tensors of rank l.

    The mean over all rotations, with and without inversion, of the trace in the symmetric power, which follows from
    Newton's identities. The mean over angles is exact on enough evenly spaced ones.
    """
    angles = 2 * np.pi * np.arange(512) / 512
    total = 0.0
    for inversion in (1, -1):

        def trace(power: int, inversion: int = inversion) -> np.ndarray:
            found = np.zeros_like(angles)
            for rank, count in enumerate(n_labels):
                turns = np.cos(power * np.outer(np.arange(-rank, rank + 1), angles)).sum(axis=0)
                found += count * inversion ** (rank * power) * turns
            return found

        symmetric = [np.ones_like(angles)]
        for degree in range(1, order + 1):
            symmetric.append(sum(trace(k) * symmetric[degree - k] for k in range(1, degree + 1)) / degree)
        total += float(np.mean((1 - np.cos(angles)) * symmetric[order])) / 2
    assert math.isclose(total, round(total), abs_tol=1e-6)
    return round(total)


def values(products: list[LabelledProducts], n_labels: list[int], n_samples: int, matrix: torch.Tensor) -> torch.Tensor:
    """Evaluate products of the tensors of random vectors, turned by a matrix: (n_products, n_samples)."""
    generator = torch.Generator().manual_seed(1)
    tensors = []
    for rank, count in enumerate(n_labels):
        full = full_tensor(torch.randn(2 * rank + 1, count, n_samples, dtype=torch.float64, generator=generator), rank)
        for axis in range(rank):
            full = torch.tensordot(matrix, full.movedim(axis, 0), dims=1).movedim(0, axis)
        tensors.append(full)
    return torch.cat([ProductsOfGraph(each)(tensors) for each in products])


def count(products: list[LabelledProducts]) -> int:
    return sum(len(each.labels) for each in products)


@pytest.mark.parametrize(
    ("order", "n_labels"),
    [
        (1, [4, 3]),
        (2, [3, 2, 2, 1]),
        (3, [2, 2, 2, 1]),
        (3, [1, 1, 1, 1, 1]),
        (4, [2, 2, 2]),
        (4, [1, 1, 1, 1]),
        (4, [0, 4]),  # four vectors
        (5, [1, 2, 1]),
        (5, [0, 1, 1, 1]),
        (6, [1, 1, 1]),
    ],
)
def test_as_many_as_invariant_polynomials(order: int, n_labels: list[int]) -> None:
    assert count(labelled_products(order, n_labels)) == n_invariants(order, n_labels)


def test_known_numbers() -> None:
    """Of one tensor of each rank up to 3: the powers of MACE; vectors a, b: a.a, a.b, b.b and their products."""
    assert [count(labelled_products(order, [1, 1, 1, 1])) for order in (1, 2, 3)] == [1, 4, 8]
    assert [count(labelled_products(order, [0, 2])) for order in (2, 4)] == [3, 6]
    assert not labelled_products(3, [0, 3])  # a.(b x c) changes sign in a mirror


def test_four_quadrupoles_have_five_products_of_six_graphs() -> None:
    assert len(independent_products((2, 2, 2, 2), (0, 1, 2, 3))) == 5


@pytest.mark.parametrize(("order", "n_labels"), [(2, [2, 2, 1, 1]), (3, [2, 2, 2]), (4, [1, 2, 1]), (4, [1, 1, 1, 1])])
def test_independent_and_invariant(order: int, n_labels: list[int]) -> None:
    products = labelled_products(order, n_labels)
    found = values(products, n_labels, 4 * count(products), torch.eye(3, dtype=torch.float64))
    sizes = torch.linalg.svdvals(found / found.norm(dim=1, keepdim=True))
    assert sizes[-1] > 1e-4 * sizes[0]
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))[0]
    for matrix in (turn, -turn):
        turned = values(products, n_labels, 4 * count(products), matrix)
        assert (turned - found).abs().max() < 1e-12 * found.abs().max()


def test_each_factor_order_once() -> None:
    """No two products of a graph differ by a symmetry of the graph only."""
    for each in labelled_products(4, [2, 2, 1]):
        graph, labels = each
        assert labels == sorted(set(labels))
        random = values([each], [2, 2, 1], 5, torch.eye(3, dtype=torch.float64))
        distance = (random[:, None] - random[None]).abs().amax(2) + torch.eye(len(labels), dtype=torch.float64)
        assert distance.min() > 1e-6, str(graph)


def test_mean_square_is_one() -> None:
    """For independent factors with components of mean square 1."""
    products = [LabelledProducts(graph, [tuple(range(3))]) for graph, _ in labelled_products(3, [1, 1, 1])]
    n_samples = 200_000
    generator = torch.Generator().manual_seed(3)
    tensors = []
    for rank in range(3):
        root = torch.linalg.cholesky(metric(rank).inverse())
        free = root @ torch.randn(2 * rank + 1, 3 * n_samples, dtype=torch.float64, generator=generator)
        tensors.append(full_tensor(free.reshape(2 * rank + 1, 3, n_samples), rank))
    squares = torch.cat([ProductsOfGraph(each)(tensors) for each in products]).square().mean(1)
    torch.testing.assert_close(squares, torch.ones_like(squares), rtol=0.05, atol=0)
