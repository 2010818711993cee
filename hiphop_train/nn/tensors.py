"""Irreducible Cartesian tensors, component by component; TorchScript-safe.

A symmetric traceless tensor of rank l has 2 l + 1 free components, those with at most one index z; the others follow
from the vanishing traces. Free components, in order: 1; x y z; xx xy xz yy yz; xxx xxy xxz xyy xyz yyy yyz; and so on.
"""

from functools import cache
from typing import List

import torch
from torch import Tensor

from hiphop_train.nn.blocks import PAIRS, in_blocks
from hiphop_train.nn.compiled import evaluate_compiled
from hiphop_train.nn.kernels import Compilable, compile_kernels
from hiphop_train.nn.polynomials import NOTHING, Program, Writer
from hiphop_train.nn.program_source import source


def place(rank: int, n_x: int, n_z: int) -> int:
    """Where a free component stands among those of all ranks, by its number of indices x and z (0 or 1)."""
    return rank * rank if n_x == rank else rank * rank + 2 * (rank - n_x) - 1 + n_z


def irreducible_tensors(unit: Tensor, l_max: int) -> Tensor:
    """Free components of the symmetric traceless tensors built from unit vectors (arXiv 2503.23515, eq. 5).

    Parameters
    ----------
    unit : (n_pairs, 3) unit vectors
    l_max : highest rank

    Returns
    -------
    components : (n_pairs, (l_max + 1)^2)
    """
    x, y, z = unit.unbind(1)
    components = [torch.ones_like(x)]
    if l_max >= 1:
        components += [x, y, z]
    if l_max >= 2:
        components += [x * x - 1 / 3, x * y, x * z, y * y - 1 / 3, y * z]
    if l_max >= 3:
        xx, yy = x * x, y * y
        components += [
            x * (xx - 3 / 5),
            y * (xx - 1 / 5),
            z * (xx - 1 / 5),
            x * (yy - 1 / 5),
            x * y * z,
            y * (yy - 3 / 5),
            z * (yy - 1 / 5),
        ]
    if l_max <= 3:
        return torch.stack(components, dim=1)
    tensors = [torch.stack(components)]
    for rank in range(4, l_max + 1):
        tensors.append(next_tensor(tensors[-1][1 - 2 * rank :], unit, rank))
    return torch.cat(tensors).T.contiguous()


def next_tensor(lower: Tensor, unit: Tensor, rank: int) -> Tensor:
    """Raise the rank by one: T^l is the symmetric traceless part of u T^(l-1).

    T^l = S(u T^(l-1)) - (l-1)/(2l-1) S(1 (u . T^(l-1))), S being the mean over all orders of the indices and 1 the unit
    matrix; contracted l times with another unit vector, it is the recurrence of the Legendre polynomials.

    Parameters
    ----------
    lower : (2 rank - 1, n_pairs), free components of T^(l-1)
    unit : (n_pairs, 3), u
    rank : l, at least 1

    Returns
    -------
    components : (2 rank + 1, n_pairs)
    """
    products = (lower[:, None, :] * unit.T.contiguous()).flatten(0, 1)
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return raising_matrix(rank).to(unit) / (rank * (2 * rank - 1)) @ products
    raised: Tensor = _matrix_on_device(rank, unit) @ products
    return raised


@torch.jit.ignore  # type: ignore[untyped-decorator]
def _matrix_on_device(rank: int, like: Tensor) -> Tensor:
    return _kept_matrix(rank, like.dtype, like.device)


@cache
def _kept_matrix(rank: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Sent to a device once: a GPU would be waited for each time."""
    return raising_matrix(rank).to(device, dtype) / (rank * (2 * rank - 1))


def raising_matrix(rank: int) -> Tensor:
    """Matrix of `next_tensor`, (2 rank + 1, 3 (2 rank - 1)), times rank (2 rank - 1), which makes it whole numbers."""
    weights: List[List[int]] = []
    for n_x in range(rank, -1, -1):
        for n_z in range(2 if n_x < rank else 1):
            n_y = rank - n_x - n_z
            row = [0 for _ in range(3 * (2 * rank - 1))]
            if n_x >= 1:
                row[_product(rank - 1, n_x - 1, n_z, 0)] += n_x * (2 * rank - 1)
            if n_y >= 1:
                row[_product(rank - 1, n_x, n_z, 1)] += n_y * (2 * rank - 1)
            if n_z >= 1:
                row[_product(rank - 1, n_x, 0, 2)] += 2 * rank - 1
            for a, n_orders in ((n_x - 2, n_x * (n_x - 1)), (n_x, n_y * (n_y - 1))):
                if n_orders > 0:
                    row[_product(rank - 1, a + 1, n_z, 0)] -= n_orders
                    row[_product(rank - 1, a, n_z, 1)] -= n_orders
                    if n_z == 0:
                        row[_product(rank - 1, a, 1, 2)] -= n_orders
                    else:  # T_..zz = -T_..xx - T_..yy
                        row[_product(rank - 1, a + 2, 0, 2)] += n_orders
                        row[_product(rank - 1, a, 0, 2)] += n_orders
            weights.append(row)
    return torch.tensor(weights)


def _product(rank: int, n_x: int, n_z: int, axis: int) -> int:
    """Where the product of a free component and one of the unit vector stands among the products."""
    return 3 * (place(rank, n_x, n_z) - rank * rank) + axis


@cache
def tensor_program(l_max: int) -> Program:
    """Write the recurrence of `next_tensor` as a program: components from rank 1 on, of x, y and z."""
    writer = Writer(3)
    tensors = [[writer.sum({(axis, NOTHING): 1.0}) for axis in range(3)]]
    for rank in range(2, l_max + 1):
        products = [(lower, axis) for lower in tensors[-1] for axis in range(3)]
        rows = (raising_matrix(rank).double() / (rank * (2 * rank - 1))).tolist()
        tensors.append(
            [writer.sum({pair: factor for pair, factor in zip(products, row, strict=True) if factor}) for row in rows]
        )
    return writer.finish([component for tensor in tensors for component in tensor])


class IrreducibleTensors(Compilable):
    """`irreducible_tensors` of many pairs, some at a time.

    Parameters
    ----------
    l_max : highest rank
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        self.l_max = l_max

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def forward(self, unit: Tensor) -> Tensor:
        """Evaluate, (n_pairs, (l_max + 1)^2) of (n_pairs, 3)."""
        return in_blocks(self.evaluate, [unit], PAIRS)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def evaluate(self, unit: Tensor) -> Tensor:
        """Evaluate at once."""
        if self.kernels is None or not self.kernels.serve(unit):
            return irreducible_tensors(unit, self.l_max)
        others = evaluate_compiled(self.kernels, unit.T.contiguous())
        return torch.cat([torch.ones_like(unit[:, :1]), others.T], dim=1)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def compile_for(self, dtype: torch.dtype) -> bool:
        """Compile the recurrence."""
        if self.l_max == 0:
            return False
        program = tensor_program(self.l_max)
        self.kernels, is_new = compile_kernels(source(program), dtype, 3, len(program.outputs))
        return is_new
