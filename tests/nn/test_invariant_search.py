"""The search for invariants: known ranks; a flexible set is complete, and no larger than necessary."""

import itertools

import numpy as np
import pytest
import torch

from hiphop_train.nn.contractions import Contraction, connected_contractions, parse
from hiphop_train.nn.invariant_search import (
    INDEPENDENT,
    choose,
    dimension,
    expansion,
    flexible_invariants,
    gradients,
    ranks,
)
from hiphop_train.nn.invariants import Invariants, invariant_contractions
from tests.nn.conftest import expand, random_components

ORDERS = [(0, 3), (1, 4), (2, 2), (2, 4), (3, 2), (3, 3), (3, 4), (4, 3), (4, 4), (5, 3)]
LARGE = [(5, 4), (4, 5), (5, 5)]

FLEXIBLE_4_4 = """
s; v_i v_i; q_ij q_ij; t_ijk t_ijk; h_ijkl h_ijkl; v_i v_j q_ij; q_ij q_ik q_jk; v_i t_jkl h_ijkl; q_ij q_kl h_ijkl;
q_ij t_ikl t_jkl; q_ij h_iklm h_jklm; t_ijk t_ilm h_jklm; h_ijkl h_ijmn h_klmn; v_i v_j v_k t_ijk; v_i v_j q_ik q_jk;
v_i v_j t_ikl t_jkl; v_i v_j h_iklm h_jklm; q_ij q_kl t_ijm t_klm; v_i t_ijk t_jlm t_klm; q_ij q_ik q_lm h_jklm;
q_ij q_ik t_jlm t_klm; v_i t_ijk h_jlmn h_klmn; q_ij q_kl h_ijmn h_klmn; q_ij q_ik h_jlmn h_klmn;
t_ijk t_ijl t_kmn t_lmn; t_ijk t_lmn h_ijko h_lmno; q_ij h_ijkl h_kmno h_lmno; t_ijk t_ijl h_kmno h_lmno;
t_ijk t_ilm h_jkno h_lmno; h_ijkl h_ijkm h_lnop h_mnop
"""


def present(names: str) -> frozenset[int]:
    return frozenset("svqth".index(name) for name in names)


def table(chosen: list[Contraction], l_max: int, n_max: int) -> dict[frozenset[int], tuple[int, int, int]]:
    everything = connected_contractions(l_max, n_max)
    found = ranks(chosen, everything, gradients(everything, l_max), l_max)
    assert len(found) == 2**l_max
    return {rank.present: (rank.chosen, rank.reached, rank.dimension) for rank in found}


def test_known_ranks_of_the_published_set() -> None:
    """Complete at generic points; t.t.t.v is missing where q vanishes."""
    found = table(invariant_contractions("published", 3, 4), 3, 4)
    assert found[present("vqt")] == (13, 13, 13)
    assert found[present("qt")] == (8, 8, 10)
    assert found[present("vt")] == (6, 7, 8)
    assert found[present("vq")] == (6, 6, 6)


def test_flexible_set_of_the_published_order_adds_one() -> None:
    published, flexible = invariant_contractions("published", 3, 4), flexible_invariants(3, 4)
    assert set(published) < set(flexible)
    assert set(flexible) - set(published) == {parse("v_i t_ijk t_jlm t_klm")}


def test_all_of_order_three_are_independent() -> None:
    """The published seven leave out t:q.v."""
    everything = connected_contractions(3, 3)
    assert set(flexible_invariants(3, 3)) == set(everything)
    assert len(everything) == 8
    assert set(everything) - set(invariant_contractions("published", 3, 3)) == {parse("v_i q_jk t_ijk")}
    assert table(everything, 3, 3)[present("vqt")] == (8, 8, 13)


def test_order_four_of_rank_four() -> None:
    assert table(flexible_invariants(4, 4), 4, 4)[present("vqth")] == (22, 22, 22)
    assert len(flexible_invariants(4, 4)) == 30


@pytest.mark.parametrize(("l_max", "n_max"), ORDERS + LARGE)
def test_flexible_set_has_the_rank_of_all_wherever_tensors_vanish(l_max: int, n_max: int) -> None:
    for chosen, reached, most in table(flexible_invariants(l_max, n_max), l_max, n_max).values():
        assert chosen == reached <= most


@pytest.mark.parametrize(("l_max", "n_max"), [order for order in ORDERS if order[0] > 0])
def test_no_member_can_be_dropped(l_max: int, n_max: int) -> None:
    flexible = flexible_invariants(l_max, n_max)
    everything = connected_contractions(l_max, n_max)
    rows = gradients(everything, l_max)
    for dropped in flexible:
        left = [contraction for contraction in flexible if contraction != dropped]
        assert any(rank.chosen < rank.reached for rank in ranks(left, everything, rows, l_max))


