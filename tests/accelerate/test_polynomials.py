"""Straight-line programs: values, first and second derivatives against autograd on the same steps."""

import pytest
import torch
from torch import Tensor

from hiphop_train.accelerate.invariants import program_of
from hiphop_train.accelerate.polynomials import NOTHING, Program, Writer, evaluate, interpret
from hiphop_train.nn.invariants import Invariants


def awkward() -> Program:
    """Shared parts, squares, a copy, a result used within another, an unused variable, and factors."""
    writer = Writer(4)
    copy = writer.sum({(1, NOTHING): 1.0})
    shared = writer.sum({(0, 1): 2.0, (2, NOTHING): -1.0})
    square = writer.sum({(2, 2): 1.0})
    cube = writer.sum({(2, square): 1.0})
    both = writer.sum({(shared, shared): 1.0, (cube, NOTHING): 0.5, (shared, cube): -3.0})
    unused = writer.sum({(0, both): 1.0})
    assert unused == writer.n_planes - 1
    return writer.finish([copy, shared, both, writer.sum({(cube, 0): -1.0, (0, NOTHING): 1.0})])


PROGRAMS = {
    "awkward": awkward,
    **{
        f"{kind} {l_max},{n_max}": lambda kind=kind, l_max=l_max, n_max=n_max: program_of(
            Invariants(kind, l_max, n_max)
        )
        for kind, l_max, n_max in [("published", k, n) for k in range(4) for n in range(1, 5)]
        + [("flexible", 3, 4), ("flexible", 4, 3), ("flexible", 2, 5), ("flexible", 5, 2)]
    },
}


@pytest.fixture(params=PROGRAMS)
def case(request: pytest.FixtureRequest) -> tuple[Program, Tensor]:
    program = PROGRAMS[request.param]()
    generator = torch.Generator().manual_seed(program.n_inputs)
    return program, torch.randn(program.n_inputs, 3, 2, dtype=torch.float64, generator=generator)


def test_values_and_derivatives_equal_autograd(case: tuple[Program, Tensor]) -> None:
    program, inputs = case
    generator = torch.Generator().manual_seed(1)
    results = []
    for function in (lambda x: interpret(x, program.steps, program.outputs), lambda x: evaluate(program, x)):
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


def test_gradients_against_finite_differences(case: tuple[Program, Tensor]) -> None:
    program, inputs = case
    if len(inputs) > 9:
        inputs = inputs[:, :1, :1]  # one point is enough for many variables
    point = inputs.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: evaluate(program, x), point)
    assert torch.autograd.gradgradcheck(lambda x: evaluate(program, x), point)


def test_inputs_are_not_changed() -> None:
    """Programs run in place on planes of their own."""
    program = awkward()
    inputs = torch.randn(4, 5, dtype=torch.float64).requires_grad_(True)
    before = inputs.detach().clone()
    value = evaluate(program, inputs)
    seeds = torch.ones_like(value)
    torch.autograd.grad(value, inputs, seeds)
    assert torch.equal(inputs.detach(), before)
    assert torch.equal(seeds, torch.ones_like(value))


def test_awkward_values() -> None:
    x = torch.tensor([2.0, 3.0, 5.0, 7.0])
    shared, cube = 2 * 2 * 3 - 5, 125
    expected = [3, shared, shared**2 + 0.5 * cube - 3 * shared * cube, -cube * 2 + 2]
    assert evaluate(awkward(), x).tolist() == expected


def test_derivatives_can_be_repeated() -> None:
    """What is released on the way is not what autograd's graph holds."""
    program = awkward()
    x = torch.randn(4, 5, dtype=torch.float64).requires_grad_(True)
    (gradient,) = torch.autograd.grad(evaluate(program, x).sum(), x, create_graph=True)
    first, second = (torch.autograd.grad(gradient.square().sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_memory_is_released_on_the_way() -> None:
    """Most of the planes that only the second derivative needs are released before the end."""
    program = program_of(Invariants("published", 3, 4))
    temporary = {step.target for step in program.gradient_of_gradient}
    assert sum(program.last) > 0.7 * len(temporary)


def test_scripted_interpreter_equals_programs(case: tuple[Program, Tensor]) -> None:
    program, inputs = case
    steps = [tuple(step) for step in program.steps]
    scripted = torch.jit.script(interpret)
    results = []
    for function in (lambda x: scripted(x, steps, program.outputs), lambda x: evaluate(program, x)):
        x = inputs.clone().requires_grad_(True)
        value = function(x)
        results.append((value, *torch.autograd.grad(value.sin().sum(), x)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-10)
