"""Functions of matrices in irreducible parts, compiled with their derivatives; and the twin of their products."""

from functools import cache
from typing import List

import torch
from torch import Tensor, nn

from hiphop_train.accelerate.polynomial_kernels import Kernels, evaluate_compiled
from hiphop_train.accelerate.polynomial_source import header
from hiphop_train.accelerate.polynomials import NOTHING, Program, Writer
from hiphop_train.accelerate.twin import Setting, Twin, why_no_kernels
from hiphop_train.nn.matrices import MatrixProduct

ENTRIES = [  # of a matrix, row by row: parts s, x y z, xx xy xz yy yz with their factors
    {0: 1, 4: 1}, {5: 1, 3: -1}, {6: 1, 2: 1},
    {5: 1, 3: 1}, {0: 1, 7: 1}, {8: 1, 1: -1},
    {6: 1, 2: -1}, {8: 1, 1: 1}, {0: 1, 4: -1, 7: -1},
]  # fmt: skip


@cache
def product_program(both_orders: bool) -> Program:
    """Write the program of `MatrixProduct`; the variables are the 9 components of each factor."""
    writer = Writer(18)
    first, second = (_entries(writer, start) for start in (0, 9))
    orders = [(first, second), (second, first)] if both_orders else [(first, second)]
    return writer.finish([writer.sum(terms) for terms in _parts(_products(writer, orders))])


@cache
def change_program() -> Program:
    """Write the program of D + D D; the variables are the 9 components of D."""
    writer = Writer(9)
    entries = _entries(writer, 0)
    parts = _parts(_products(writer, [(entries, entries)]))
    return writer.finish([writer.sum({**terms, (k, NOTHING): 1.0}) for k, terms in enumerate(parts)])


@cache
def squares_program() -> Program:
    """Write the program of `nn.matrices.squares`; the variables are the 9 components of the parts."""
    writer = Writer(9)
    vector, symmetric = {(k, k): 2.0 for k in range(1, 4)}, {(k, k): 2.0 for k in range(4, 9)}
    return writer.finish([writer.sum(each) for each in ({(0, 0): 3.0}, vector, {**symmetric, (4, 7): 2.0})])


def _entries(writer: Writer, start: int) -> list[int]:
    """Write the entries of a matrix whose parts start at a variable, row by row."""
    return [writer.sum({(start + part, NOTHING): float(sign) for part, sign in entry.items()}) for entry in ENTRIES]


def _products(writer: Writer, orders: list[tuple[list[int], list[int]]]) -> list[int]:
    """Write the entries of the sum of products of matrices."""
    return [
        writer.sum({(a[3 * x + k], b[3 * k + y]): 1.0 for a, b in orders for k in range(3)})
        for x in range(3)
        for y in range(3)
    ]


def _parts(entries: list[int]) -> list[dict[tuple[int, int], float]]:
    """Return the parts of a matrix as sums of its entries."""
    trace = {0: 1 / 3, 4: 1 / 3, 8: 1 / 3}
    parts = [trace, {7: 0.5, 5: -0.5}, {2: 0.5, 6: -0.5}, {3: 0.5, 1: -0.5}]
    parts += [{0: 2 / 3, 4: -1 / 3, 8: -1 / 3}, {1: 0.5, 3: 0.5}, {2: 0.5, 6: 0.5}]
    parts += [{0: -1 / 3, 4: 2 / 3, 8: -1 / 3}, {5: 0.5, 7: 0.5}]
    return [{(entries[k], NOTHING): factor for k, factor in each.items()} for each in parts]


def program_kernels(program: Program, setting: Setting) -> Kernels:
    """Compile a program."""
    library = setting.compile("polynomial.c", generated=header(program), in_vectors=False)
    return Kernels(library, program.n_inputs, len(program.outputs))


class CompiledMatrixProduct(nn.Module):
    """Products of matrices by a program in C.

    Parameters
    ----------
    plain : the module
    """

    def __init__(self, plain: MatrixProduct, setting: Setting) -> None:
        super().__init__()
        self.original = [plain]
        self.kernels = program_kernels(product_program(plain.both_orders), setting)

    def forward(self, first: List[Tensor], second: List[Tensor]) -> List[Tensor]:
        """Multiply, see `MatrixProduct`."""
        if torch.is_autocast_enabled("cpu"):
            first, second = ([each.to(self.kernels.library.dtype) for each in parts] for parts in (first, second))
        if not self.kernels.library.serves(first[0]):  # converted or moved after compilation
            found: List[Tensor] = self.original[0](first, second)
            return found
        planes = torch.cat([*first, *second], dim=1).transpose(0, 1)
        return list(evaluate_compiled(self.kernels, planes).transpose(0, 1).split_with_sizes([1, 3, 5], dim=1))


TWINS = [Twin("products of matrices", "C", MatrixProduct, CompiledMatrixProduct, why_not=why_no_kernels)]
