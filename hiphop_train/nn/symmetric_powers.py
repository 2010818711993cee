"""Symmetric products of several tensors of one atom, coupled to a tensor of any rank.

A product of nu tensors A^l of the same atom and feature, coupled to rank L, is a multigraph as in `nn.contractions`: a
vertex per tensor, a bond per index summed over, and one further vertex of rank L whose bonds are the free indices; the
result is the symmetric traceless part in these. Since all factors are taken from the same tensors, graphs that differ
in the order of their vertices are the same polynomial. Those that span all polynomials of a degree are chosen by rank.
They are the basis of ACE's and MACE's products (Phys. Rev. B 99, 014104; arXiv 2206.07697, eq. 10), irredundant:
for l_max 3 and degree 3, mace-torch's 23 weights of scalars multiply 8 different polynomials.
"""

import math
from functools import cache
from itertools import combinations_with_replacement, permutations
from typing import List, Sequence, Tuple

import torch
from torch import Tensor, nn

from hiphop_train.nn.contractions import Contraction, all_bonds, cheapest_first
from hiphop_train.nn.couplings import embedding, metric, projection
from hiphop_train.nn.tensors import full_tensor


@cache
def symmetric_powers(l_max: int, degree: int, rank: int) -> List[Contraction]:
    """Return graphs whose polynomials are a basis of the products of a degree.

    Parameters
    ----------
    l_max : highest rank of the tensors
    degree : number of factors
    rank : of the result

    Returns
    -------
    contractions : with ``degree`` vertices of ascending rank and, if `rank` is not 0, that of the result behind them
    """
    found: List[Contraction] = []
    seen: set[Contraction] = set()
    free = (rank,) if rank > 0 else ()
    for ranks in combinations_with_replacement(range(l_max + 1), degree):
        for bonds in all_bonds(ranks + free):
            contraction = Contraction(ranks + free, bonds)
            if contraction not in seen:
                seen |= {contraction.part(order) for order in _orders(ranks, len(free))}
                found.append(contraction)
    found.sort(key=cheapest_first)
    generator = torch.Generator().manual_seed(0)
    n_samples = 4 * len(found) + 100
    components = torch.randn((l_max + 1) ** 2, n_samples, dtype=torch.float64, generator=generator)
    tensors: List[Tensor] = [full_tensor(components[k * k : (k + 1) ** 2], k) for k in range(l_max + 1)]
    chosen: List[Contraction] = []
    basis = torch.zeros(0, (2 * rank + 1) * n_samples, dtype=torch.float64)
    for contraction in found:
        rest = projected(contraction, rank, tensors).flatten()
        rest = rest / rest.norm()
        for _ in range(2):  # twice, against rounding
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() > 1e-6:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen.append(contraction)
    return chosen


def _orders(ranks: Tuple[int, ...], n_free: int) -> List[Tuple[int, ...]]:
    """Return the orders of the factors that leave their ranks ascending; the vertex of the result stays last."""
    last = tuple(range(len(ranks), len(ranks) + n_free))
    return [order + last for order in permutations(range(len(ranks))) if tuple(ranks[k] for k in order) == ranks]


def equation(contraction: Contraction, rank: int, labels: str = "") -> str:
    """Write a product for `torch.einsum`: the factors' indices, then those of the result first.

    Parameters
    ----------
    contraction : from `symmetric_powers`
    rank : of the result
    labels : a letter of a further axis of each factor and of the result; by default further axes are elementwise
    """
    indices = contraction.indices()
    factors, result = (indices[:-1], indices[-1]) if rank > 0 else (indices, "")
    if labels:
        return ",".join(index + label for index, label in zip(factors, labels)) + f"->{result}{labels}"
    return ",".join(f"{index}..." for index in factors) + f"->{result}..."


def factor_ranks(contraction: Contraction, rank: int) -> Tuple[int, ...]:
    """Return the ranks of a product's factors."""
    return contraction.ranks[:-1] if rank > 0 else contraction.ranks


def normalisation(contraction: Contraction, rank: int) -> float:
    """Return the factor that makes the mean square of a product's components 1, as that of its independent factors."""
    ranks = factor_ranks(contraction, rank)
    factors = [embedding(k).reshape([3] * k + [-1]) for k in ranks]
    full = torch.einsum(equation(contraction, rank, "ABCDEF"[: len(ranks)]), factors)
    part = (projection(rank) @ full.reshape(3**rank, -1)).reshape(-1, *full.shape[rank:])
    dual = torch.tensordot(metric(rank), part, dims=1)
    for k in ranks:
        dual = torch.tensordot(dual, metric(k).inverse(), dims=([1], [0]))  # axis 1 moves to the end, in turn
    return math.sqrt((2 * rank + 1) / float((part * dual).sum()))


