"""Programs whose steps are a list that compiled C goes through, instead of generated C.

A program of thousands of results would take minutes to compile. Its steps as a list need a few more loads, which count
little since each step serves a vector of elements, and one library serves all programs.
"""

import ctypes
from typing import List, Sequence

import torch
from torch import Tensor

from hiphop_train.accelerate.polynomials import NOTHING, Step
from hiphop_train.accelerate.twin import Setting


class _Program(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("start", "left", "right", "outputs", "factor", "scale")),
        *((name, ctypes.c_int64) for name in ("n_inputs", "n_targets", "n_outputs")),
    )


class StepKernels:
    """A polynomial map and its derivatives, see `polynomial_kernels.Kernels`, for rows of elements.

    Parameters
    ----------
    steps : evaluation, target by target, the first behind the inputs
    n_inputs : planes of the argument
    outputs : planes of the results
    scale : factor of each result
    setting : compiles the library
    """

    def __init__(
        self, steps: Sequence[Step], n_inputs: int, outputs: Sequence[int], scale: Sequence[float], setting: Setting
    ) -> None:
        self.library = setting.compile("steps.c")
        targets = [step.target for step in steps]
        n_targets = max(targets) + 1 - n_inputs
        assert targets == sorted(targets)
        assert len(set(targets)) == n_targets
        counts = torch.bincount(torch.tensor(targets) - n_inputs, minlength=n_targets)
        start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        one = n_inputs + n_targets
        integers: List[Tensor] = [
            each.to(torch.int32)
            for each in (
                start,
                torch.tensor([step.left for step in steps]),
                torch.tensor([one if step.right == NOTHING else step.right for step in steps]),
                torch.tensor(outputs),
            )
        ]
        reals = [torch.tensor(each, dtype=self.library.dtype) for each in ([step.factor for step in steps], scale)]
        self.tensors = [*integers, *reals]
        self.n_inputs, self.n_targets, self.n_outputs = n_inputs, n_targets, len(outputs)

    def evaluate(self, inputs: Tensor, constants: List[Tensor]) -> Tensor:
        """Evaluate the function: (n_rows, n_outputs) from (n_rows, n_inputs)."""
        result = inputs.new_empty((len(inputs), self.n_outputs))
        self._call("evaluate", [inputs], [result])
        return result

    def gradient(self, inputs: Tensor, constants: List[Tensor], grad_output: Tensor) -> Tensor:
        """Vector-Jacobian product: (n_rows, n_inputs) from inputs and gradients (n_rows, n_outputs)."""
        result = torch.empty_like(inputs)
        self._call("gradient", [inputs, grad_output], [result])
        return result

    def gradient_of_gradient(
        self, inputs: Tensor, constants: List[Tensor], grad_output: Tensor, grad_grad: Tensor
    ) -> List[Tensor]:
        """Vector-Jacobian product of `gradient` with (n_rows, n_inputs), for its inputs and its gradients."""
        of_inputs, of_outputs = torch.empty_like(inputs), inputs.new_empty((len(inputs), self.n_outputs))
        self._call("gradient_of_gradient", [inputs, grad_output, grad_grad], [of_outputs, of_inputs])
        return [of_inputs, of_outputs]

    def _call(self, function: str, given: List[Tensor], results: List[Tensor]) -> None:
        rows = [each.contiguous() for each in given]
        assert all(map(self.library.serves, rows))
        pointers = [ctypes.c_void_p(each.data_ptr()) for each in self.tensors]
        program = (_Program * 1)(_Program(*pointers, self.n_inputs, self.n_targets, self.n_outputs))
        if not self.library.call(function, program, *rows, *results, len(rows[0])):
            raise MemoryError("no memory for the intermediate results of a program")
