"""Traced programs: values, first and second derivatives against autograd on the plain formula."""

import pytest
import torch
from torch import Tensor

from hiphop_train.nn.polynomials import Expression, Program, evaluate, trace
from hiphop_train.nn.tensors import PUBLISHED_COUNT, published_polynomials


def awkward(x: list[Tensor]) -> list[Tensor]:
    """Shared parts, repeated terms, a result that is a variable, one used inside of another, and a negation."""
    shared = x[0] * x[1] + x[1] * x[0] + -x[2]
    cube = x[2] * x[2] * x[2]
    return [x[1], shared, shared * shared + cube, cube + cube + x[0], -(cube * x[0])]


FORMULAS = {
    "awkward": (awkward, 3),
    **{
        f"published {l_max},{n_max}": (
            lambda part, l_max=l_max, n_max=n_max: published_polynomials(part, l_max, n_max),
            (l_max + 1) ** 2,
        )
        for l_max, n_max in PUBLISHED_COUNT
    },
}


@pytest.fixture(params=FORMULAS)
def case(request: pytest.FixtureRequest) -> tuple[object, Program, Tensor]:
    formula, n_inputs = FORMULAS[request.param]
    generator = torch.Generator().manual_seed(n_inputs)
    inputs = torch.randn(n_inputs, 3, 2, dtype=torch.float64, generator=generator)
    return formula, trace(formula, n_inputs), inputs


def test_values_and_derivatives_equal_autograd(case: tuple[object, Program, Tensor]) -> None:
    formula, program, inputs = case
    generator = torch.Generator().manual_seed(1)
    results = []
    for function in (lambda x: torch.stack(formula(list(x.unbind(0)))), lambda x: evaluate(program, x)):
        x = inputs.clone().requires_grad_(True)
        generator.manual_seed(1)
        value = function(x)
        weights = torch.randn(value.shape, dtype=value.dtype, generator=generator).requires_grad_(True)
        (gradient,) = torch.autograd.grad((value * weights).sum(), x, create_graph=True)
        direction = torch.randn(gradient.shape, dtype=value.dtype, generator=generator)
        second = torch.autograd.grad((gradient * direction).sum() + value.sum(), (x, weights))
        results.append((value, gradient, *second))
    for plain, traced in zip(*results, strict=True):
        torch.testing.assert_close(traced, plain, rtol=1e-12, atol=1e-12)


def test_gradients_against_finite_differences(case: tuple[object, Program, Tensor]) -> None:
    _, program, inputs = case
    if len(inputs) > 9:
        inputs = inputs[:, :1, :1]  # one point is enough for many variables
    point = inputs.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: evaluate(program, x), point)
    assert torch.autograd.gradgradcheck(lambda x: evaluate(program, x), point)


def test_nothing_given_is_changed() -> None:
    """Programs run in place on planes of their own."""
    program = trace(awkward, 3)
    inputs = torch.randn(3, 4, dtype=torch.float64).requires_grad_(True)
    before = inputs.detach().clone()
    value = evaluate(program, inputs)
    seeds = torch.ones_like(value)
    torch.autograd.grad(value, inputs, seeds)
    assert torch.equal(inputs.detach(), before)
    assert torch.equal(seeds, torch.ones_like(value))


def test_equal_terms_are_merged() -> None:
    program = trace(lambda x: [x[0] * x[1] + x[1] * x[0]], 2)
    assert [step[1:] for step in program.steps] == [(0, 1, 2.0)]
    assert isinstance(Expression(program, [(0, None, 1.0)]).plane(), int)
