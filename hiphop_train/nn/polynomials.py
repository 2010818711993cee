"""Polynomials of many variables as straight-line programs, with their first and second derivatives.

Training on forces differentiates the network twice. Left to autograd, a set of invariants becomes thousands of small
recorded operations. Here the formula is traced once into steps ``target += factor * left * right`` on planes (tensors
of one shape, one per variable or intermediate result); the gradient of such a program is a program of the same kind,
and so is the gradient's gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


class Step(NamedTuple):
    """``target += factor * left * right`` on planes given by number; without `right`, ``target += factor * left``."""

    target: int
    left: int
    right: int | None
    factor: float


class Expression:
    """A sum of products of planes; arithmetic on expressions writes the steps that evaluate it.

    Parameters
    ----------
    program : where steps go
    terms : (left, right, factor) of each product
    """

    def __init__(self, program: "Program", terms: list[tuple[int, int | None, float]]) -> None:
        self.program = program
        self.terms = terms

    def plane(self) -> int:
        """Number of the plane that holds the value, made when there is none yet."""
        if self.terms == [(self.terms[0][0], None, 1.0)]:
            return self.terms[0][0]
        factors: dict[tuple[int, int | None], float] = {}
        for left, right, factor in self.terms:
            product = (left, right) if right is None else (min(left, right), max(left, right))
            factors[product] = factors.get(product, 0.0) + factor
        target = self.program.n_planes
        self.program.n_planes += 1
        self.program.steps += [Step(target, *product, factor) for product, factor in factors.items()]
        self.terms = [(target, None, 1.0)]
        return target

    def __mul__(self, other: "Expression") -> "Expression":
        return Expression(self.program, [(self.plane(), other.plane(), 1.0)])

    def __add__(self, other: "Expression") -> "Expression":
        return Expression(self.program, self.terms + other.terms)

    def __neg__(self) -> "Expression":
        return Expression(self.program, [(left, right, -factor) for left, right, factor in self.terms])


@dataclass
class Program:
    """Steps that evaluate a polynomial map, and after `trace` those of its derivatives.

    Attributes
    ----------
    n_inputs : planes [0, n_inputs) are the variables
    n_planes : of variables and intermediate results
    outputs : planes of the results
    steps : evaluation, on n_planes planes
    gradient : vector-Jacobian product, on 2 n_planes planes: values, then their adjoints
    gradient_of_gradient : of evaluation and gradient together, on 4 n_planes planes: those of the gradient, then their
        adjoints
    """

    n_inputs: int
    n_planes: int
    outputs: list[int]
    steps: list[Step]
    gradient: list[Step]
    gradient_of_gradient: list[Step]


def trace(formula: Callable[[list[Any]], list[Any]], n_inputs: int) -> Program:
    """Write the program of a formula that adds, subtracts by negation, and multiplies.

    Parameters
    ----------
    formula : from a list of variables to a list of results
    n_inputs : number of variables
    """
    program = Program(n_inputs, n_inputs, [], [], [], [])
    results = formula([Expression(program, [(k, None, 1.0)]) for k in range(n_inputs)])
    for result in results:
        plane = result.plane()
        if plane < n_inputs:  # a result must have a plane of its own
            plane = program.n_planes
            program.n_planes += 1
            program.steps.append(Step(plane, result.plane(), None, 1.0))
        program.outputs.append(plane)
    n = program.n_planes
    inputs = list(range(n_inputs))
    program.gradient = adjoint(program.steps, n, seeds=program.outputs, wanted=inputs)
    program.gradient_of_gradient = adjoint(
        program.steps + program.gradient,
        2 * n,
        seeds=[n + k for k in inputs],
        wanted=[*inputs, *(n + k for k in program.outputs)],
    )
    return program


def adjoint(steps: list[Step], n_planes: int, seeds: list[int], wanted: list[int]) -> list[Step]:
    """Reverse-mode derivative of a program; the adjoint of plane k is plane n_planes + k.

    Parameters
    ----------
    steps : program on n_planes planes
    seeds : planes whose adjoints are given; all others begin at zero
    wanted : planes whose adjoints are asked for
    """
    found: list[Step] = []
    filled = set(seeds)
    for target, left, right, factor in reversed(steps):
        if target not in filled:
            continue
        if right is None:
            found.append(Step(n_planes + left, n_planes + target, None, factor))
            filled.add(left)
        elif left == right:
            found.append(Step(n_planes + left, n_planes + target, left, 2 * factor))
            filled.add(left)
        else:
            found.append(Step(n_planes + left, n_planes + target, right, factor))
            found.append(Step(n_planes + right, n_planes + target, left, factor))
            filled.update((left, right))
    needed = {n_planes + plane for plane in wanted}
    useful: list[Step] = []
    for step in reversed(found):
        if step.target in needed:
            needed.update((step.left, step.left if step.right is None else step.right))
            useful.append(step)
    return useful[::-1]


def run(steps: list[Step], planes: list[Tensor | None]) -> None:
    """Execute a program; planes that are None begin at zero."""
    for target, left, right, factor in steps:
        first, second, sum_so_far = planes[left], None if right is None else planes[right], planes[target]
        assert first is not None
        if sum_so_far is None:
            product = first if second is None else first * second
            planes[target] = product * factor if factor != 1.0 or second is None else product
        elif second is None:
            sum_so_far.add_(first, alpha=factor)
        else:
            sum_so_far.addcmul_(first, second, value=factor)


def evaluate(program: Program, inputs: Tensor) -> Tensor:
    """Evaluate a program, twice differentiable.

    Parameters
    ----------
    program : from `trace`
    inputs : (n_inputs, ...)

    Returns
    -------
    results : (n_outputs, ...)
    """
    results: Tensor = _Evaluate.apply(inputs, program)  # type: ignore[no-untyped-call]
    return results


def _gather(planes: list[Tensor | None], wanted: list[int], like: Tensor) -> Tensor:
    """Stack planes; those that nothing was added to are zero."""
    zero = torch.zeros_like(like[0])
    return torch.stack([zero if (plane := planes[k]) is None else plane for k in wanted])


class _Evaluate(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, program: Program) -> Tensor:
        planes: list[Tensor | None] = [*inputs.unbind(0), *[None] * (program.n_planes - program.n_inputs)]
        run(program.steps, planes)
        ctx.program = program
        ctx.save_for_backward(inputs, *planes[program.n_inputs :])
        return _gather(planes, program.outputs, inputs)

    @staticmethod
    def backward(ctx: Any, seeds: Tensor) -> tuple[Tensor, None]:
        inputs, *rest = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(inputs, seeds, ctx.program, *rest)  # type: ignore[no-untyped-call]
        return gradient, None


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, seeds: Tensor, program: Program, *rest: Tensor) -> Tensor:
        n = program.n_planes
        planes: list[Tensor | None] = [*inputs.unbind(0), *rest, *[None] * n]
        for k, seed in zip(program.outputs, seeds.clone().unbind(0), strict=True):  # sums may go on in them
            planes[n + k] = seed
        run(program.gradient, planes)
        ctx.program = program
        ctx.made = [k for k in range(n, 2 * n) if planes[k] is not None]
        ctx.save_for_backward(inputs, *rest, *(planes[k] for k in ctx.made))
        return _gather(planes, list(range(n, n + program.n_inputs)), inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seeds: Tensor) -> tuple[Tensor | None, ...]:
        program: Program = ctx.program
        n = program.n_planes
        inputs, *saved = ctx.saved_tensors
        rest, adjoints = saved[: n - program.n_inputs], saved[n - program.n_inputs :]
        planes: list[Tensor | None] = [*inputs.unbind(0), *rest, *[None] * (3 * n)]
        for k, adjoint_plane in zip(ctx.made, adjoints, strict=True):
            planes[k] = adjoint_plane
        for k, seed in enumerate(seeds.clone().unbind(0)):
            planes[3 * n + k] = seed
        run(program.gradient_of_gradient, planes)
        of_inputs = _gather(planes, [2 * n + k for k in range(program.n_inputs)], inputs)
        of_seeds = _gather(planes, [3 * n + k for k in program.outputs], inputs)
        return (of_inputs, of_seeds, None, *[None] * len(rest))
