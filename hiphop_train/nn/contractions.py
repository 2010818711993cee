"""Contractions of symmetric traceless tensors, as multigraphs.

A vertex of rank l is the tensor of rank l; a bond between two vertices is an index summed over both. A contraction is
written as a product, ``v_i v_j q_ij``; the tensors of rank 0, 1, 2 ... are called s, v, q, t, h, u. Since the tensors
are symmetric, only the number of bonds between two vertices matters; since they are traceless, no bond connects a
vertex to itself.
"""

import string
from collections.abc import Iterator
from functools import cache
from itertools import combinations, combinations_with_replacement, permutations
from typing import NamedTuple

NAMES = "svqthu"
"""Names of the tensors by rank."""


class Contraction(NamedTuple):
    """Product of tensors with indices summed in pairs; other indices are free. Compare only `canonical` ones.

    Attributes
    ----------
    ranks : of the vertices, ascending
    bonds : number of bonds between vertices 0 and 1, 0 and 2 ... 1 and 2 ..., in the order of `pairs`
    """

    ranks: tuple[int, ...]
    bonds: tuple[int, ...]

    def free_indices(self) -> list[int]:
        """Number of indices of each vertex that are not summed over."""
        left = list(self.ranks)
        for (first, second), count in zip(pairs(len(self.ranks)), self.bonds, strict=True):
            left[first] -= count
            left[second] -= count
        return left

    def part(self, vertices: tuple[int, ...]) -> "Contraction":
        """Product of a subset of the vertices; bonds to the others become free indices. Not canonical."""
        index = bond_index(len(self.ranks))
        bonds = tuple(self.bonds[index[pair]] for pair in combinations(vertices, 2))
        return Contraction(tuple(self.ranks[vertex] for vertex in vertices), bonds)

    def is_connected(self) -> bool:
        """Whether the graph is connected, so that the contraction is not a product of two others."""
        reached = {0}
        for _ in self.ranks:
            for pair, count in zip(pairs(len(self.ranks)), self.bonds, strict=True):
                if count and reached & set(pair):
                    reached |= set(pair)
        return len(reached) == len(self.ranks)

    def indices(self) -> list[str]:
        """Name the summed indices of each vertex: ij, ik, jk for q_ij q_ik q_jk."""
        letters = iter(string.ascii_lowercase[8:] + string.ascii_lowercase[:8])  # i, j, k ...
        found = [""] * len(self.ranks)
        for (first, second), count in zip(pairs(len(self.ranks)), self.bonds, strict=True):
            for letter in [next(letters) for _ in range(count)]:
                found[first] += letter
                found[second] += letter
        return found

    def equation(self) -> str:
        """Write a contraction without free indices for `torch.einsum`, elementwise over further axes."""
        return ",".join(f"{index}..." for index in self.indices()) + "->..."

    def __str__(self) -> str:
        """Write as a product."""
        return " ".join(
            f"{NAMES[rank]}_{index}" if index else NAMES[rank]
            for rank, index in zip(self.ranks, self.indices(), strict=True)
        )


@cache
def pairs(n_vertices: int) -> list[tuple[int, int]]:
    """All pairs of vertices, ascending."""
    return list(combinations(range(n_vertices), 2))


@cache
def bond_index(n_vertices: int) -> dict[tuple[int, int], int]:
    """Map from a pair of vertices, in either order, to its index in `pairs`."""
    return {pair: k for k, (a, b) in enumerate(pairs(n_vertices)) for pair in ((a, b), (b, a))}


@cache
def ascending_orders(ranks: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All orders of the vertices in which their ranks ascend; vertex number k is then order[k]."""
    ordered = sorted(ranks)
    return [order for order in permutations(range(len(ranks))) if [ranks[vertex] for vertex in order] == ordered]


def canonical(contraction: Contraction) -> Contraction:
    """Return one representative of the contractions that differ in the order of their factors only."""
    return max(contraction.part(order) for order in ascending_orders(contraction.ranks))


@cache
def n_symmetries(contraction: Contraction) -> int:
    """Number of permutations of the vertices that leave the contraction unchanged."""
    return sum(contraction.part(order) == contraction for order in ascending_orders(contraction.ranks))


def parse(product: str) -> Contraction:
    """Parse the format of ``str``; factors and names of the indices may be in any order."""
    factors = [factor.partition("_") for factor in product.split()]
    ranks = tuple(NAMES.index(name) for name, _, _ in factors)
    bonds = tuple(sum(factors[a][2].count(letter) for letter in factors[b][2]) for a, b in pairs(len(factors)))
    return canonical(Contraction(ranks, bonds))


def connected_contractions(l_max: int, n_max: int) -> list[Contraction]:
    """All connected contractions without free indices, each once.

    Parameters
    ----------
    l_max : highest rank of a tensor
    n_max : highest number of tensors in a product

    Returns
    -------
    contractions : canonical; sorted by number of vertices, then of bonds, then most multiple bonds first, which are
        the cheapest to evaluate
    """
    found = [Contraction((0,), ())]
    seen: set[Contraction] = set()
    for n_vertices in range(2, n_max + 1):
        for ranks in combinations_with_replacement(range(1, l_max + 1), n_vertices):
            for bonds in all_bonds(ranks):
                contraction = Contraction(ranks, bonds)
                if contraction not in seen and contraction.is_connected():
                    same = {contraction.part(order) for order in ascending_orders(ranks)}
                    seen |= same
                    found.append(max(same))
    return sorted(found, key=cheapest_first)


def cheapest_first(contraction: Contraction) -> tuple[int, int, int, Contraction]:
    """Key by which contractions are sorted: few vertices, few bonds, then multiple bonds first."""
    multiplicity = sum(count * count for count in contraction.bonds)
    return len(contraction.ranks), sum(contraction.ranks), -multiplicity, contraction


def all_bonds(free: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All ways to use up the free indices of the vertices by bonds, in the order of `pairs`."""
    first, others = free[0], free[1:]
    if not others and first == 0:
        yield ()
    for counts in _shares(first, others) if others else ():
        for rest in all_bonds(tuple(index - count for index, count in zip(others, counts, strict=True))):
            yield counts + rest


def _shares(total: int, limits: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All ways to distribute a total over entries with upper limits."""
    if not limits:
        if total == 0:
            yield ()
        return
    for count in range(min(total, limits[0]), -1, -1):
        for rest in _shares(total - count, limits[1:]):
            yield (count, *rest)
