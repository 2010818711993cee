"""Behler-Parrinello: atom-centred symmetry functions, for element-specific networks.

Behler, Parrinello, Phys. Rev. Lett. 98, 146401 (2007); the five forms as in Behler, J. Chem. Phys. 134, 074106 (2011).
"""

from typing import Annotated, List, Tuple

import torch
from pydantic import Field
from torch import Tensor

from hiphop_train.errors import ConfigError
from hiphop_train.graph.segments import segment_sum, segment_sum_of_columns
from hiphop_train.graph.triples import triples_within
from hiphop_train.models.base import Representation
from hiphop_train.nn.channels import functions_of_features, species_pair_index
from hiphop_train.nn.cutoffs import cosine_cutoff
from hiphop_train.nn.gaussians import gaussian
from hiphop_train.nn.powers import integer_power
from hiphop_train.types import Graph

Two = Annotated[List[float], Field(min_length=2, max_length=2)]
Three = Annotated[List[float], Field(min_length=3, max_length=3)]


def check_eta(eta: float, key: str) -> None:
    """Refuse a Gaussian that grows with distance."""
    if eta < 0:
        raise ConfigError(f"model.{key}: eta={eta} is negative; the function would grow with the distance")


def check_angular(eta: float, zeta: float, sign: float, key: str) -> None:
    """Refuse meaningless values of an angular function, and those without a second derivative for collinear atoms."""
    check_eta(eta, key)
    if zeta < 1 or zeta != round(zeta):
        raise ConfigError(f"model.{key}: zeta={zeta}; must be 1, 2, 3 ... in [eta, zeta, lambda]")
    if abs(sign) != 1:
        raise ConfigError(f"model.{key}: lambda={sign}; must be 1 or -1 in [eta, zeta, lambda]")


Functions = Tuple[List[float], List[int], List[List[int]]]
"""Distinct values of eta and of zeta, and for each eta the rows of its functions among the powers (two rows per zeta,
for lambda = 1 and -1)."""


def sorted_functions(functions: List[List[float]]) -> Tuple[Functions, List[int]]:
    """Sort functions [eta, zeta, lambda], grouped by eta.

    Returns
    -------
    functions : sorted
    order : (n_functions,), index of each given function among them
    """
    etas = sorted({eta for eta, _, _ in functions})
    zetas = sorted({int(zeta) for _, zeta, _ in functions})
    rows: List[List[int]] = [[] for _ in etas]
    given = sorted(range(len(functions)), key=lambda n: (functions[n][0], functions[n][1], -functions[n][2]))
    for n in given:
        eta, zeta, sign = functions[n]
        rows[etas.index(eta)].append(2 * zetas.index(int(zeta)) + int(sign < 0))
    return (etas, zetas, rows), [given.index(n) for n in range(len(functions))]


