"""Evaluation of row-wise functions in blocks of rows, which bounds the memory of intermediate results."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

PAIRS = 8192
"""Rows per block that fit in a processor's cache, for rows of tens of numbers."""

ROWS = 2048
"""The same for rows of hundreds of numbers."""


def in_blocks(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], size: int, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """Call a row-wise function on blocks of rows.

    Intermediate results are recomputed for the derivatives instead of being stored.

    Parameters
    ----------
    function : maps tensors (n_rows, ...) to a tensor (n_rows, ...)
    inputs : its arguments
    size : rows per block; up to two blocks are left to autograd
    parameters : of the function, if derivatives with respect to them are needed; the inputs must not depend on them

    Returns
    -------
    values : (n_rows, ...), differentiable as often as the function
    """
    if len(inputs[0]) <= 2 * size:
        return function(*inputs)
    values: Tensor = _InBlocks.apply(function, size, len(inputs), *inputs, *parameters)  # type: ignore[no-untyped-call]
    return values


class _InBlocks(Function):
    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], size: int, n_inputs: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.size, ctx.n_inputs = function, size, n_inputs
        inputs = tensors[:n_inputs]
        values: Tensor | None = None
        for rows in blocks(len(inputs[0]), size):
            block = function(*(tensor[rows] for tensor in inputs))
            if values is None:
                values = block.new_empty((len(inputs[0]), *block.shape[1:]))
            values[rows] = block
        assert values is not None
        return values

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # whether the derivative will be differentiated
        inputs, parameters = ctx.saved_tensors[: ctx.n_inputs], ctx.saved_tensors[ctx.n_inputs :]
        needed = ctx.needs_input_grad[3:]
        n_wanted_inputs = sum(needed[: ctx.n_inputs])
        sums: list[Tensor] = []
        parts: list[list[Tensor]] = []
        results = [torch.empty_like(tensor) for tensor, need in zip(inputs, needed) if need and not again]
        for rows in blocks(len(inputs[0]), ctx.size):
            with torch.enable_grad():
                block = [tensor[rows] for tensor in inputs]
                if not again:
                    block = [tensor.detach().requires_grad_(need) for tensor, need in zip(block, needed)]
                values = ctx.function(*block)
            wanted = [tensor for tensor, need in zip([*block, *parameters], needed) if need]
            if values.requires_grad:
                found = torch.autograd.grad(
                    values, wanted, grad_output[rows], create_graph=again, materialize_grads=True
                )
            else:  # values depend on none of them
                found = tuple(map(torch.zeros_like, wanted))
            grad_parameters = list(found[n_wanted_inputs:])
            sums = [total + value for total, value in zip(sums, grad_parameters)] if sums else grad_parameters
            if again:
                parts.append(list(found[:n_wanted_inputs]))
            for result, value in zip(results, found):
                result[rows] = value
        if again:
            results = [torch.cat(column) for column in zip(*parts)]
        joined = iter([*results, *sums])
        return (None, None, None, *(next(joined) if need else None for need in needed))


def functions_with_slopes(
    functions: Callable[[Tensor], Sequence[Tensor]],
    write: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], None],
    argument: Tensor,
    widths: Sequence[int],
) -> list[Tensor]:
    """Evaluate functions of one number per row together with their slopes, on blocks of rows.

    With the slopes known, the derivative is a sum of products. Intermediate results are not stored.

    Parameters
    ----------
    functions : map a tensor (n_rows,) to tensors (n_rows, width); must not depend on other differentiated tensors
    write : evaluates the same functions without derivatives, and writes values and slopes (n_rows, width) to its
        second and third argument
    argument : (n_rows,)
    widths : of each value

    Returns
    -------
    values : (n_rows, width) each, differentiable as often as the functions
    """
    return list(_WithSlopes.apply(functions, write, argument, widths))  # type: ignore[no-untyped-call]


class _WithSlopes(Function):
    @staticmethod
    def forward(
        ctx: Any,
        functions: Callable[[Tensor], Sequence[Tensor]],
        write: Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], None],
        argument: Tensor,
        widths: Sequence[int],
    ) -> tuple[Tensor, ...]:
        values, slopes = ([argument.new_empty((len(argument), width)) for width in widths] for _ in range(2))
        for rows in blocks(len(argument), ROWS):
            write(argument[rows], [value[rows] for value in values], [slope[rows] for slope in slopes])
        ctx.save_for_backward(argument, *slopes)
        ctx.functions = functions
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, None, Tensor, None]:
        argument, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # differentiated again
            values = ctx.functions(argument)
            return None, None, torch.autograd.grad(values, argument, grad_outputs, create_graph=True)[0], None
        total = torch.zeros_like(argument)
        for rows in blocks(len(argument), ROWS):
            for grad_output, slope in zip(grad_outputs, slopes, strict=True):
                total[rows] += (grad_output[rows] * slope[rows]).sum(1)
        return None, None, total, None


def blocks(n_rows: int, size: int) -> list[slice]:
    """Divide rows into slices of `size` rows; the last may be shorter."""
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]
