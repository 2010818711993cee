"""Irreducible tensors of unit vectors by a compiled program."""

from functools import cache

import torch
from torch import Tensor

from hiphop_train.accelerate.blocks import PAIRS, in_blocks
from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.polynomial_source import header
from hiphop_train.accelerate.polynomials import NOTHING, Program, Writer
from hiphop_train.accelerate.twin import Setting
from hiphop_train.nn.tensors import raising_matrix


@cache
def tensor_program(l_max: int) -> Program:
    """Write the recurrence of `nn.tensors.next_tensor` as a program: from x, y, z to components of rank 1 and up."""
    writer = Writer(3)
    tensors = [[writer.sum({(axis, NOTHING): 1.0}) for axis in range(3)]]
    for rank in range(2, l_max + 1):
        products = [(lower, axis) for lower in tensors[-1] for axis in range(3)]
        rows = (raising_matrix(rank).double() / (rank * (2 * rank - 1))).tolist()
        tensors.append(
            [writer.sum({pair: factor for pair, factor in zip(products, row, strict=True) if factor}) for row in rows]
        )
    return writer.finish([component for tensor in tensors for component in tensor])


class CompiledTensors:
    """`nn.tensors.irreducible_tensors`, in blocks of pairs.

    Parameters
    ----------
    l_max : highest rank
    setting : compiles the program
    """

    def __init__(self, l_max: int, setting: Setting) -> None:
        self.kernels: Kernels | None = None
        if l_max > 0:
            program = tensor_program(l_max)
            library = setting.compile("polynomial.c", generated=header(program), in_vectors=False)
            self.kernels = Kernels(library, 3, len(program.outputs))

    def __call__(self, unit: Tensor) -> Tensor:
        """Return the tensors (n_pairs, (l_max + 1)^2) of unit vectors (n_pairs, 3)."""
        return in_blocks(self._evaluate, [unit], PAIRS)

    def _evaluate(self, unit: Tensor) -> Tensor:
        ones = torch.ones_like(unit[:, :1])
        if self.kernels is None:
            return ones
        return torch.cat([ones, evaluate_compiled(self.kernels, unit.T.contiguous()).T], dim=1)
