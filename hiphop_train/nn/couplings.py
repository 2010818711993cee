"""Couplings of two symmetric traceless tensors into a third.

A tensor of rank l has 2 l + 1 free components (`nn.tensors`). Its size is its contraction with itself; harmonics Y^l(u)
are the tensors of a unit vector u, of size 2 l + 1. Each coupling is a contraction: (a + b - c) / 2 indices of the two
tensors are summed over; where a + b - c is odd, one further index of each meets the antisymmetric epsilon_xyz, which
changes the parity of a true tensor. The result is made symmetric and traceless. There is exactly one coupling of ranks
|a - b| <= c <= a + b. In spherical components its coefficients are the Wigner 3j symbols; a positive factor makes their
squares sum to 2 c + 1, as in e3nn ("component" normalisation).
"""

import math
from functools import cache
from typing import List, NamedTuple

import torch
from torch import Tensor

from hiphop_train.nn.tensors import full_tensor, irreducible_tensors


class TensorType(NamedTuple):
    """How a tensor transforms.

    Attributes
    ----------
    rank : l
    parity : sign under reflection of space: (-1)^l of true tensors, such as harmonics; of pseudotensors the opposite
    """

    rank: int
    parity: int

    def size(self) -> int:
        """Return the number of free components, 2 l + 1."""
        return 2 * self.rank + 1


def true_types(l_max: int) -> List[TensorType]:
    """Return the types of true tensors up to a rank."""
    return [TensorType(rank, (-1) ** rank) for rank in range(l_max + 1)]


def all_types(l_max: int) -> List[TensorType]:
    """Return the types of all tensors up to a rank, even parity first."""
    return [TensorType(rank, parity) for rank in range(l_max + 1) for parity in (1, -1)]


def products(first: TensorType, second: TensorType) -> List[TensorType]:
    """Return the types into which two tensors couple, by ascending rank."""
    parity = first.parity * second.parity
    ranks = range(abs(first.rank - second.rank), first.rank + second.rank + 1)
    return [TensorType(rank, parity) for rank in ranks]


def harmonics(unit: Tensor, l_max: int) -> Tensor:
    """Evaluate the harmonics Y^l of unit vectors: their symmetric traceless tensors, of size 2 l + 1.

    Parameters
    ----------
    unit : (n_pairs, 3)
    l_max : highest rank

    Returns
    -------
    components : (n_pairs, (l_max + 1)^2), free components of all ranks
    """
    odd: List[int] = []  # (2 l + 1)!!
    factorial: List[int] = []  # l!
    for rank in range(l_max + 1):
        double, single = 1, 1
        for k in range(1, rank + 1):
            double, single = double * (2 * k + 1), single * k
        for _ in range(2 * rank + 1):
            odd.append(double)
            factorial.append(single)
    squares = torch.tensor(odd, device=unit.device).to(unit) / torch.tensor(factorial, device=unit.device).to(unit)
    return irreducible_tensors(unit, l_max) * squares.sqrt()


@cache
def embedding(rank: int) -> Tensor:
    """Return the matrix from free to all components, (3^l, 2 l + 1) float64."""
    return full_tensor(torch.eye(2 * rank + 1, dtype=torch.float64), rank).reshape(3**rank, -1)


@cache
def metric(rank: int) -> Tensor:
    """Return the matrix g of the contraction a : b = sum_mn g_mn a_m b_n of two tensors, (2 l + 1, 2 l + 1) float64."""
    return embedding(rank).T @ embedding(rank)


@cache
def projection(rank: int) -> Tensor:
    """Return the matrix from all components of any tensor to the free ones of its symmetric traceless part.

    Returns
    -------
    matrix : (2 l + 1, 3^l) float64
    """
    matrix: Tensor = torch.linalg.solve(metric(rank), embedding(rank).T)
    return matrix


@cache
def coupling(first: int, second: int, result: int) -> Tensor:
    """Return the coefficients C of a coupling, c_k = sum_mn C_kmn a_m b_n.

    Parameters
    ----------
    first, second, result : ranks a, b and c, with abs(a - b) <= c <= a + b

    Returns
    -------
    coefficients : (2 c + 1, 2 a + 1, 2 b + 1) float64; with respect to sizes, their squares sum to 2 c + 1
    """
    assert abs(first - second) <= result <= first + second
    n_summed, is_odd = divmod(first + second - result, 2)
    summed, free = "abcdef"[:n_summed], "ghijklopqr"
    of_first = free[: first - n_summed - is_odd]
    of_second = free[len(of_first) :][: second - n_summed - is_odd]
    a = embedding(first).reshape([3] * first + [-1])
    b = embedding(second).reshape([3] * second + [-1])
    x, y, z = "xyz" if is_odd else ("", "", "")
    equation = f"{summed}{y}{of_first}m,{summed}{z}{of_second}n->{x}{of_first}{of_second}mn"
    full = torch.einsum(f"xyz,{equation}", _epsilon(), a, b) if is_odd else torch.einsum(equation, a, b)
    part = torch.tensordot(projection(result), full.reshape(3**result, *full.shape[-2:]), dims=1)
    metrics = [metric(result), metric(first).inverse(), metric(second).inverse()]
    square = torch.einsum("kmn,lop,kl,mo,np->", part, part, *metrics)
    coefficients = part * math.sqrt((2 * result + 1) / float(square))
    return torch.where(coefficients.abs() < 1e-12, 0.0, coefficients)


def _epsilon() -> Tensor:
    """Return the antisymmetric tensor (3, 3, 3) with epsilon_xyz = 1."""
    epsilon = torch.zeros(3, 3, 3, dtype=torch.float64)
    for x, y, z in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        epsilon[x, y, z], epsilon[x, z, y] = 1.0, -1.0
    return epsilon
