"""Programs of contractions against plain einsum on full Cartesian tensors."""

import itertools

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.contraction_programs import contraction_program
from hiphop_train.accelerate.invariants import program_of
from hiphop_train.accelerate.polynomials import evaluate
from hiphop_train.nn.contractions import Contraction, connected_contractions, parse
from hiphop_train.nn.invariants import Invariants
from tests.nn.conftest import random_components, tensors_of


def einsum(contraction: Contraction, tensors: list[Tensor]) -> Tensor:
    equation = ",".join(f"{index}z" for index in contraction.indices())
    return torch.einsum(f"{equation}->z", *(tensors[rank] for rank in contraction.ranks))


@pytest.mark.parametrize(("l_max", "n_max"), [(3, 4), (4, 4), (5, 3), (2, 5)])
def test_every_contraction_equals_einsum(l_max: int, n_max: int) -> None:
    contractions = connected_contractions(l_max, n_max)
    components = random_components(l_max, 4)
    found = evaluate(contraction_program(contractions, l_max), components)
    tensors = tensors_of(components, l_max)
    for value, contraction in zip(found, contractions, strict=True):
        torch.testing.assert_close(value, einsum(contraction, tensors), rtol=1e-11, atol=1e-11)


def test_each_contraction_alone_and_in_any_order() -> None:
    """What is shared with others does not affect the values."""
    contractions = connected_contractions(4, 4)
    components = random_components(4, 3)
    together = evaluate(contraction_program(contractions, 4), components)
    backwards = evaluate(contraction_program(contractions[::-1], 4), components).flip(0)
    torch.testing.assert_close(backwards, together, rtol=1e-11, atol=1e-11)
    for contraction, expected in itertools.islice(zip(contractions, together, strict=True), 0, None, 5):
        (alone,) = evaluate(contraction_program([contraction], 4), components)
        torch.testing.assert_close(alone, expected, rtol=1e-11, atol=1e-11)


def test_parts_are_shared() -> None:
    """Components of a tensor, or of a product like b = t:t, are formed once for all that contain them."""
    square = contraction_program([parse("q_ij q_ij")], 2)
    assert len(square.steps) == 2 + 6  # zz, and the sum over different pairs of indices
    both = contraction_program([parse("q_ij q_ij"), parse("q_ij q_ik q_jk")], 2)
    assert len(both.steps) == 8 + 6 * 3 + 6  # zz exists; a = q.q is a symmetric matrix; a:q
    t_squared = [parse(product) for product in ("q_ij t_ikl t_jkl", "v_i v_j t_ikl t_jkl", "t_ijk t_ijl t_kmn t_lmn")]
    alone = [len(contraction_program([contraction], 3).steps) for contraction in t_squared]
    assert len(contraction_program(t_squared, 3).steps) == alone[0] + 6 + 6 + 6  # v v, v v : b, b : b


@pytest.mark.parametrize(
    ("arguments", "n_steps"),
    [(("published", 3, 4), 172), (("flexible", 3, 4), 193), (("flexible", 4, 4), 683), (("flexible", 4, 5), 883)],
)
def test_programs_stay_short(arguments: tuple[str, int, int], n_steps: int) -> None:
    """The published set written by hand, with a = q.q and b = t:t, takes 172 steps."""
    assert len(program_of(Invariants(*arguments)).steps) <= n_steps


def test_programs_are_the_same_every_time() -> None:
    contractions = connected_contractions(3, 4)
    assert contraction_program(contractions, 3) == contraction_program(contractions, 3)
