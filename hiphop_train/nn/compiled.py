"""Evaluation of polynomials by compiled kernels, twice differentiable by autograd."""

from typing import Any

from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from hiphop_train.nn.kernels import Kernels


def evaluate_compiled(kernels: Kernels, inputs: Tensor) -> Tensor:
    """Do as `nn.polynomials.evaluate`; no intermediate results are kept, since the kernels make them anew.

    Parameters
    ----------
    kernels : from `nn.kernels.compile_kernels`
    inputs : (n_inputs, ...)

    Returns
    -------
    results : (n_outputs, ...)
    """
    results: Tensor = _Evaluate.apply(inputs, kernels)  # type: ignore[no-untyped-call]
    return results


class _Evaluate(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, kernels: Kernels) -> Tensor:
        ctx.kernels = kernels
        ctx.save_for_backward(inputs)
        return kernels.evaluate(inputs)

    @staticmethod
    def backward(ctx: Any, seeds: Tensor) -> tuple[Tensor, None]:
        (inputs,) = ctx.saved_tensors
        gradient: Tensor = _Gradient.apply(inputs, seeds, ctx.kernels)  # type: ignore[no-untyped-call]
        return gradient, None


class _Gradient(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, seeds: Tensor, kernels: Kernels) -> Tensor:
        ctx.kernels = kernels
        ctx.save_for_backward(inputs, seeds)
        return kernels.gradient(inputs, seeds)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, seeds_of_gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        of_inputs, of_seeds = ctx.kernels.gradient_of_gradient(*ctx.saved_tensors, seeds_of_gradient)
        return of_inputs, of_seeds, None
