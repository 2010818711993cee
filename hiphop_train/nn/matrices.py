"""Matrices (3, 3) as their irreducible parts: a scalar, a vector and a symmetric traceless tensor.

X = s 1 + [v] + q, with [v]_xy = -sum_z epsilon_xyz v_z, in free components: [(n_atoms, 1, n_features), (n_atoms, 3,
n_features), (n_atoms, 5, n_features)], q in the order xx xy xz yy yz.
"""

from typing import List

import torch
from torch import Tensor, nn


def full_matrices(parts: List[Tensor]) -> Tensor:
    """Write out matrices (n_atoms, 3, 3, n_features) of their parts."""
    s = parts[0][:, 0]
    x, y, z = parts[1].unbind(1)
    xx, xy, xz, yy, yz = parts[2].unbind(1)
    rows = [s + xx, xy - z, xz + y, xy + z, s + yy, yz - x, xz - y, yz + x, s - xx - yy]
    return torch.stack(rows, dim=1).reshape(s.shape[0], 3, 3, s.shape[1])


def parts_of(matrices: Tensor) -> List[Tensor]:
    """Return the parts of matrices (n_atoms, 3, 3, n_features)."""
    m = matrices.flatten(1, 2).unbind(1)
    s = (m[0] + m[4] + m[8]) / 3.0
    vector = [(m[7] - m[5]) / 2.0, (m[2] - m[6]) / 2.0, (m[3] - m[1]) / 2.0]
    symmetric = [m[0] - s, (m[1] + m[3]) / 2.0, (m[2] + m[6]) / 2.0, m[4] - s, (m[5] + m[7]) / 2.0]
    return [s[:, None], torch.stack(vector, dim=1), torch.stack(symmetric, dim=1)]


def squares(parts: List[Tensor]) -> List[Tensor]:
    """Return the sums of the squared entries of each part's matrix, (n_atoms, n_features) each."""
    xx, xy, xz, yy, yz = parts[2].unbind(1)
    symmetric = xx * xx + yy * yy + xx * yy + xy * xy + xz * xz + yz * yz
    return [3.0 * parts[0][:, 0].square(), 2.0 * parts[1].square().sum(1), 2.0 * symmetric]


class MatrixProduct(nn.Module):
    """Products A B of matrices feature by feature, or A B + B A.

    Parameters
    ----------
    both_orders : whether B A is added, which makes the product equivariant under reflections too
    """

    def __init__(self, both_orders: bool) -> None:
        super().__init__()
        self.both_orders = both_orders

    def forward(self, first: List[Tensor], second: List[Tensor]) -> List[Tensor]:
        """Return the parts of the products of matrices given by theirs."""
        a, b = full_matrices(first), full_matrices(second)
        product = torch.einsum("nxkf,nkyf->nxyf", a, b)
        if self.both_orders:
            product = product + torch.einsum("nxkf,nkyf->nxyf", b, a)
        return parts_of(product)
