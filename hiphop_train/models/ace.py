"""Atomic cluster expansion: a complete set of invariant products of neighbour densities.

Drautz, Phys. Rev. B 99, 014104 (2019); Dusson et al., arXiv 1911.03550; Lysogorskiy et al., npj Comput. Mater. 7, 97
(2021), arXiv 2103.00814; functions, radial functions and truncation are those of the library python-ace 0.4.
"""

import math
from typing import Annotated, List

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum
from hiphop_train.models.base import Representation
from hiphop_train.nn.couplings import harmonics
from hiphop_train.nn.labelled_products import LabelledProducts, ProductsOfGraph, labelled_products
from hiphop_train.nn.radial import bessel_functions
from hiphop_train.nn.tensors import full_tensor
from hiphop_train.types import Graph

HIGHEST_RANK = 5
HIGHEST_ORDER = 6


def orthogonal_bessel_matrix(n_radial: int, cutoff: float) -> Tensor:
    """Return the matrix from sin(k pi r / r_c) / r to the simplified spherical Bessel functions g_n.

    Sums of two neighbouring functions k = n + 1 and n + 2 vanish at the cutoff with zero slope; Gram and Schmidt's
    recurrence makes them orthonormal with the weight r^2 (Kocer, Mason, Erturk, J. Chem. Phys. 150, 154102).

    Parameters
    ----------
    n_radial : number of functions g_n, n = 0, 1 ...
    cutoff : r_c, Angstrom

    Returns
    -------
    matrix : (n_radial + 1, n_radial) float64
    """
    matrix = torch.zeros(n_radial + 1, n_radial, dtype=torch.float64)
    d = 1.0
    for n in range(n_radial):
        a, b = n + 1.0, n + 2.0
        size = (-1) ** n * math.sqrt(2.0) * math.pi / cutoff**1.5 * a * b / math.sqrt(a * a + b * b)
        matrix[n, n] = size * cutoff / (a * math.pi)
        matrix[n + 1, n] = size * cutoff / (b * math.pi)
        if n > 0:
            e = n * n * b * b / (4.0 * a**4 + 1.0)
            before, d = d, 1.0 - e / d
            matrix[:, n] = (matrix[:, n] + math.sqrt(e / before) * matrix[:, n - 1]) / math.sqrt(d)
    return matrix