class BehlerParrinello(Representation):
    """Atom-centred symmetry functions (JCP 134, 074106, eqs. 5 to 9) with the cosine cutoff f_c (eq. 4).

    With one channel per species of the neighbours j:
    G1 = sum_j f_c(r_ij);
    G2 = sum_j exp(-eta (r_ij - r_s)^2) f_c(r_ij);
    G3 = sum_j cos(kappa r_ij) f_c(r_ij).
    With one channel per unordered pair of species of the neighbours j and k:
    G4 = 2^(1 - zeta) sum_{j<k} (1 + lambda cos(theta_ijk))^zeta exp(-eta (r_ij^2 + r_ik^2 + r_jk^2))
    f_c(r_ij) f_c(r_ik) f_c(r_jk);
    G5 = the same without the factors of r_jk.

    Parameters
    ----------
    elements : type names
    cutoff : of all functions, Angstrom
    g1 : whether G1 is used
    g2 : [eta, r_s] of each G2, 1/Angstrom^2 and Angstrom
    g3 : kappa of each G3, 1/Angstrom
    g4 : [eta, zeta, lambda] of each G4, eta in 1/Angstrom^2, zeta an integer, lambda 1 or -1
    g5 : the same of each G5
    standardise : whether the functions are centred and scaled by their statistics over the training structures; without
        it, networks hardly train, since magnitudes differ so much
    """

    eta2: Tensor
    shift2: Tensor
    kappa3: Tensor
    angular_order: Tensor
    angular4: Functions
    angular5: Functions
    pair_channel: Tensor

    def __init__(
        self,
        elements: List[str],
        cutoff: Annotated[float, Field(gt=0)],
        g1: bool,
        g2: List[Two],
        g3: List[float],
        g4: List[Three],
        g5: List[Three],
        standardise: bool = True,
    ) -> None:
        for eta, _ in g2:
            check_eta(eta, "g2")
        for key, angular in (("g4", g4), ("g5", g5)):
            for eta, zeta, sign in angular:
                check_angular(eta, zeta, sign, key)
        n_radial, n_angular = int(g1) + len(g2) + len(g3), len(g4) + len(g5)
        if n_radial + n_angular == 0:
            raise ConfigError("model.g1 is false and model.g2 to model.g5 are empty; give at least one function")
        n_types = len(elements)
        n_pair_types = n_types * (n_types + 1) // 2
        functions = functions_of_features(n_types, n_radial, n_angular)
        super().__init__(elements, cutoff, [len(functions)], functions if standardise else None, (n_radial, n_angular))
        self.n_types = n_types
        self.n_pair_types = n_pair_types
        self.n_angular = n_angular
        self.has_g1 = g1
        self.has_g4, self.has_g5 = len(g4) > 0, len(g5) > 0
        self.angular4, order4 = sorted_functions(g4)
        self.angular5, order5 = sorted_functions(g5)
        constants = {
            "shift2": [shift for _, shift in g2],
            "eta2": [eta for eta, _ in g2],
            "kappa3": g3,
        }
        for name, values in constants.items():  # not in the state dict: they are in the configuration
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64), persistent=False)
        order = torch.tensor([*order4, *(len(g4) + index for index in order5)], dtype=torch.int64)
        self.register_buffer("angular_order", order, persistent=False)
        self.register_buffer("pair_channel", species_pair_index(n_types), persistent=False)

    def forward(self, graph: Graph) -> List[Tensor]:
        """Return all functions (n_atoms, n_features): G1 to G3 by species, then G4 and G5 by pair of species."""
        n_atoms = graph.species.shape[0]
        distance = torch.linalg.norm(graph.pair_vectors, dim=1)
        sender = graph.species[graph.pair_j]
        channel = graph.pair_i * self.n_types + sender
        radial = segment_sum(self.radial(distance), channel, n_atoms * self.n_types).reshape(n_atoms, -1)
        if self.n_angular == 0:
            return [radial]
        j, k = triples_within(graph, self.cutoff).unbind()  # (n_triples,) the two pairs of each triple
        pairs = self.pair_terms(graph.pair_vectors, distance)
        angular = segment_sum_of_columns(
            self.angular(pairs.index_select(1, j), pairs.index_select(1, k)),
            self.triple_channel(graph.pair_i, sender, j, k),
            n_atoms * self.n_pair_types,
        )
        angular = angular.index_select(0, self.angular_order).t().reshape(n_atoms, -1)
        return [torch.cat([radial, angular], dim=1)]

    def pair_terms(self, vectors: Tensor, distance: Tensor) -> Tensor:
        """Return vector in Angstrom, 1/r, r^2 and f_c of each pair (6, n_pairs), for the angular functions."""
        scalars = torch.stack([1.0 / distance, distance.square(), cosine_cutoff(distance, self.cutoff)])
        return torch.cat([vectors.t(), scalars])

    def triple_channel(self, pair_i: Tensor, sender: Tensor, j: Tensor, k: Tensor) -> Tensor:
        """Return the channel of each triple (n_triples,): atom * n_pair_types + pair of species."""
        return pair_i[j] * self.n_pair_types + self.pair_channel[sender[j], sender[k]]

    def radial(self, distance: Tensor) -> Tensor:
        """Return the terms of G1, G2, G3 (n_pairs, n_radial) for distances (n_pairs,)."""
        r, cutoff = distance[:, None], cosine_cutoff(distance, self.cutoff)[:, None]
        radial = gaussian(self.eta2 * (r - self.shift2).square()) * cutoff
        wave = torch.cos(self.kappa3 * r) * cutoff
        return torch.cat([cutoff, radial, wave] if self.has_g1 else [radial, wave], dim=1)

    def angular(self, pair_j: Tensor, pair_k: Tensor) -> Tensor:
        """Return the terms of G4 and G5.

        Parameters
        ----------
        pair_j, pair_k : (6, n_triples), `pair_terms` of the two pairs of each triple

        Returns
        -------
        terms : (n_angular, n_triples), G4 then G5, each in the order of `sorted_functions`
        """
        cosine = (pair_j[:3] * pair_k[:3]).sum(0) * (pair_j[3] * pair_k[3])  # (n_triples,)
        squares = pair_j[4] + pair_k[4]
        cutoff = 2.0 * pair_j[5] * pair_k[5]
        bases = torch.stack([0.5 + 0.5 * cosine, 0.5 - 0.5 * cosine])
        terms: List[Tensor] = []
        if self.has_g4:
            third_square = (pair_k[:3] - pair_j[:3]).square().sum(0)
            third = torch.sqrt(third_square.clamp(min=1e-30))  # finite slope where two neighbours coincide
            all_three = cutoff * cosine_cutoff(third, self.cutoff)
            terms.append(products(self.angular4, bases, squares + third_square, all_three))
        if self.has_g5:
            terms.append(products(self.angular5, bases, squares, cutoff))
        return torch.cat(terms)


def products(functions: Functions, bases: Tensor, squares: Tensor, cutoff: Tensor) -> Tensor:
    """Return ((1 + lambda cos(theta)) / 2)^zeta exp(-eta sum of squares) f_c.

    Parameters
    ----------
    functions : from `sorted_functions`
    bases : (2, n_triples), (1 + lambda cos(theta)) / 2 for lambda 1 and -1
    squares : (n_triples,) Angstrom^2
    cutoff : (n_triples,)

    Returns
    -------
    terms : (n_functions, n_triples)
    """
    etas, zetas, rows = functions
    powers = torch.cat([integer_power(bases, zeta) for zeta in zetas])
    everything = list(range(powers.shape[0]))
    terms: List[Tensor] = []
    for eta, chosen in zip(etas, rows):
        angle = powers if chosen == everything else torch.stack([powers[row] for row in chosen])
        terms.append(angle * (gaussian(eta * squares) * cutoff))
    return torch.cat(terms)
