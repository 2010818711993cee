"""Irreducible Cartesian tensors, component by component; TorchScript-safe.

A symmetric traceless tensor of rank l has 2 l + 1 free components, those with at most one index z; the others follow
from the vanishing traces. Free components, in order: 1; x y z; xx xy xz yy yz; xxx xxy xxz xyy xyz yyy yyz; and so on.
"""

from typing import List

import torch
from torch import Tensor


def component_index(rank: int, n_x: int, n_z: int) -> int:
    """Index of a free component among those of all ranks, by its number of indices x and z (0 or 1)."""
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

    T^l = S(u T^(l-1)) - (l-1)/(2l-1) S(1 (u . T^(l-1))), with S the mean over all orders of the indices and 1 the unit
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
    return contract_products(raising_matrix(rank).to(unit) / (rank * (2 * rank - 1)), lower, unit)


def contract_products(matrix: Tensor, lower: Tensor, unit: Tensor) -> Tensor:
    """Multiply the matrix of `next_tensor` by all products of a free component and a component of the unit vector."""
    return matrix @ (lower[:, None, :] * unit.T.contiguous()).flatten(0, 1)


def raising_matrix(rank: int) -> Tensor:
    """Matrix of `next_tensor`, (2 rank + 1, 3 (2 rank - 1)), times rank (2 rank - 1), which makes it integer."""
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
    """Index of the product of a free component and a component of the unit vector."""
    return 3 * (component_index(rank, n_x, n_z) - rank * rank) + axis


def full_tensor(free: Tensor, rank: int) -> Tensor:
    """Write out all components of symmetric traceless tensors.

    Parameters
    ----------
    free : (2 rank + 1, ...), free components
    rank : l

    Returns
    -------
    tensor : (3, ..., 3, ...), with `rank` axes of length 3 first
    """
    rows: List[List[int]] = []
    for index in range(int(3**rank)):  # TorchScript's powers are floats
        n_x, n_z = 0, 0
        for _ in range(rank):
            n_x += int(index % 3 == 0)
            n_z += int(index % 3 == 2)
            index = index // 3
        row = [0 for _ in range(2 * rank + 1)]
        for n_pairs in range(n_z // 2 + 1):  # each pair of z is -xx - yy: a binomial sum
            row[component_index(rank, n_x + 2 * n_pairs, n_z % 2) - rank * rank] += _binomial(n_z // 2, n_pairs)
        sign = 1 - 2 * (n_z // 2 % 2)
        rows.append([sign * value for value in row])
    matrix = torch.tensor(rows, dtype=free.dtype, device=free.device)
    shape = [3 for _ in range(rank)] + list(free.shape[1:])
    full: Tensor = torch.tensordot(matrix, free, dims=1)
    return full.reshape(shape)


def _binomial(n: int, k: int) -> int:
    result = 1
    for factor in range(k):
        result = result * (n - factor) // (factor + 1)
    return result
