"""Polynomials of many variables as straight-line programs, with their first and second derivatives.

Training on forces differentiates the network twice. With autograd, a set of invariants becomes thousands of small
recorded operations. Here a formula is written once as steps ``target += factor * left * right`` on planes (tensors of
one shape, one per variable or intermediate result); the gradient of a program is again a program, and so is the
gradient of the gradient. In TorchScript, which has no custom derivatives, `interpret` executes the steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any, List, NamedTuple, Tuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

NOTHING = -1
"""Index of an absent second factor."""


class Step(NamedTuple):
    """``target += factor * left * right`` on planes by index; with `right` = NOTHING, ``target += factor * left``."""

    target: int
    left: int
    right: int
    factor: float


@dataclass(frozen=True)
class Program:
    """Steps of a polynomial map and of its derivatives.

    Attributes
    ----------
    n_inputs : planes [0, n_inputs) are the variables
    n_constants : planes behind them that are given too, but not differentiated; for compiled programs only
    n_planes : of variables and intermediate results
    outputs : planes of the results
    steps : evaluation on n_planes planes, target by target
    gradient : vector-Jacobian product on 2 n_planes planes: values, then their adjoints
    gradient_of_gradient : vector-Jacobian product of evaluation and gradient together, on 4 n_planes planes: those of
        the gradient, then their adjoints
    last : whether the left plane of each step of the latter can be freed after it
    """

    n_inputs: int
    n_constants: int
    n_planes: int
    outputs: list[int]
    steps: list[Step]
    gradient: list[Step]
    gradient_of_gradient: list[Step]
    last: list[bool]


class Writer:
    """Writes a program, sum by sum.

    Parameters
    ----------
    n_inputs : number of variables
    n_constants : number of planes behind them that are not differentiated
    """

    def __init__(self, n_inputs: int, n_constants: int = 0) -> None:
        self.n_inputs = n_inputs
        self.n_constants = n_constants
        self.n_planes = n_inputs + n_constants
        self.steps: list[Step] = []

    def sum(self, terms: Mapping[tuple[int, int], float]) -> int:
        """Write a sum of products of planes to a new plane, and return its index.

        Parameters
        ----------
        terms : factor of each product (left, right); right may be `NOTHING`
        """
        target = self.n_planes
        self.n_planes += 1
        self.steps += [Step(target, left, right, factor) for (left, right), factor in terms.items()]
        return target

    def finish(self, outputs: list[int]) -> Program:
        """Differentiate, and return the program.

        Parameters
        ----------
        outputs : planes of the results, all different and none a variable
        """
        assert min(outputs) >= self.n_inputs + self.n_constants
        assert len(set(outputs)) == len(outputs)
        n = self.n_planes
        inputs = list(range(self.n_inputs))
        gradient = adjoint(self.steps, n, seeds=outputs, wanted=inputs)
        wanted = [*inputs, *(n + k for k in outputs)]
        gradient_of_gradient = adjoint(self.steps + gradient, 2 * n, seeds=[n + k for k in inputs], wanted=wanted)
        last = last_uses(gradient_of_gradient, {2 * n + k for k in wanted})
        return Program(self.n_inputs, self.n_constants, n, outputs, self.steps, gradient, gradient_of_gradient, last)


def interpret(inputs: Tensor, steps: List[Tuple[int, int, int, float]], outputs: List[int]) -> Tensor:
    """Evaluate a program in TorchScript, differentiable by autograd.

    Parameters
    ----------
    inputs : (n_inputs, ...)
    steps, outputs : of a `Program`

    Returns
    -------
    results : (n_outputs, ...)
    """
    planes = list(inputs.unbind(0))
    for target, left, right, factor in steps:
        product = planes[left] if right < 0 else planes[left] * planes[right]
        if target == len(planes):
            planes.append(product if factor == 1.0 and right >= 0 else product * factor)
        else:
            planes[target].add_(product, alpha=factor)  # in place: not used yet
    return torch.stack([planes[k] for k in outputs])


def adjoint(steps: list[Step], n_planes: int, seeds: list[int], wanted: list[int]) -> list[Step]:
    """Reverse-mode derivative of a program; the adjoint of plane k is plane n_planes + k.

    Parameters
    ----------
    steps : program on n_planes planes
    seeds : planes whose adjoints are given; all others are initially zero
    wanted : planes whose adjoints are needed
    """
    found: list[Step] = []
    filled = set(seeds)
    for target, left, right, factor in reversed(steps):
        if target not in filled:
            continue
        if right == NOTHING:
            found.append(Step(n_planes + left, n_planes + target, NOTHING, factor))
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
            needed.update((step.left, step.left if step.right == NOTHING else step.right))
            useful.append(step)
    return useful[::-1]


def last_uses(steps: list[Step], retained: set[int]) -> list[bool]:
    """Whether each step is the last to use its left plane.

    Parameters
    ----------
    steps : a program
    retained : planes that are needed afterwards
    """
    needed = set(retained)
    found = []
    for target, left, right, _ in reversed(steps):
        found.append(left not in needed)
        needed.update((target, left, right))
    return found[::-1]


def run(steps: list[Step], planes: list[Tensor | None], last: list[bool] | None = None) -> None:
    """Execute a program; planes that are None count as zero, and planes are set to None after their last use."""
    for (target, left, right, factor), is_last in zip(steps, last or repeat(False)):
        first, second, sum_so_far = planes[left], None if right == NOTHING else planes[right], planes[target]
        assert first is not None
        if sum_so_far is None:
            if second is None:
                planes[target] = first * factor
            else:
                planes[target] = first * second if factor == 1.0 else (first * second).mul_(factor)
        elif second is None:
            sum_so_far.add_(first, alpha=factor)
        else:
            sum_so_far.addcmul_(first, second, value=factor)
        if is_last:
            planes[left] = None


def evaluate(program: Program, inputs: Tensor) -> Tensor:
    """Evaluate a program, twice differentiable.

    Parameters
    ----------
    program : from `Writer.finish`
    inputs : (n_inputs, ...)

    Returns
    -------
    results : (n_outputs, ...)
    """
    results: Tensor = _Evaluate.apply(inputs, program)  # type: ignore[no-untyped-call]
    return results


def _gather(planes: list[Tensor | None], wanted: list[int], like: Tensor) -> Tensor:
    """Stack planes; None counts as zero."""
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
        for k, seed in zip(program.outputs, seeds.clone().unbind(0), strict=True):  # cloned: steps may add to them
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
        run(program.gradient_of_gradient, planes, program.last)
        of_inputs = _gather(planes, [2 * n + k for k in range(program.n_inputs)], inputs)
        of_seeds = _gather(planes, [3 * n + k for k in program.outputs], inputs)
        return (of_inputs, of_seeds, None, *[None] * len(rest))