def projected(contraction: Contraction, rank: int, tensors: List[Tensor]) -> Tensor:
    """Evaluate a product.

    Parameters
    ----------
    contraction : from `symmetric_powers`
    rank : of the result
    tensors : [(3, ..., 3, ...)] of rank 0, 1, 2 ..., all components

    Returns
    -------
    product : (2 rank + 1, ...), free components
    """
    factors = [tensors[k] for k in factor_ranks(contraction, rank)]
    full = torch.einsum(equation(contraction, rank), factors)
    part: Tensor = torch.tensordot(projection(rank).to(full), full.reshape(3**rank, *full.shape[rank:]), dims=1)
    return part


class PowersOfRank(nn.Module):
    """Weighted sum of the products that are coupled to one rank.

    Parameters
    ----------
    l_max, correlation, n_types, width : see `SymmetricPowers`
    rank : of the results
    """

    projection: Tensor

    def __init__(self, l_max: int, correlation: int, rank: int, n_types: int, width: int) -> None:
        super().__init__()
        of_degree = [symmetric_powers(l_max, degree, rank) for degree in range(1, correlation + 1)]
        self.rank = rank
        self.products = [contraction for each in of_degree for contraction in each]
        self.factors = [list(factor_ranks(contraction, rank)) for contraction in self.products]
        self.equations = [equation(contraction, rank) for contraction in self.products]
        self.norms = [normalisation(contraction, rank) for contraction in self.products]
        scale = torch.cat([torch.full((len(each),), 1.0 / max(len(each), 1)) for each in of_degree])
        self.weight = nn.Parameter(torch.randn(n_types, len(self.products), width) * scale[:, None])
        self.register_buffer("projection", projection(rank), persistent=False)

    def forward(self, tensors: List[Tensor], species: Tensor) -> Tensor:
        """Evaluate.

        Parameters
        ----------
        tensors : [(3, ..., 3, n_atoms, width)] of rank 0, 1, 2 ..., all components
        species : (n_atoms,)

        Returns
        -------
        sum : (n_atoms, 2 rank + 1, width), free components
        """
        weight = self.weight.index_select(0, species)  # (n_atoms, n_products, width)
        n_atoms, width = species.shape[0], weight.shape[2]
        sums = torch.zeros([int(3**self.rank), n_atoms, width], dtype=weight.dtype, device=weight.device)
        for k, equation in enumerate(self.equations):
            product = torch.einsum(equation, [tensors[rank] for rank in self.factors[k]])
            sums = sums + self.norms[k] * weight[:, k] * product.reshape(sums.shape)
        free: Tensor = torch.tensordot(self.projection, sums, dims=1)
        return free.transpose(0, 1)


class SymmetricPowers(nn.Module):
    """Sums of products of an atom's tensors, feature by feature, with weights for each species of the atom.

    B^L_i = sum over degrees and products of W_z (A_i ... A_i)^L (arXiv 2206.07697, eq. 10 and 11)

    Parameters
    ----------
    l_max : highest rank of the given true tensors
    correlation : highest degree
    ranks : of the results
    n_types : number of species
    width : number of features
    """

    def __init__(self, l_max: int, correlation: int, ranks: Sequence[int], n_types: int, width: int) -> None:
        super().__init__()
        self.l_max, self.correlation = l_max, correlation
        self.powers = nn.ModuleList(PowersOfRank(l_max, correlation, rank, n_types, width) for rank in ranks)

    def forward(self, tensors: List[Tensor], species: Tensor) -> List[Tensor]:
        """Evaluate.

        Parameters
        ----------
        tensors : [(n_atoms, 2 l + 1, width)] of rank 0 to l_max, free components
        species : (n_atoms,)

        Returns
        -------
        powers : [(n_atoms, 2 L + 1, width)] of each rank of the results
        """
        full: List[Tensor] = []
        for rank, free in enumerate(tensors):
            full.append(full_tensor(free.transpose(0, 1), rank))
        return [powers(full, species) for powers in self.powers]
