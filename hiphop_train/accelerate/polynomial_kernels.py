"""Functions of one tensor with first and second derivatives, as compiled kernels under autograd."""

import ctypes
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.accelerate.compiler import Library


class TwiceDifferentiable(Protocol):
    """A function of one tensor with its first and second derivatives, see `Kernels`."""

    def evaluate(self, inputs: Tensor, constants: list[Tensor]) -> Tensor:
        """Evaluate the function."""

    def gradient(self, inputs: Tensor, constants: list[Tensor], grad_output: Tensor) -> Tensor:
        """Vector-Jacobian product."""

    def gradient_of_gradient(
        self, inputs: Tensor, constants: list[Tensor], grad_output: Tensor, grad_grad: Tensor
    ) -> list[Tensor]:
        """Vector-Jacobian product of the latter."""


class _Tensor(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("plane", ctypes.c_int64), ("row", ctypes.c_int64))


@dataclass(frozen=True)
class Kernels:
    """A function of one tensor, its gradient and the gradient of that, as functions of a compiled library.

    The library sees all tensors as (n_planes, n_rows, n_columns), with contiguous columns and any other strides.

    Attributes
    ----------
    library : with functions ``evaluate``, ``gradient`` and ``gradient_of_gradient``
    n_inputs, n_outputs : planes of the function's argument and of its result
    """

    library: Library
    n_inputs: int
    n_outputs: int

    def evaluate(self, inputs: Tensor, constants: list[Tensor]) -> Tensor:
        """Evaluate the function: (n_outputs, ...) from (n_inputs, ...) and constants (n_constants, ...), if any."""
        return self._call("evaluate", [inputs, *constants], [self.n_outputs])[0]

    def gradient(self, inputs: Tensor, constants: list[Tensor], grad_output: Tensor) -> Tensor:
        """Vector-Jacobian product: (n_inputs, ...) from inputs and gradients (n_outputs, ...)."""
        return self._call("gradient", [inputs, *constants, grad_output], [self.n_inputs])[0]

    def gradient_of_gradient(
        self, inputs: Tensor, constants: list[Tensor], grad_output: Tensor, grad_grad: Tensor
    ) -> list[Tensor]:
        """Vector-Jacobian product of `gradient` with (n_inputs, ...), for its inputs and its gradients."""
        given = [inputs, *constants, grad_output, grad_grad]
        return self._call("gradient_of_gradient", given, [self.n_inputs, self.n_outputs])

    def _call(self, function: str, given: list[Tensor], sizes: list[int]) -> list[Tensor]:
        shape = given[0].shape[1:]
        inputs = [_with_rows(tensor) for tensor in given]
        _, n_rows, n_columns = inputs[0].shape
        # row-major, the order in which networks produce and consume them
        results = [inputs[0].new_empty((n_rows, size, n_columns)).transpose(0, 1) for size in sizes]
        assert all(map(self.library.serves, inputs))
        described = [
            (_Tensor * len(tensors))(*(_Tensor(t.data_ptr(), t.stride(0), t.stride(1)) for t in tensors))
            for tensors in (inputs, results)
        ]
        self.library.call(function, *described, n_rows, n_columns)
        return [result.reshape((len(result), *shape)) for result in results]


def _with_rows(tensor: Tensor) -> Tensor:
    """Return (n_planes, n_rows, n_columns) with contiguous columns; a view where that is possible."""
    rows = tensor if tensor.dim() == 3 else tensor.reshape(len(tensor), 1, -1)
    return rows if rows.stride(2) == 1 else rows.contiguous()


def evaluate_compiled(kernels: TwiceDifferentiable, inputs: Tensor, constants: Tensor | None = None) -> Tensor:
    """Evaluate a function, twice differentiable; intermediate results are recomputed instead of stored.

    Parameters
    ----------
    kernels : compiled function
    inputs : (n_inputs, ...)
    constants : (n_constants, ...), which are not differentiated, for a function that has any

    Returns
    -------
    results : (n_outputs, ...)
    """
    results: Tensor = _Evaluate.apply(inputs, kernels, [] if constants is None else [constants])  # type: ignore[no-untyped-call]
    return results


class _Evaluate(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernels: TwiceDifferentiable, constants: list[Tensor]) -> Tensor:
        ctx.kernels, ctx.constants = kernels, constants
        ctx.save_for_backward(inputs)
        return kernels.evaluate(inputs, constants)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        (inputs,) = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(inputs, grad_output, ctx.kernels, ctx.constants)  # type: ignore[no-untyped-call]
        return gradient, None, None


class _Gradient(Function):
    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, grad_output: Tensor, kernels: TwiceDifferentiable, constants: list[Tensor]
    ) -> Tensor:
        ctx.kernels, ctx.constants = kernels, constants
        ctx.save_for_backward(inputs, grad_output)
        return kernels.gradient(inputs, constants, grad_output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        inputs, grad_output = ctx.saved_tensors
        found = ctx.kernels.gradient_of_gradient(inputs, ctx.constants, grad_output, grad_grad)
        return found[0], found[1], None, None
