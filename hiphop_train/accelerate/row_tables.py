"""Tables of functions of one number with frozen weights, for float32: cubic between knots, exact to rounding.

A network of a distance or of a cosine costs thousands of multiplications per pair; its interpolation four per result.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function

from hiphop_train.accelerate.compiler import Library

N_INTERVALS = 1024
TOLERANCE = 1e-7
"""Largest error between the knots, in units of the largest value; the resolution of float32."""


class RowTable:
    """Interpolation of a function; made when first needed, and again when its parameters have changed.

    Parameters
    ----------
    library : compiled from `kernels/table.c` for the number of results
    modules : applied one after another to numbers (n,), they give results (n, n_results)
    first, last : bounds of the argument
    """

    def __init__(self, library: Library, modules: Sequence[nn.Module], first: float, last: float) -> None:
        self.library, self.modules = library, list(modules)
        self.first, self.spacing = first, (last - first) / N_INTERVALS
        self.made_of: list[tuple[int, int]] = []
        self.table: Tensor | None = None

    def __call__(self, argument: Tensor) -> Tensor:
        """Return the results (n, n_results); if the table is not accurate enough, the function's own."""
        parameters = [parameter for module in self.modules for parameter in module.parameters()]
        now = [(parameter.data_ptr(), parameter._version) for parameter in parameters]
        if now != self.made_of:
            self.table, self.made_of = self.make(), now
        if self.table is None or not self.library.serves(argument):
            return self.evaluate(argument)
        results: Tensor = _LookUp.apply(argument, self)  # type: ignore[no-untyped-call]
        return results

    def evaluate(self, argument: Tensor) -> Tensor:
        """Return the function itself."""
        for module in self.modules:
            argument = module(argument)
        return argument

    def grid(self) -> tuple[float, float, int]:
        """Return the first knot, their spacing and the number of intervals."""
        return float(self.first), float(self.spacing), N_INTERVALS

    @torch.no_grad()
    def make(self) -> Tensor | None:
        """Return the coefficients of each polynomial (N_INTERVALS, 4, n_results); None if they are inaccurate."""
        modules = [copy.deepcopy(module).double() for module in self.modules]

        def function(argument: Tensor) -> Tensor:
            for module in modules:
                argument = module(argument)
            return argument

        knots = self.first + self.spacing * torch.arange(N_INTERVALS + 1, dtype=torch.float64)
        values, slopes = function(knots), self.spacing * slope_of(function, knots, self.spacing / 64)
        middle = 0.5 * (values[:-1] + values[1:]) + 0.125 * (slopes[:-1] - slopes[1:])
        error = (middle - function(knots[:-1] + 0.5 * self.spacing)).abs().max()
        if not bool(error <= TOLERANCE * values.abs().max()):
            return None
        # in float32, differences of neighbouring values would have lost their digits
        rise, start, end = values[1:] - values[:-1], slopes[:-1], slopes[1:]
        coefficients = [values[:-1], start, 3 * rise - 2 * start - end, start + end - 2 * rise]
        return torch.stack(coefficients, dim=1).to(self.library.dtype).contiguous()


def slope_of(function: Callable[[Tensor], Tensor], argument: Tensor, step: float) -> Tensor:
    """Return the derivative from values at -2, -1, 1 and 2 steps, exact to fourth order."""
    far = function(argument + 2 * step) - function(argument - 2 * step)
    near = function(argument + step) - function(argument - step)
    return (8 * near - far) / (12 * step)


class _LookUp(Function):
    @staticmethod
    def forward(ctx: Any, argument: Tensor, table: RowTable) -> Tensor:
        argument, coefficients = argument.contiguous(), table.table
        assert coefficients is not None
        results = argument.new_empty((len(argument), coefficients.shape[2]))
        table.library.call("look_up", argument, coefficients, results, len(argument), *table.grid())
        ctx.save_for_backward(argument)
        ctx.table, ctx.coefficients = table, coefficients
        return results

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        argument = ctx.saved_tensors[0]
        table: RowTable = ctx.table
        if torch.is_grad_enabled():  # differentiated again
            results = table.evaluate(argument)
            return torch.autograd.grad(results, argument, gradient, create_graph=True)[0], None
        result, given = torch.empty_like(argument), (argument, ctx.coefficients, gradient.contiguous())
        table.library.call("look_up_gradient", *given, result, len(argument), *table.grid())
        return result, None
