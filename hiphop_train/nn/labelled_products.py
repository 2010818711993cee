"""Invariant products of several tensors that carry labels, each independent one once.

A product is a multigraph as in `nn.contractions`, whose vertices are chosen from several tensors of their rank, by
label. Products that differ in the order of their factors are the same, and some are sums of others (in three dimensions
too many indices cannot all be different): of the products of the same tensors a linearly independent set is chosen by
rank. They span the invariant polynomials of the atomic cluster expansion, which couples spherical components by
generalised Clebsch-Gordan coefficients instead (Drautz, Phys. Rev. B 99, 014104; Dusson et al., arXiv 1911.03550).
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations_with_replacement, groupby, permutations
from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor, nn

from hiphop_train.nn.contractions import Contraction, all_bonds, ascending_orders, cheapest_first
from hiphop_train.nn.symmetric_powers import normalisation
from hiphop_train.nn.tensors import full_tensor

Label = Tuple[int, int]
"""Rank of a tensor, and its index among those of this rank."""

INDEPENDENT = 1e-6
"""Smallest part of a normalised product outside the span of the others for it to be independent."""


class LabelledProducts(NamedTuple):
    """Products that share a graph.

    Attributes
    ----------
    contraction : canonical, without free indices
    labels : of each product, the index of the tensor at each vertex
    """

    contraction: Contraction
    labels: List[Tuple[int, ...]]


@cache
def independent_products(ranks: Tuple[int, ...], labels: Tuple[int, ...]) -> List[Tuple[Contraction, Tuple[int, ...]]]:
    """Return a basis of the invariant products of given tensors.

    Parameters
    ----------
    ranks : of the factors, ascending
    labels : ascending among factors of equal rank; factors of equal rank and label are the same tensor

    Returns
    -------
    products : canonical contraction, and which factor is at each of its vertices
    """
    n_factors = len(ranks)
    tensors = list(zip(ranks, labels, strict=True))
    same = [
        order for order in permutations(range(n_factors)) if all(tensors[k] == tensors[i] for i, k in enumerate(order))
    ]
    found: List[Contraction] = []
    seen: set[Contraction] = set()
    for bonds in all_bonds(ranks):
        contraction = Contraction(ranks, bonds)
        if contraction not in seen:
            seen |= {contraction.part(order) for order in same}
            found.append(contraction)
    found.sort(key=cheapest_first)
    generator = torch.Generator().manual_seed(0)
    n_samples = 2 * len(found) + 20
    values = {
        tensor: full_tensor(
            torch.randn(2 * tensor[0] + 1, n_samples, dtype=torch.float64, generator=generator), tensor[0]
        )
        for tensor in sorted(set(tensors))
    }
    chosen: List[Tuple[Contraction, Tuple[int, ...]]] = []
    basis = torch.zeros(0, n_samples, dtype=torch.float64)
    for contraction in found:
        rest = torch.einsum(contraction.equation(), [values[tensor] for tensor in tensors])
        rest = rest / rest.norm()
        for _ in range(2):  # twice, against rounding
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() > INDEPENDENT:
            basis = torch.cat([basis, (rest / rest.norm())[None]])
            chosen.append(_canonical(contraction, labels))
    return chosen


def _canonical(contraction: Contraction, labels: Tuple[int, ...]) -> Tuple[Contraction, Tuple[int, ...]]:
    """Return the canonical contraction, and the order of the vertices that leads to it with the lowest labels."""
    orders = ascending_orders(contraction.ranks)
    graph = max(contraction.part(order) for order in orders)
    same = [order for order in orders if contraction.part(order) == graph]
    return graph, min(same, key=lambda order: tuple(labels[k] for k in order))


def labelled_products(order: int, n_labels: Sequence[int]) -> List[LabelledProducts]:
    """Return a basis of the invariant products of a number of tensors, grouped by graph.

    Parameters
    ----------
    order : number of factors
    n_labels : number of tensors of each rank, from 0 up, among which each factor is chosen

    Returns
    -------
    products : cheapest graphs first; those of one graph by ascending labels
    """
    tensors = [(rank, label) for rank, count in enumerate(n_labels) for label in range(count)]
    found: dict[Contraction, List[Tuple[int, ...]]] = {}
    for factors in combinations_with_replacement(tensors, order):
        ranks = tuple(rank for rank, _ in factors)
        if sum(ranks) % 2 or 2 * ranks[-1] > sum(ranks):  # no graph has these ranks
            continue
        pattern = tuple(k for k, (_, same) in enumerate(groupby(factors)) for _ in same)
        for contraction, vertices in independent_products(ranks, pattern):
            found.setdefault(contraction, []).append(tuple(factors[k][1] for k in vertices))
    return [LabelledProducts(graph, sorted(found[graph])) for graph in sorted(found, key=cheapest_first)]


class ProductsOfGraph(nn.Module):
    """Evaluate products that share a graph; no parameters.

    Each is divided by the root of its mean square for independent random factors whose components have mean square 1,
    which makes it that of generalised Clebsch-Gordan coefficients of unit norm, up to sign, where there is only one.

    Parameters
    ----------
    products : with the same graph
    """

    labels: Tensor

    def __init__(self, products: LabelledProducts) -> None:
        super().__init__()
        self.ranks = list(products.contraction.ranks)
        self.equation = products.contraction.equation()
        self.factor = normalisation(products.contraction, 0)
        self.register_buffer("labels", torch.tensor(products.labels).T.contiguous(), persistent=False)

    def forward(self, tensors: List[Tensor]) -> Tensor:
        """Evaluate.

        Parameters
        ----------
        tensors : [(3, ..., 3, n_labels, n_atoms)] of rank 0, 1, 2 ..., all components

        Returns
        -------
        products : (n_products, n_atoms)
        """
        factors: List[Tensor] = []
        for vertex, rank in enumerate(self.ranks):
            factors.append(tensors[rank].index_select(rank, self.labels[vertex]))
        return self.factor * torch.einsum(self.equation, factors)
