"""Search for minimal sets of invariants that remain complete where tensors vanish.

The invariants are the connected contractions of `nn.contractions` up to a number of tensors. They are independent if
their gradients at a generic point are, so the number of independent ones is the rank of the Jacobian with respect to
all (l_max + 1)^2 free components. A set is complete if its rank is the number of components minus the number of
rotations that change them. Where local symmetry makes a tensor vanish, all contractions with it vanish too. A set is
flexible if its remaining members then have the rank of all remaining invariants, with respect to the remaining
components (Langbein and Hagen, "A generalization of moment invariants on 2D vector fields to tensor fields of arbitrary
order and dimension", 2009; arXiv 2503.21939, 2503.23515).

Which invariants remain depends only on the tensors in them, so flexible sets are built bottom-up: for every set of
tensors, smaller sets first, add invariants of exactly these tensors until the rank is that of all. The invariants
chosen for smaller sets of tensors already have the same span as all of those, so the number to add does not depend on
the choice: the result is a flexible set of minimal size.
"""

from collections.abc import Callable
from functools import cache
from itertools import combinations, product
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hiphop_train.nn.contractions import Contraction, connected_contractions
from hiphop_train.nn.tensors import component_index

Array = NDArray[np.float64]

INDEPENDENT = 1e-8
"""Smallest component of a unit gradient outside the span of the others for it to be independent. For up to five tensors
of rank up to 5, at a dozen points, all components were above 1e-5 or below 1e-11."""


class Rank(NamedTuple):
    """Number of independent invariants for a subset of nonvanishing tensors."""

    present: frozenset[int]
    """Ranks of the tensors that do not vanish, without rank 0, which never does."""
    chosen: int
    """Rank of the chosen invariants."""
    reached: int
    """Rank of all invariants up to the same number of tensors."""
    dimension: int
    """Upper bound on the rank: the number of components minus that of rotations."""


@cache
def expansion(rank: int) -> Array:
    """Matrix from the free to all components of a symmetric traceless tensor: (3^rank, 2 rank + 1)."""
    rows = []
    for index in product(range(3), repeat=rank):
        row = np.zeros(2 * rank + 1)
        n_x, n_z = index.count(0), index.count(2)
        for k in range(n_z // 2 + 1):  # each pair of z is -xx - yy
            row[component_index(rank, n_x + 2 * k, n_z % 2) - rank * rank] = (-1) ** (n_z // 2) * comb(n_z // 2, k)
        rows.append(row)
    return np.array(rows)


def gradients(
    contractions: list[Contraction], l_max: int, seed: int = 0, advance: Callable[[int], None] = lambda _: None
) -> Array:
    """Normalised gradients of contractions at a random point.

    Parameters
    ----------
    contractions : without free indices
    l_max : highest rank
    seed : of the point
    advance : progress callback, called with 1 after each contraction

    Returns
    -------
    rows : (n_contractions, (l_max + 1)^2)
    """
    generator = np.random.default_rng(seed)
    tensors = [
        (expansion(rank) @ generator.normal(size=2 * rank + 1)).reshape((3,) * rank) for rank in range(l_max + 1)
    ]
    rows = np.zeros((len(contractions), (l_max + 1) ** 2))
    for row, contraction in zip(rows, contractions, strict=True):
        indices = contraction.indices()
        for vertex, rank in enumerate(contraction.ranks):
            others = [k for k in range(len(indices)) if k != vertex]
            equation = ",".join(indices[k] for k in others) + "->" + indices[vertex]
            factors = [tensors[contraction.ranks[k]] for k in others]
            partial = np.einsum(equation, *factors, optimize="greedy") if factors else np.ones(())
            row[rank * rank : (rank + 1) ** 2] += partial.reshape(-1) @ expansion(rank)
        row /= np.linalg.norm(row)
        advance(1)
    return rows


class Span:
    """Span of gradients, as an orthonormal basis that grows."""

    def __init__(self, size: int) -> None:
        self.basis = np.zeros((0, size))
        self.doubt = 0.0
        """Ratio of the least clear component to the threshold, or its inverse; the smaller of the two."""

    def add(self, row: Array) -> bool:
        """Add a row of length one; return whether it is independent."""
        for _ in range(2):
            row = row - self.basis.T @ (self.basis @ row)
        size = float(np.linalg.norm(row))
        self.doubt = max(self.doubt, min(size, INDEPENDENT) / max(size, INDEPENDENT))
        if size < INDEPENDENT:
            return False
        self.basis = np.vstack([self.basis, row / size])
        return True


@cache
def flexible_invariants(l_max: int, n_max: int) -> list[Contraction]:
    """Smallest set that has the rank of all invariants whichever tensors vanish, with simple invariants preferred.

    Parameters
    ----------
    l_max : highest rank of a tensor
    n_max : highest number of tensors in an invariant
    """
    everything = connected_contractions(l_max, n_max)
    chosen, _ = choose(everything, gradients(everything, l_max))
    return chosen


def choose(everything: list[Contraction], rows: Array) -> tuple[list[Contraction], float]:
    """Choose a flexible set.

    Parameters
    ----------
    everything : all invariants, the preferred ones first
    rows : their gradients

    Returns
    -------
    chosen : in the order of `everything`
    doubt : see `Span`; small if all decisions were clear
    """
    present = [frozenset(contraction.ranks) - {0} for contraction in everything]
    chosen: list[int] = []
    doubt = 0.0
    for tensors in sorted(set(present), key=len):
        span = Span(rows.shape[1])
        for k in chosen:
            if present[k] < tensors:
                span.add(rows[k])
        chosen += [k for k in range(len(rows)) if present[k] == tensors and span.add(rows[k])]
        doubt = max(doubt, span.doubt)
    return [everything[k] for k in sorted(chosen)], doubt


def ranks(chosen: list[Contraction], everything: list[Contraction], rows: Array, l_max: int) -> list[Rank]:
    """Compare the rank of a set of invariants with that of all, for every set of nonvanishing tensors.

    Parameters
    ----------
    chosen : the set
    everything : all invariants, including the chosen ones
    rows : gradients of all
    l_max : highest rank of a tensor
    """
    table = []
    for size in range(l_max, -1, -1):
        for tensors in map(frozenset, combinations(range(1, l_max + 1), size)):
            left = [k for k, contraction in enumerate(everything) if set(contraction.ranks) - {0} <= tensors]
            reached = _rank(rows[left])
            among_chosen = _rank(rows[[k for k in left if everything[k] in chosen]])
            table.append(Rank(tensors, among_chosen, reached, dimension(tensors)))
    return table


def dimension(present: frozenset[int]) -> int:
    """Number of components of s and of the tensors present, minus the number of rotations that change them."""
    changing_rotations = 0 if not present else 2 if present == {1} else 3
    return 1 + sum(2 * rank + 1 for rank in present) - changing_rotations


def _rank(rows: Array) -> int:
    span = Span(rows.shape[1])
    return sum(span.add(row) for row in rows)