class ACE(Representation):
    """Products of densities of the neighbours, expanded in radial functions and symmetric traceless tensors.

    A_i^(mu n l) = sum over neighbours j of species mu of g_n(r_ij) Y^l(r_ij), the atomic basis; B_ik are the
    independent invariant products of 1, 2 ... of them, all that the truncation admits (Phys. Rev. B 99, 014104).

    Parameters
    ----------
    elements : type names
    cutoff : r_c, Angstrom
    n_radial_by_order : number of radial functions in products of one, two ... factors
    l_max_by_order : highest rank of the tensors in them
    standardise : whether the functions are centred and scaled by their statistics over the training structures, which
        changes the start and the path of training, but not what the model can represent

    Attributes
    ----------
    products : graphs with the labels of all products, in the order of the features; labels of a rank l count
        species mu and radial function n as mu * n_radial_by_rank[l] + n
    """

    matrix: Tensor

    def __init__(
        self,
        elements: List[str],
        cutoff: PositiveFloat,
        n_radial_by_order: Annotated[List[PositiveInt], Field(min_length=1, max_length=HIGHEST_ORDER)],
        l_max_by_order: Annotated[List[Annotated[NonNegativeInt, Field(le=HIGHEST_RANK)]], Field(min_length=1)],
        standardise: bool = True,
    ) -> None:
        n_radial, l_max = list(n_radial_by_order), list(l_max_by_order)
        check(n_radial, l_max)
        n_types = len(elements)
        n_of_rank = [max(n for n, top in zip(n_radial, l_max) if top >= rank) for rank in range(max(l_max) + 1)]
        products = basis(n_types, n_radial, l_max, n_of_rank)
        functions = functions_of_products(products, n_of_rank)
        names = names_of_products(products, n_of_rank, elements)
        standardised = functions if standardise else None
        super().__init__(elements, cutoff, [len(functions)], standardised, feature_names=names)
        self.n_types, self.n_radial, self.l_max = n_types, max(n_of_rank), max(l_max)
        self.n_radial_by_rank = n_of_rank
        self.products = products
        self.evaluators = nn.ModuleList(ProductsOfGraph(each) for each in products)
        self.register_buffer("matrix", orthogonal_bessel_matrix(self.n_radial, cutoff), persistent=False)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return the functions B (n_atoms, n_functions)."""
        tensors = [full_tensor(free, rank) for rank, free in enumerate(self.environments(graph))]
        return [torch.cat([evaluate(tensors) for evaluate in self.evaluators]).t()]

    def environments(self, graph: Graph) -> List[Tensor]:
        """Return A of each rank, [(2 l + 1, n_types * n_radial_by_rank[l], n_atoms)], free components."""
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        radial = self.radial(distance)
        values = harmonics(graph.pair_vectors / distance[:, None], self.l_max)
        channel = graph.pair_i * self.n_types + graph.species.index_select(0, graph.pair_j)
        found: List[Tensor] = []
        for rank, n_radial in enumerate(self.n_radial_by_rank):
            terms = values[:, rank * rank : (rank + 1) * (rank + 1), None] * radial[:, None, :n_radial]
            sums = segment_sum(terms, channel, n_atoms * self.n_types)
            by_species = sums.reshape(n_atoms, self.n_types, 2 * rank + 1, n_radial)
            found.append(by_species.permute(2, 1, 3, 0).reshape(2 * rank + 1, self.n_types * n_radial, n_atoms))
        return found

    def radial(self, distance: Tensor) -> Tensor:
        """Return g_n (n_pairs, n_radial), Angstrom^(-3/2), of distances (n_pairs,)."""
        functions = bessel_functions(distance, self.cutoff, self.n_radial + 1) @ self.matrix
        return functions * (distance < self.cutoff).to(functions.dtype)[:, None]


def check(n_radial: List[int], l_max: List[int]) -> None:
    """Refuse truncations that make no sense."""
    if len(n_radial) != len(l_max):
        raise ConfigError(
            f"model.n_radial_by_order={n_radial}, model.l_max_by_order={l_max}: "
            f"{len(n_radial)} and {len(l_max)} orders; give both for the same orders, from 1 up"
        )
    if l_max[0] != 0:
        raise ConfigError(
            f"model.l_max_by_order={l_max}: begins with {l_max[0]}, but of single tensors only those of rank 0 are "
            "invariant; begin with 0"
        )


def basis(n_types: int, n_radial: List[int], l_max: List[int], n_of_rank: List[int]) -> List[LabelledProducts]:
    """Return the products of all orders.

    Parameters
    ----------
    n_types : number of species
    n_radial, l_max : of each order
    n_of_rank : number of radial functions of each rank, in the labels of the result
    """
    found: List[LabelledProducts] = []
    for order, (n, top) in enumerate(zip(n_radial, l_max), start=1):
        for graph, labels in labelled_products(order, [n_types * n] * (top + 1)):
            ranks = graph.ranks
            moved = [tuple(k // n * n_of_rank[r] + k % n for k, r in zip(each, ranks)) for each in labels]
            found.append(LabelledProducts(graph, moved))
    return found


def functions_of_products(products: List[LabelledProducts], n_of_rank: List[int]) -> List[int]:
    """Return the index of the function behind each product: the same for all species of the neighbours."""
    index: dict[tuple[object, ...], int] = {}
    found: List[int] = []
    for graph, labels in products:
        for each in labels:
            radial = tuple(sorted((rank, label % n_of_rank[rank]) for rank, label in zip(graph.ranks, each)))
            found.append(index.setdefault((graph, radial), len(index)))
    return found


def names_of_products(products: List[LabelledProducts], n_of_rank: List[int], elements: List[str]) -> List[str]:
    """Name each product by its graph, and the element and radial function of each factor: ``v_i v_i: H0 C1``."""
    found: List[str] = []
    for graph, labels in products:
        for each in labels:
            factors = [divmod(label, n_of_rank[rank]) for rank, label in zip(graph.ranks, each)]
            found.append(f"{graph}: " + " ".join(f"{elements[species]}{n}" for species, n in factors))
    return found