def test_no_smaller_set_exists() -> None:
    """By trying all sets: (2, 4), (3, 3), and for (3, 4) all possible ones of thirteen."""
    for l_max, n_max in [(2, 4), (3, 3), (3, 4)]:
        everything = connected_contractions(l_max, n_max)
        rows = gradients(everything, l_max)
        tensors = [set(contraction.ranks) - {0} for contraction in everything]
        patterns = [
            frozenset(p) for size in range(l_max + 1) for p in itertools.combinations(range(1, l_max + 1), size)
        ]
        left = {p: [k for k, t in enumerate(tensors) if t <= p] for p in patterns}
        reached = {p: np.linalg.matrix_rank(rows[left[p]], tol=1e-8) for p in patterns}
        size = len(flexible_invariants(l_max, n_max)) - 1
        certain = {
            k for p in patterns if len(left[p]) == reached[p] for k in left[p]
        }  # needed where all are independent
        others = [k for k in range(len(everything)) if k not in certain]
        for more in itertools.combinations(others, size - len(certain)) if size >= len(certain) else ():
            chosen = certain | set(more)
            if all(len(chosen & set(left[p])) >= reached[p] for p in patterns):
                found = [np.linalg.matrix_rank(rows[sorted(chosen & set(left[p]))], tol=1e-8) for p in patterns]
                assert found != [reached[p] for p in patterns]


@pytest.mark.parametrize(("l_max", "n_max"), ORDERS + LARGE)
def test_choice_is_unambiguous_and_does_not_depend_on_the_point(l_max: int, n_max: int) -> None:
    """What is left of a gradient outside of a span is never near the bound between independent and dependent."""
    everything = connected_contractions(l_max, n_max)
    for seed in (0, 1, 2):
        chosen, doubt = choose(everything, gradients(everything, l_max, seed))
        assert chosen == flexible_invariants(l_max, n_max)
        assert doubt < 2e-3


def test_choice_is_that_of_earlier_versions() -> None:
    """Weights of trained models belong to invariants by their number: what was chosen once must stay."""
    products = [" ".join(product.split()) for product in FLEXIBLE_4_4.split(";")]
    assert [str(contraction) for contraction in flexible_invariants(4, 4)] == products
    without_h = [product for product in products if "h" not in product]
    assert [str(contraction) for contraction in flexible_invariants(3, 4)] == without_h
    sizes = {(l_max, n_max): len(flexible_invariants(l_max, n_max)) for l_max, n_max in LARGE}
    assert sizes == {(5, 4): 59, (4, 5): 35, (5, 5): 66}


@pytest.mark.parametrize("vanishing", ["", "v", "q", "t", "h", "vt", "qh", "vqt", "vqth"])
def test_ranks_are_those_of_the_evaluated_polynomials(vanishing: str) -> None:
    """By autograd of what the model evaluates, where tensors do vanish, and by singular values."""
    names = "s" + "v" * 3 + "q" * 5 + "t" * 7 + "h" * 9
    left = torch.tensor([name not in vanishing for name in names])
    invariants = Invariants("flexible", 4, 4)
    point = random_components(4, seed=5) * left
    jacobian = torch.autograd.functional.jacobian(lambda x: invariants(x[:, None]).flatten(), point)[:, left]
    jacobian = jacobian[jacobian.norm(dim=1) > 0]
    singular = torch.linalg.svdvals(jacobian / jacobian.norm(dim=1, keepdim=True))
    chosen, reached, _ = table(flexible_invariants(4, 4), 4, 4)[present("vqth") - present(vanishing)]
    assert int((singular > INDEPENDENT).sum()) == chosen == reached


def test_gradients_are_those_of_the_program() -> None:
    everything = connected_contractions(4, 3)
    point = torch.from_numpy(np.random.default_rng(3).normal(size=25))
    invariants = Invariants("flexible", 4, 3)
    expected = torch.autograd.functional.jacobian(lambda x: invariants(x[:, None]).flatten(), point)
    expected = expected / expected.norm(dim=1, keepdim=True)
    found = gradients(everything, 4, seed=3)
    places = [everything.index(contraction) for contraction in flexible_invariants(4, 3)]
    np.testing.assert_allclose(found[places], expected.numpy(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", range(6))
def test_expansion(rank: int) -> None:
    full = expand(torch.eye(2 * rank + 1, dtype=torch.float64), rank).reshape(3**rank, -1)
    np.testing.assert_array_equal(expansion(rank), full.numpy())


def test_dimensions() -> None:
    """Components less three rotations, two for a vector, none for scalars."""
    assert [dimension(frozenset(range(1, l_max + 1))) for l_max in range(6)] == [1, 2, 6, 13, 22, 33]
    assert dimension(present("q")) == 3
    assert dimension(present("vt")) == 8
