"""Contractions as graphs: their number, that none occurs twice, and how they are written."""

import itertools
import random

import numpy as np
import pytest

from hiphop_train.nn.contractions import Contraction, canonical, connected_contractions, n_symmetries, parse

COUNTS = {
    (0, 4): 1, (1, 1): 1, (1, 4): 2, (2, 2): 3, (2, 3): 5, (2, 4): 7, (3, 2): 4, (3, 3): 8, (3, 4): 20, (4, 4): 51,
    (5, 4): 113, (4, 5): 197,
}  # fmt: skip


@pytest.mark.parametrize(("l_max", "n_max"), COUNTS)
def test_number_of_connected_contractions(l_max: int, n_max: int) -> None:
    found = connected_contractions(l_max, n_max)
    assert len(found) == COUNTS[l_max, n_max]
    assert len(set(found)) == len(found)
    for contraction in found:
        assert contraction.free_indices() == [0] * len(contraction.ranks)
        assert contraction.is_connected()
        assert canonical(contraction) == contraction
        assert max(contraction.ranks) <= l_max
        assert len(contraction.ranks) <= n_max
    assert sorted(found, key=lambda contraction: len(contraction.ranks)) == found


def adjacency(contraction: Contraction) -> np.ndarray:
    """Bonds as a symmetric matrix."""
    n = len(contraction.ranks)
    matrix = np.zeros((n, n), dtype=int)
    matrix[np.triu_indices(n, 1)] = contraction.bonds
    return matrix + matrix.T


def test_all_multigraphs_of_brute_force_are_found() -> None:
    """Every symmetric matrix with these row sums and no diagonal, up to the order of rows: (3, 4)."""
    classes = set()
    for n in (2, 3, 4):
        for bonds in itertools.product(range(4), repeat=n * (n - 1) // 2):
            matrix = np.zeros((n, n), dtype=int)
            matrix[np.triu_indices(n, 1)] = bonds
            matrix = matrix + matrix.T
            connected = (np.linalg.matrix_power(matrix + np.eye(n, dtype=int), n) > 0).all()
            if connected and matrix.sum(1).max() <= 3:
                orders = [np.array(order) for order in itertools.permutations(range(n))]
                classes.add(max(tuple(matrix[order][:, order].flat) for order in orders))
    found = set()
    for contraction in connected_contractions(3, 4)[1:]:
        matrix = adjacency(contraction)
        orders = [np.array(order) for order in itertools.permutations(range(len(matrix)))]
        found.add(max(tuple(matrix[order][:, order].flat) for order in orders))
    assert found == classes
    assert len(classes) == 19


def test_writing_and_reading() -> None:
    generator = random.Random(0)
    for contraction in connected_contractions(4, 4):
        assert parse(str(contraction)) == contraction
        factors = str(contraction).split()
        generator.shuffle(factors)
        letters = [*"ijklmnopqrstuv"]
        generator.shuffle(letters)
        table = str.maketrans("ijklmnopqrstuv", "".join(letters))
        renamed = [
            "_".join([name, *("".join(generator.sample(index.translate(table), len(index))) for index in indices)])
            for name, *indices in (factor.split("_") for factor in factors)
        ]
        assert parse(" ".join(renamed)) == contraction


def test_symmetries() -> None:
    products = {"v_i t_jkl h_ijkl": 1, "q_ij q_ij": 2, "q_ij q_ik q_jk": 6, "q_ij q_ik q_jl q_kl": 8}
    products |= {"t_ijk t_ilm t_jln t_kmn": 24, "v_i v_j v_k t_ijk": 6, "v_i v_j": 2}
    for product, expected in products.items():
        assert n_symmetries(parse(product)) == expected


def test_parts_keep_cut_bonds_as_free_indices() -> None:
    part = parse("v_i v_j q_ik q_jk").part((0, 2))
    assert str(part) == "v_i q_i"
    assert part.free_indices() == [0, 1]
    assert not parse("v_i v_j q_ik q_jk").part((0, 1)).is_connected()
